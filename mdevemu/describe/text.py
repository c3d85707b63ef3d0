"""A device's interface as plain text, for a terminal."""

from collections.abc import Iterator
from typing import Any

from mdevemu.accel import Personality
from mdevemu.describe.words import about
from mdevemu.layout import fields_of, members_of, sizeof, width_of
from mdevemu.registers import RegisterMap, declared, size_of


def text(kind: type[Personality[Any]]) -> str:
    """Registers, structs and codes in columns."""
    identity, interface = kind.identity, kind.interface
    lines = [
        f"{kind.__name__}  {identity.vendor:04x}:{identity.device:04x}  "
        f"class {identity.class_code:06x}"
    ]
    for bar, registers in interface.maps.items():
        lines += ["", f"BAR{bar}, {size_of(registers):#x} bytes", *_registers(registers)]
    if interface.config:
        lines += ["", "Configuration space", *_registers(interface.config)]
    for each in interface.structs:
        lines += ["", f"{each.__name__}, {sizeof(each)} bytes: {about(each)}"]
        lines += [f"  {at:#06x}  {size:>3}  {name}" for name, at, size in members_of(each)]
    for codes in interface.codes:
        lines += ["", f"{codes.__name__}: {about(codes)}"]
        lines += [f"  {member.value:>6}  {member.name}" for member in codes]
    return "\n".join([*lines, ""])


def _registers(registers: type[RegisterMap]) -> Iterator[str]:
    for reg in declared(registers):
        name = reg.name
        if reg.count > 1:
            name += f"[{reg.count}], every {reg.stride:#x}"
        yield f"  {reg.offset:#06x}  {name}, {width_of(reg.word)} bits: {about(reg.word)}"
        for field_name, field in fields_of(reg.word).items():
            place = f"{field.high}:{field.low}" if field.high > field.low else str(field.low)
            reset = f"{field.reset >> field.low:#x}"
            yield f"          {place:>5}  {field.access.name:<3}  {reset:<6}  {field_name}"
