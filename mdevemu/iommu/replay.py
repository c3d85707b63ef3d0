"""Holds our IOMMU against recorded answers; see ``vectors``.

Each scenario gets a fresh IOMMU, and software's part is played here: registers, the
command queue, the drained queues.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mdevemu.errors import ConfigError
from mdevemu.iommu.ats import Invalidation, PageRequest, PageResponse, Status
from mdevemu.iommu.causes import Fault
from mdevemu.iommu.formats import FaultHeader, FaultRecord, PageRequestHeader, PageRequestRecord
from mdevemu.iommu.iommu import Iommu
from mdevemu.iommu.registers import (
    Capabilities,
    CommandQueueCsr,
    Index,
    IommuRegisters,
    OwnIndex,
    QueueBase,
)
from mdevemu.iommu.requests import Request
from mdevemu.iommu.vectors import (
    Command,
    Config,
    Drain,
    Message,
    Scenario,
    Store,
    Translate,
    Write,
)
from mdevemu.iommu.walk import Step
from mdevemu.layout import Word, fields_of, sizeof, unpack
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.registers import Reg
from mdevemu.trace import Trace
from mdevemu.units import PAGE, Hpa

STATUS = {
    Status.SUCCESS: "ok",
    Status.UNSUPPORTED_REQUEST: "ur",
    Status.COMPLETER_ABORT: "ca",
}
W = TypeVar("W", bound=Word)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One answer that differs; the rest of its scenario was not replayed.

    Attributes:
        scenario: its name.
        step: its number, from 0; as many as there are for the memory at the end.
        what: differs, ``expected`` against ``got``.
        request: that was answered, if it was one.
        walk: how our IOMMU comes from that request to its answer, entry by entry.
    """

    scenario: str
    step: int
    what: str
    expected: object
    got: object
    request: Request | None
    walk: Sequence[Step]


class _Differs(Exception):
    def __init__(self, what: str, expected: object, got: object) -> None:
        super().__init__(what)
        self.what, self.expected, self.got = what, expected, got


def replay(scenario: Scenario) -> Mismatch | None:
    """Run one scenario up to its first mismatch."""
    bench = Bench(scenario)
    step = -1
    request: Request | None = None
    try:
        for action in scenario.actions:
            step, request = step + 1, None
            if isinstance(action, Translate):
                request = action.request
                bench.translate(action)
            elif isinstance(action, Command):
                bench.command(action)
            elif isinstance(action, Write):
                bench.store(action.stores)
            elif isinstance(action, Message):
                bench.page_request(action)
            else:
                bench.drain(action)
        step, request = step + 1, None
        bench.compare_memory()
    except _Differs as difference:
        walk = [] if request is None else bench.iommu.explain(request)[0]
        return Mismatch(
            scenario.name,
            step,
            difference.what,
            difference.expected,
            difference.got,
            request,
            walk,
        )
    finally:
        bench.close()
    return None


class Bench:
    """One IOMMU, its memory, and the software that drives it."""

    def __init__(self, scenario: Scenario) -> None:
        config = scenario.config
        try:
            self._ram = Ram(config.mem_size)
        except (OSError, ValueError, OverflowError) as error:
            wrong = f"{config.mem_size:#x} bytes of memory cannot be had"
            raise ConfigError(scenario.name, wrong) from error
        self.memory = PhysicalMemory()
        self.memory.add(Hpa(0), self._ram, config.mem_size)
        self.iommu = Iommu(
            self.memory,
            Trace(time.monotonic_ns, depth=1),
            capabilities=Capabilities(config.capabilities),
            fabric=self,
        )
        self._responses: list[PageResponse] = []
        # What memory must hold, in the pages that anything was said about.
        self._wanted: dict[int, bytearray] = {}
        self._start(config)
        self.store(scenario.memory)

    def _start(self, config: Config) -> None:
        regs = IommuRegisters
        self._write(regs.fctl, config.fctl)
        self._write(regs.cqb, config.cqb)
        self._write(regs.cqcsr, 1)
        self._write(regs.fqb, config.fqb)
        self._write(regs.fqcsr, 1)
        self._write(regs.pqb, config.pqb)
        self._write(regs.pqcsr, config.pq_enable)
        self._write(regs.ddtp, config.ddtp)

    def close(self) -> None:
        """Give the memory back."""
        self._ram.close()

    # The devices' side of the fabric.

    def invalidate(self, message: Invalidation) -> bool:
        """No device has a cache."""
        return False

    def respond(self, message: PageResponse) -> None:
        """What the IOMMU answers for software."""
        self._responses.append(message)

    # The steps.

    def store(self, stores: Sequence[Store]) -> None:
        """The processor stores: no cache sees it."""
        for at, data in stores:
            self.memory.write(at, data)
        self._expect(stores)

    def command(self, action: Command) -> None:
        """Queue one command; recover if it stops the queue."""
        regs = IommuRegisters
        base, tail = self._read(regs.cqb), self._read(regs.cqt)
        following = (tail + 1) % (2 << (base & 0x1F))
        self.memory.write((base >> 10 << 12) + tail * 16, action.raw)
        self._write(regs.cqt, following)
        csr = CommandQueueCsr(self._read(regs.cqcsr))
        status = "illegal" if csr.cmd_ill else "memory fault" if csr.cqmf else "ok"
        if csr.cmd_to:
            status = "timeout"
        if status != "ok":
            self._write(regs.cqt, tail)
            self._write(regs.cqcsr, int(csr))
            following = tail
        _same("status of the command", action.status, status)
        _same("cqh", following, self._read(regs.cqh))
        self._expect(action.stores)
        self._compare_stores(action.stores)

    def translate(self, action: Translate) -> None:
        """Ask, and compare the answer, the fault record and what changed in memory."""
        request = action.request
        answer = self._answer(request)
        _same("status", action.status, answer["status"])
        for name, wanted in action.fields.items():
            if name in answer:
                _same(name, wanted, answer[name])
        self._compare_faults(action.records)
        self._expect(action.stores)
        self._compare_stores(action.stores)

    def _answer(self, request: Request) -> dict[str, Any]:
        iova = request.iova
        if not request.asks:
            try:
                line = self.iommu.translate(request)
            except Fault as fault:
                return {"status": "ur", "cause": int(fault.cause)}
            return {"status": "ok", "pa": iova + line.delta, "pbmt": line.pbmt}
        answer = self.iommu.ask(request)
        return {
            "status": STATUS[answer.status],
            "pa": answer.address + iova - answer.low,
            "r": int(answer.read),
            "w": int(answer.write),
            "x": int(answer.execute),
            "priv": int(answer.privileged),
            "global": int(answer.everywhere),
            "u": 0,
            "n": 0,
        }

    def page_request(self, action: Message) -> None:
        """Send a message, and compare what the IOMMU answers by itself."""
        of = action.fields
        self._responses.clear()
        self.iommu.page_request(
            PageRequest(
                rid=of["rid"],
                segment=of["dseg"] if of["dsv"] else None,
                pasid=of["pid"] if of["pv"] else None,
                privileged=bool(of["priv"]),
                execute=bool(of["exec"]),
                payload=of["payload"],
            )
        )
        got = [
            {
                "rid": response.rid,
                "dsv": int(response.segment is not None),
                "dseg": response.segment or 0,
                "pv": int(response.pasid is not None),
                "pid": response.pasid or 0,
                "code": int(response.code),
                "prgi": response.index,
            }
            for response in self._responses
        ]
        _same("responses", list(action.responses), got)
        self._compare_faults(action.records)

    def drain(self, action: Drain) -> None:
        """Take every page request out of its queue, and clear its errors."""
        regs = IommuRegisters
        csr = self._read(regs.pqcsr)
        _same("pqof", action.overflow, csr >> 9 & 1)
        _same("pqmf", action.memory_fault, csr >> 8 & 1)
        got = []
        for data in self._drained(regs.pqb, regs.pqh, regs.pqt, sizeof(PageRequestRecord)):
            record = unpack(PageRequestRecord, data)
            header = PageRequestHeader(record.header)
            fields = {name: int(getattr(header, name)) for name in fields_of(PageRequestHeader)}
            got.append({**fields, "payload": record.payload})
        self._write(regs.pqcsr, csr)
        _same("page requests", list(action.records), got)

    # Comparisons.

    def compare_memory(self) -> None:
        """Every page that anything was said about holds what it must, and nothing else."""
        regs = IommuRegisters
        queues = [(self._read(base) >> 10 << 12) for base in (regs.cqb, regs.fqb, regs.pqb)]
        for page, wanted in self._wanted.items():
            start = page * PAGE
            if start in queues:
                continue
            got = self.memory.read(start, len(wanted))
            if got != wanted:
                at = next(n for n, byte in enumerate(got) if byte != wanted[n]) & ~7
                _same(
                    f"memory at {start + at:#x}", wanted[at : at + 8].hex(), got[at : at + 8].hex()
                )

    def _compare_stores(self, stores: Sequence[Store]) -> None:
        for at, data in stores:
            _same(f"memory at {at:#x}", data.hex(), self.memory.read(at, len(data)).hex())

    def _compare_faults(self, expected: Sequence[dict[str, int]]) -> None:
        regs = IommuRegisters
        got = []
        for data in self._drained(regs.fqb, regs.fqh, regs.fqt, sizeof(FaultRecord)):
            record = unpack(FaultRecord, data)
            header = FaultHeader(record.header)
            fields = {name: int(getattr(header, name)) for name in fields_of(FaultHeader)}
            wide = {"iotval": record.iotval, "iotval2": record.iotval2, "custom": record.custom}
            got.append({**fields, **wide})
        wanted = [{**each, "custom": 0} for each in expected]
        for one, other in zip(got, wanted, strict=False):
            mask = other.pop("iotval2_mask")
            one["iotval2"] &= mask
            other["iotval2"] &= mask
        for each in wanted[len(got) :]:
            del each["iotval2_mask"]
        _same("fault records", wanted, got)

    # Registers and memory.

    def _drained(
        self, base: Reg[QueueBase], head: Reg[Index], tail: Reg[OwnIndex], size: int
    ) -> Iterator[bytes]:
        where = self._read(base)
        at, end = self._read(head), self._read(tail)
        while at != end:
            yield self.memory.read((where >> 10 << 12) + at * size, size)
            at = (at + 1) % (2 << (where & 0x1F))
        self._write(head, at)

    def _expect(self, stores: Sequence[Store]) -> None:
        for at, data in stores:
            done = 0
            while done < len(data):
                page, offset = divmod(at + done, PAGE)
                count = min(PAGE - offset, len(data) - done)
                size = min(PAGE, self._ram.size - page * PAGE)
                wanted = self._wanted.setdefault(page, bytearray(size))
                wanted[offset : offset + count] = data[done : done + count]
                done += count

    def _read(self, register: Reg[W]) -> int:
        data = self.iommu.read_register(register.offset, register.length)
        return int.from_bytes(data, "little")

    def _write(self, register: Reg[W], value: int) -> None:
        self.iommu.write_register(register.offset, value.to_bytes(register.length, "little"))


def _same(what: str, expected: object, got: object) -> None:
    if expected != got:
        raise _Differs(what, expected, got)
