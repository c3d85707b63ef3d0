"""A device's interface as a header for a driver in C."""

import struct
from collections.abc import Iterator
from typing import Any

from mdevemu.accel import Personality
from mdevemu.accel.personality import Codes
from mdevemu.describe.words import about, snake
from mdevemu.layout import Struct, fields_of, members_of, sizeof, width_of
from mdevemu.layout.structs import format_of
from mdevemu.registers import RegisterMap, declared

INTEGERS = {"B": "uint8_t", "H": "uint16_t", "I": "uint32_t", "Q": "uint64_t"}
"""C's names of the struct module's formats."""

INT_MAX = (1 << 31) - 1


def c_header(kind: type[Personality[Any]]) -> str:
    """A header that needs <stdint.h> and C11, or an assembler's patience for its macros.

    A register is its offset; one of an array takes its index.  A field is a mask, in place,
    and a shift.
    """
    identity, interface = kind.identity, kind.interface
    prefix = snake(kind.__name__).upper()
    numbers = [
        ("VENDOR", identity.vendor),
        ("DEVICE", identity.device),
        ("CLASS", identity.class_code),
        *interface.numbers.items(),
    ]
    lines = [
        f"/* The {kind.__name__} device as its driver sees it.",
        f" * Made by `python -m mdevemu describe {kind.__name__.lower()} --format c`; "
        "not to be edited. */",
        f"#ifndef {prefix}_H",
        f"#define {prefix}_H",
        "",
        "#include <stdint.h>",
        "",
        *(f"#define {prefix}_{name} {_number(value)}" for name, value in numbers),
    ]
    for bar, registers in interface.maps.items():
        lines += ["", f"/* BAR{bar} */", *_registers(prefix, registers)]
    if interface.config:
        lines += ["", "/* Configuration space */", *_registers(prefix, interface.config)]
    for each in interface.structs:
        lines += ["", *_struct(prefix, each)]
    for codes in interface.codes:
        lines += ["", *_codes(prefix, codes)]
    return "\n".join([*lines, "", "#endif", ""])


def _registers(prefix: str, registers: type[RegisterMap]) -> Iterator[str]:
    for reg in declared(registers):
        name = f"{prefix}_{reg.name.upper()}"
        if reg.count > 1:
            yield f"#define {name}(n) (0x{reg.offset:X} + (n) * 0x{reg.stride:X})"
            yield f"#define {name}_COUNT {reg.count}"
        else:
            yield f"#define {name} 0x{reg.offset:X}"
        wide = width_of(reg.word) > 32
        for field_name, field in fields_of(reg.word).items():
            mask = f"UINT64_C(0x{field.mask:X})" if wide else f"0x{field.mask:X}u"
            yield f"#define {name}_{field_name.upper()}_MASK {mask}"
            yield f"#define {name}_{field_name.upper()}_SHIFT {field.low}"


def _struct(prefix: str, kind: type[Struct]) -> Iterator[str]:
    name = f"{prefix.lower()}_{snake(kind.__name__)}"
    yield f"/* {_safe(about(kind))} */"
    yield f"struct {name} {{"
    for (member, at, size), code in zip(members_of(kind), _formats(kind), strict=True):
        declaration = (
            f"{INTEGERS[code]} {member}" if code in INTEGERS else f"uint8_t {member}[{size}]"
        )
        yield f"\t{declaration}; /* 0x{at:02X} */"
    yield "} __attribute__((packed));"
    yield f'_Static_assert(sizeof(struct {name}) == {sizeof(kind)}, "{name}");'


def _formats(kind: type[Struct]) -> Iterator[str]:
    """The struct module's format of each member."""
    number = ""
    for character in format_of(kind).lstrip("<"):
        number += character
        if not character.isdigit():
            assert struct.calcsize("<" + number)
            yield number
            number = ""


def _codes(prefix: str, codes: Codes) -> Iterator[str]:
    name = f"{prefix}_{snake(codes.__name__).upper()}"
    yield f"/* {_safe(about(codes))} */"
    if all(member.value <= INT_MAX for member in codes):
        yield f"enum {name.lower()} {{"
        yield from (f"\t{name}_{member.name} = {_number(member.value)}," for member in codes)
        yield "};"
    else:
        yield from (f"#define {name}_{member.name} {_number(member.value)}" for member in codes)


def _number(value: int) -> str:
    """A literal: decimal if it is small."""
    if value < 10:
        return str(value)
    return f"UINT64_C(0x{value:X})" if value >> 32 else f"0x{value:X}"


def _safe(line: str) -> str:
    """A line that does not end the comment it is in."""
    return line.replace("*/", "* /")
