"""PCI config space, decoded; whatever its bytes are, something is said about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hostctl.device import capabilities as tables
from hostctl.device.capabilities import Field, Group, Value, number

Lines: TypeAlias = Sequence[Sequence[tuple[Field, Value]]]
"""What a word says, as lines of fields."""

HEADER = 0x40
"""Bytes that every function has at the same place; capabilities come after them."""

EXTENDED = 0x100
"""Where extended capabilities start."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One capability.

    Attributes:
        at: its offset, in bytes.
        id: its number; those of extended ones are numbers of their own.
        version: of an extended one, else None.
        name: what it is called.
        title: what its first line says besides the name.
        groups: what its words say, by the word's name, line by line.
    """

    at: int
    id: int
    version: int | None
    name: str
    title: str = ""
    groups: Mapping[str, Lines] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a base address register says of itself.

    Attributes:
        io: ports instead of memory.
        wide: 64 bits, the upper ones in the next register.
        address: where it is mapped, 0 if nowhere.
    """

    index: int
    io: bool
    wide: bool
    prefetchable: bool
    address: int


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """A function, as its config space shows it.

    Attributes:
        subsystem: vendor and device, None for a header without them.
        header: 0 for a device, 1 for a bridge.
        pin: 0 for none, 1 for A.
        bars: registers as they are; whether there is anything behind one, the server knows.
        complaints: what is wrong with the lists of capabilities.
    """

    vendor: int
    device: int
    revision: int
    class_code: int
    header: int
    subsystem: tuple[int, int] | None
    command: Mapping[str, bool]
    status: Mapping[str, bool]
    latency: int
    pin: int
    bars: Sequence[Bar]
    capabilities: Sequence[Capability]
    complaints: Sequence[str]

    @property
    def class_name(self) -> str:
        """The base class in words."""
        base = self.class_code >> 16
        return tables.CLASSES[base] if base < len(tables.CLASSES) else f"Class {base:02x}"


_BAR, _OFFSET = number("BAR", 0, 2, joint="="), number("offset", 3, 31, joint="=")
_ADDRESS, _DATA = number("Address", 0, 63, joint=None), number("Data", 0, 15, joint=": ")
_MASK, _PENDING = number("Mask", 0, 31, joint=None), number("Pending", 0, 31, joint=": ")


class _Words:
    """Bytes that end somewhere; what is behind the end reads zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def at(self, offset: int, size: int) -> int:
        return int.from_bytes(self._data[offset : offset + size], "little")


def decode(data: bytes) -> ConfigSpace:
    """Config space of up to 4096 bytes, however much of it a server has."""
    words, complaints = _Words(data), list[str]()
    status, header = words.at(6, 2), words.at(14, 1) & 0x7F
    found: list[Capability] = []
    if status & 0x10:
        found = _chain(words, words.at(0x34, 1) & 0xFC, complaints)
    if words.size > EXTENDED:
        found += _extended(words, complaints)
    return ConfigSpace(
        vendor=words.at(0, 2),
        device=words.at(2, 2),
        revision=words.at(8, 1),
        class_code=words.at(9, 3),
        header=header,
        subsystem=(words.at(0x2C, 2), words.at(0x2E, 2)) if header == 0 else None,
        command={name: bool(words.at(4, 2) >> bit & 1) for bit, name in enumerate(tables.COMMAND)},
        status={name: bool(status >> bit & 1) for name, bit in tables.STATUS.items()},
        latency=words.at(13, 1),
        pin=words.at(0x3D, 1),
        bars=_bars(words, 6 if header == 0 else 2),
        capabilities=found,
        complaints=complaints,
    )


def _bars(words: _Words, count: int) -> list[Bar]:
    made: list[Bar] = []
    index = 0
    while index < count:
        low = words.at(0x10 + 4 * index, 4)
        io, wide = bool(low & 1), low & 7 == 4 and index + 1 < count
        address = low & (~3 if io else ~15)
        if wide:
            address |= words.at(0x14 + 4 * index, 4) << 32
        made.append(Bar(index, io, wide, not io and bool(low & 8), address))
        index += 2 if wide else 1
    return made


def _chain(words: _Words, at: int, complaints: list[str]) -> list[Capability]:
    """The capabilities of the first 256 bytes."""
    found: list[Capability] = []
    seen: set[int] = set()
    while at:
        if at < HEADER or at in seen:
            complaints.append(f"the list of capabilities goes to {at:#04x}, and cannot")
            break
        if at + 2 > words.size:
            complaints.append(f"the list of capabilities leaves the config space at {at:#04x}")
            break
        seen.add(at)
        found.append(_capability(words, at))
        at = words.at(at + 1, 1) & 0xFC
    return found


def _extended(words: _Words, complaints: list[str]) -> list[Capability]:
    found: list[Capability] = []
    at, seen = EXTENDED, set[int]()
    while at:
        if at < EXTENDED or at in seen or at + 4 > words.size:
            complaints.append(f"the list of extended capabilities goes to {at:#05x}, and cannot")
            break
        seen.add(at)
        head = words.at(at, 4)
        if head in (0, 0xFFFF_FFFF):
            break
        id, version, at_next = head & 0xFFFF, head >> 16 & 0xF, head >> 20 & 0xFFC
        name = tables.EXTENDED_NAMES.get(id, f"Extended Capability ID {id:#x}")
        title = ""
        if id == 3:
            serial = words.at(at + 4, 8)
            title = "-".join(f"{serial >> shift & 0xFF:02x}" for shift in range(56, -8, -8))
        groups = _groups(words, at, tables.EXTENDED.get(id, ()))
        found.append(Capability(at, id, version, name, title, groups))
        at = at_next
    return found


def _capability(words: _Words, at: int) -> Capability:
    id, flags = words.at(at, 1), words.at(at + 2, 2)
    name = tables.NAMES.get(id, f"Capability ID {id:#x}")
    title, groups = "", dict[str, Lines]()
    match id:
        case 0x01:
            title = f"version {flags & 7}"
            groups = _groups(words, at, tables.POWER)
        case 0x05:
            title, groups = _msi(words, at, flags)
        case 0x10:
            kind = flags >> 4 & 15
            kinds = tables.EXPRESS_TYPES
            title = f"(v{flags & 15}) {kinds[kind] if kind < len(kinds) else f'type {kind}'}"
            integrated = kind in (9, 10)
            groups = _groups(words, at, tables.DEVICE)
            if not integrated:
                groups |= _groups(words, at, tables.LINK)
            if flags & 15 >= 2:
                groups |= _groups(words, at, tables.SECOND[: 2 if integrated else None])
        case 0x11:
            title = (
                f"Enable{_sign(flags >> 15)} Count={(flags & 0x7FF) + 1} Masked{_sign(flags >> 14)}"
            )
            groups = {
                what: [[(_BAR, place & 7), (_OFFSET, f"{place & ~7:08x}")]]
                for what, place in (
                    ("Vector table", words.at(at + 4, 4)),
                    ("PBA", words.at(at + 8, 4)),
                )
            }
        case 0x09:
            title = f"Len={flags & 0xFF:02x}"
    return Capability(at, id, None, name, title, groups)


def _msi(words: _Words, at: int, flags: int) -> tuple[str, dict[str, Lines]]:
    title = (
        f"Enable{_sign(flags)} Count={1 << (flags >> 4 & 7)}/{1 << (flags >> 1 & 7)}"
        f" Maskable{_sign(flags >> 8)} 64bit{_sign(flags >> 7)}"
    )
    wide = bool(flags & 0x80)
    address, data = words.at(at + 4, 8 if wide else 4), words.at(at + (12 if wide else 8), 2)
    groups: dict[str, Lines] = {
        "Address": [[(_ADDRESS, f"{address:0{16 if wide else 8}x}"), (_DATA, f"{data:04x}")]]
    }
    if flags & 0x100:
        first = at + (16 if wide else 12)
        mask, pending = words.at(first, 4), words.at(first + 4, 4)
        groups["Masking"] = [[(_MASK, f"{mask:08x}"), (_PENDING, f"{pending:08x}")]]
    return title, groups


def _groups(words: _Words, at: int, groups: Sequence[Group]) -> dict[str, Lines]:
    return {
        group.name: [
            [(each, each.of(words.at(at + group.at, group.size))) for each in line]
            for line in group.lines
        ]
        for group in groups
    }


def _sign(value: int) -> str:
    return "+" if value & 1 else "-"
