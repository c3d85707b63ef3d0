"""A device's interface in other forms: tables for people, constants for its driver."""

import enum
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from mdevemu.accel import Personality
from mdevemu.layout import Access, Struct, Word, fields_of, members_of, sizeof, width_of
from mdevemu.layout.structs import format_of
from mdevemu.registers import RegisterMap, declared, size_of

SHORT = {
    Access.RO: "RO",
    Access.RW: "RW",
    Access.WO: "WO",
    Access.W1C: "W1C",
    Access.W1S: "W1S",
    Access.RC: "RC",
}


def markdown(kind: type[Personality[Any]]) -> str:
    """Tables of registers, structs and codes."""
    identity, interface = kind.identity, kind.interface
    lines = [
        f"Vendor {identity.vendor:#06x}, device {identity.device:#06x}, "
        f"class {identity.class_code:#08x}.",
    ]
    for bar, registers in interface.maps.items():
        lines += ["", f"### BAR{bar}: {size_of(registers):#x} bytes", "", *_registers(registers)]
    if interface.config:
        lines += ["", "### Configuration space", "", *_registers(interface.config)]
    for each in interface.structs:
        lines += ["", f"### {each.__name__}: {sizeof(each)} bytes", "", _doc(each), ""]
        lines += ["| offset | bytes | member |", "|---|---|---|"]
        lines += [f"| {at:#04x} | {size} | {name} |" for name, at, size in members_of(each)]
    for codes in interface.codes:
        lines += ["", f"### {codes.__name__}", "", _doc(codes), "", "| code | name |", "|---|---|"]
        lines += [f"| {member.value} | {member.name} |" for member in codes]
    return "\n".join([*lines, ""])


def _registers(registers: type[RegisterMap]) -> Iterator[str]:
    yield "| offset | register | bits | field | access | reset | |"
    yield "|---|---|---|---|---|---|---|"
    for reg in declared(registers):
        at, name = f"{reg.offset:#06x}", reg.name
        if reg.count > 1:
            at, name = f"{at} + n * {reg.stride:#x}", f"{name}[n], n < {reg.count}"
        about = f"{width_of(reg.word)} bits. {_doc(reg.word)}"
        for field_name, field in fields_of(reg.word).items():
            place = f"{field.high}:{field.low}" if field.high > field.low else str(field.low)
            reset = f"{field.reset >> field.low:#x}"
            access = SHORT[field.access]
            yield f"| {at} | {name} | {place} | {field_name} | {access} | {reset} | {about} |"
            at = name = about = ""


def python(kind: type[Personality[Any]]) -> str:
    """A module of constants for a driver in Python."""
    identity, interface = kind.identity, kind.interface
    numbers = [
        ("VENDOR", identity.vendor),
        ("DEVICE", identity.device),
        ("CLASS", identity.class_code),
        *interface.numbers.items(),
    ]
    lines = [
        f'"""The {kind.__name__} device as its driver sees it.',
        "",
        f"Made by `python -m mdevemu describe {kind.__name__.lower()} --format python`; not to be",
        "edited.",
        "",
        "A register is its offset in its BAR, and one of a block BLOCK_BASE + n * BLOCK_STRIDE",
        "plus its own; a field is (lowest bit, width).  A member of a struct is its offset.",
        '"""',
        "",
        "import enum",
        "from struct import Struct",
        "",
        *(f"{name} = 0x{number:X}" for name, number in numbers),
    ]
    for bar, registers in interface.maps.items():
        lines += ["", f"# BAR{bar}", *_constants(registers)]
    if interface.config:
        lines += ["", "# Configuration space", *_constants(interface.config)]
    for each in interface.structs:
        lines += ["", *_struct(each)]
    for codes in interface.codes:
        base = "IntFlag" if issubclass(codes, enum.IntFlag) else "IntEnum"
        lines += ["", "", f"class {codes.__name__}(enum.{base}):", f'    """{_doc(codes)}"""', ""]
        lines += [f"    {member.name} = {member.value}" for member in codes]
    return "\n".join([*lines, ""])


def _constants(registers: type[RegisterMap]) -> Iterator[str]:
    blocks: dict[str, int] = {}
    for reg in declared(registers):
        offset, name = reg.offset, reg.name.upper()
        if reg.count > 1:
            block = name.split("_")[0]
            if block not in blocks:
                blocks[block] = offset
                yield f"{block}_BASE = 0x{offset:X}"
                yield f"{block}_STRIDE = 0x{reg.stride:X}"
                yield f"{block}_COUNT = {reg.count}"
            offset -= blocks[block]
        yield f"{name} = 0x{offset:X}"
        yield from _fields(name, reg.word)


def _fields(name: str, word: type[Word]) -> Iterator[str]:
    """The fields, where there is more to say than that it is the whole word."""
    for field_name, field in fields_of(word).items():
        if field.high - field.low + 1 < width_of(word):
            yield f"{name}_{field_name.upper()} = ({field.low}, {field.high - field.low + 1})"


def _struct(kind: type[Struct]) -> Iterator[str]:
    name = "".join("_" + c if c.isupper() else c.upper() for c in kind.__name__).lstrip("_")
    yield f'{name} = Struct("{format_of(kind)}")'
    for member, offset, _ in members_of(kind):
        yield f"{name}_{member.upper()} = {offset}"


def _doc(thing: type) -> str:
    """The first sentence of what it says of itself."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


FORMATS: dict[str, Callable[[type[Personality[Any]]], str]] = {
    "markdown": markdown,
    "python": python,
}
