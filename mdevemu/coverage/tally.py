"""What was tried of one personality, against everything that it declares."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdevemu.accel import Personality
from mdevemu.accel.personality import Codes
from mdevemu.errors import CommandFault, GuestFault
from mdevemu.iommu.causes import ACCESS_FAULT, GUEST_PAGE_FAULT, PAGE_FAULT
from mdevemu.iommu.causes import Access as Request
from mdevemu.layout import Access, Word, fields_of
from mdevemu.pci.function import CONFIG
from mdevemu.registers import RegisterMap, declared, touched

Facts = dict[str, Any]

READABLE = frozenset(Access) - {Access.WO}
WRITABLE = frozenset({Access.RW, Access.WO, Access.W1C, Access.W1S})

CAUSES = [
    cause.title
    for causes in (PAGE_FAULT, GUEST_PAGE_FAULT, ACCESS_FAULT)
    for cause in (causes[Request.READ], causes[Request.WRITE])
]
"""Why the IOMMU may refuse a read or a write: what a driver can bring about by its addresses."""


@dataclass(slots=True)
class FieldTally:
    """Writes of one field: with no bit set, and with some; and of each code, if it is one."""

    access: Access
    zero: int = 0
    nonzero: int = 0
    codes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class RegisterTally:
    """Accesses of one register, or of all of an array."""

    readable: bool
    reads: int = 0
    writes: int = 0
    fields: dict[str, FieldTally] = field(default_factory=dict)


class Tally:
    """What was tried of one personality, by all its mdevs."""

    def __init__(self, kind: type[Personality[Any]]) -> None:
        interface = kind.interface
        self._maps = dict(interface.maps)
        if interface.config:
            self._maps[CONFIG] = interface.config
        self._registers = {region: _registers(each) for region, each in self._maps.items()}
        self._interface = interface
        self.operations = _codes(interface.operations)
        self.statuses = _codes(interface.statuses)
        self.faults = _codes(interface.faults)
        self.causes = dict.fromkeys(CAUSES, 0)

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """A guest accessed a region; see ``function.Observer``."""
        kind = self._maps.get(region)
        if kind is None:
            return
        value = int.from_bytes(data, "little")
        for slot, lanes, skip, at in touched(kind, offset, len(data)):
            tally = self._registers[region][slot.name]
            if not write:
                tally.reads += 1
                continue
            tally.writes += 1
            _write(tally, slot.word, value >> at << skip & lanes, lanes)

    def ended(self, operation: int | None, status: int) -> None:
        """A command ended; see ``personality.Witness``."""
        if operation is not None:
            _count(self.operations, self._interface.operations, operation)
        if self._interface.statuses is not None:
            _count(self.statuses, self._interface.statuses, status)

    def refused(self, fault: GuestFault) -> None:
        """The driver did something illegal; see ``personality.Witness``."""
        if isinstance(fault, CommandFault):
            if self._interface.faults:
                _count(self.faults, self._interface.faults, fault.code)
            elif self._interface.statuses:
                _count(self.statuses, self._interface.statuses, fault.code)

    def cause(self, title: str) -> None:
        """The IOMMU refused an access."""
        self.causes[title] = self.causes.get(title, 0) + 1

    def facts(self) -> Facts:
        """All of it, as JSON can hold it; what was never tried is there with 0."""
        return {
            "registers": {
                (f"config.{name}" if region == CONFIG else f"bar{region}.{name}"): _register_facts(
                    tally
                )
                for region, registers in self._registers.items()
                for name, tally in registers.items()
            },
            "operations": dict(self.operations),
            "statuses": dict(self.statuses),
            "faults": dict(self.faults),
            "iommu-faults": dict(self.causes),
        }


def _registers(kind: type[RegisterMap]) -> dict[str, RegisterTally]:
    """Nothing of a register map was tried."""
    made = {}
    for reg in declared(kind):
        fields = fields_of(reg.word)
        made[reg.name] = RegisterTally(
            readable=any(each.access in READABLE for each in fields.values()),
            fields={
                name: FieldTally(each.access, codes=_codes(each.kind))
                for name, each in fields.items()
                if each.access in WRITABLE
            },
        )
    return made


def _write(tally: RegisterTally, word: type[Word], value: int, lanes: int) -> None:
    """Count a write of the bits in ``lanes``, field by field."""
    for name, each in fields_of(word).items():
        if name not in tally.fields or not each.mask & lanes:
            continue
        found = tally.fields[name]
        written = (value & each.mask) >> each.low
        found.nonzero += written != 0
        found.zero += written == 0
        if found.codes and not each.mask & ~lanes:
            found.codes[each.kind(written).name] += 1  # type: ignore[attr-defined]


def _codes(kind: type[int] | None) -> dict[str, int]:
    """Names of an enum's members, none of them seen; nothing for what is no enum."""
    if kind is None or not issubclass(kind, enum.Enum):
        return {}
    return {each.name: 0 for each in kind if each.name}


def _count(tally: dict[str, int], codes: Codes | None, value: int) -> None:
    """Count a code; one without a name by its number."""
    names = {int(each): each.name for each in codes or () if each.name}
    name = names.get(value, str(value))
    if name in tally or len(tally) < MOST:
        tally[name] = tally.get(name, 0) + 1


MOST = 300
"""Codes that are told apart: a driver may make up as many as it likes."""


def _register_facts(tally: RegisterTally) -> Facts:
    return {
        "readable": tally.readable,
        "reads": tally.reads,
        "writes": tally.writes,
        "fields": {name: _field_facts(each) for name, each in tally.fields.items()},
    }


def _field_facts(tally: FieldTally) -> Mapping[str, object]:
    return {
        "access": tally.access.name,
        "zero": tally.zero,
        "nonzero": tally.nonzero,
        "codes": dict(tally.codes),
    }
