"""Events of what the IOMMU does, for whoever wants to watch: walks, hits and commands.

They are made only while the trace wants them, and cost nothing otherwise.  While hits
are wanted the requesters keep nothing of their own, so that every access comes past here.

name           facts
iommu.walk     device_id, pasid, iova, access, result, hpa, cause, cause_name, entries
iommu.hit      device_id, pasid, iova, access, hpa
iommu.command  command, operands, outcome

``entries`` counts those of contexts and tables that were read, or set.  ``result`` is
"hpa", "fault" or "question" (of a device's own cache: ATS), ``outcome`` "done",
"illegal", "waits" (a fence) or "memory fault".
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from mdevemu.iommu.caches import Line
from mdevemu.iommu.causes import Access, Fault
from mdevemu.iommu.formats import Ats, Iodir, Iofence, Iotinval, Opcode
from mdevemu.iommu.monitoring import Tally
from mdevemu.iommu.requests import Request
from mdevemu.layout import Word, fields_of
from mdevemu.trace import Trace

T = TypeVar("T")

WALK, HIT, COMMAND = "iommu.walk", "iommu.hit", "iommu.command"
DETAILS = (WALK, HIT, COMMAND)
"""Events that are made only if the trace wants them."""

_COMMANDS: dict[int, tuple[type[Word], tuple[str, str]]] = {
    Opcode.IOTINVAL: (Iotinval, ("IOTINVAL.VMA", "IOTINVAL.GVMA")),
    Opcode.IOFENCE: (Iofence, ("IOFENCE.C", "")),
    Opcode.IODIR: (Iodir, ("IODIR.INVAL_DDT", "IODIR.INVAL_PDT")),
    Opcode.ATS: (Ats, ("ATS.INVAL", "ATS.PRGR")),
}
# An operand that is zero counts if this flag of the command says that it is there.
_FLAGS = {"pscid": "pscv", "gscid": "gv", "did": "dv", "addr": "av", "data": "av", "dseg": "dsv"}


class Observer:
    """Makes the events of one IOMMU.

    Attributes:
        walks, hits, commands: wanted now.
    """

    def __init__(self, trace: Trace, tally: Tally) -> None:
        self._trace = trace
        self._tally = tally
        self.walks = self.hits = self.commands = False

    def switched(self) -> None:
        """What the trace wants has changed."""
        wants = self._trace.wants
        self.walks, self.hits, self.commands = wants(WALK), wants(HIT), wants(COMMAND)

    def request(self, request: Request, answer: Callable[[], T]) -> T:
        """Have a request answered, and tell how.

        Raises:
            Fault: the answer.
        """
        before = dataclasses.replace(self._tally)
        try:
            found = answer()
        except Fault as fault:
            self._walk(
                request,
                before,
                result="fault",
                cause=int(fault.cause),
                cause_name=fault.cause.title,
            )
            raise
        if not isinstance(found, Line):
            self._walk(request, before, result="question")
        elif self._read(before) or self._tally.misses != before.misses:
            self._walk(request, before, result="hpa", hpa=request.iova + found.delta)
        elif self.hits and found.high - found.low < 1 << 64:
            self._trace.emit(HIT, **_who(request), hpa=request.iova + found.delta)
        return found

    def _walk(self, request: Request, before: Tally, **result: object) -> None:
        if self.walks:
            self._trace.emit(WALK, **_who(request), **result, entries=self._read(before))

    def _read(self, before: Tally) -> int:
        """Entries of contexts and tables since then."""
        now = self._tally
        return (
            now.devices
            + now.processes
            + now.first
            + now.second
            - (before.devices + before.processes + before.first + before.second)
        )

    def command(self, raw: int, outcome: str) -> None:
        """A command was fetched, and this came of it."""
        if self.commands:
            name, operands = decode(raw)
            self._trace.emit(COMMAND, command=name, operands=operands, outcome=outcome)


def decode(raw: int) -> tuple[str, dict[str, int]]:
    """The name of a 16-byte command, and its operands as the specification names them.

    Operands that the command does not have are left out.  An unknown command is
    "reserved", with its doublewords.

    Spec: RISC-V IOMMU 1.0, Command-Queue
    """
    kind, names = _COMMANDS.get(raw & 0x7F, (None, ("", "")))
    function = raw >> 7 & 7
    name = names[function] if function < len(names) else ""
    if kind is None or not name:
        return "reserved", {"dw0": raw & (1 << 64) - 1, "dw1": raw >> 64}
    command = kind(raw)
    values = {field: int(getattr(command, field)) for field in fields_of(kind)}
    operands = {
        field: value
        for field, value in values.items()
        if field not in ("opcode", "func3") and (value or values.get(_FLAGS.get(field, ""), 0))
    }
    if name == "IODIR.INVAL_PDT" or values.get("pv"):
        operands["pid"] = values["pid"]
    return name, operands


def _who(request: Request) -> dict[str, object]:
    return {
        "device_id": request.device_id,
        "pasid": request.process_id,
        "iova": request.iova,
        "access": str(Access(request.access).name).lower(),
    }
