"""A device's interface as a module of constants in Python."""

import enum
from collections.abc import Iterator
from typing import Any

from mdevemu.accel import Personality
from mdevemu.describe.words import about, snake
from mdevemu.layout import Struct, Word, fields_of, members_of, width_of
from mdevemu.layout.structs import format_of
from mdevemu.registers import RegisterMap, declared


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
        lines += ["", "", f"class {codes.__name__}(enum.{base}):", f'    """{about(codes)}"""', ""]
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
    name = snake(kind.__name__).upper()
    yield f'{name} = Struct("{format_of(kind)}")'
    for member, offset, _ in members_of(kind):
        yield f"{name}_{member.upper()} = {offset}"
