"""A device's interface as tables of Markdown."""

from collections.abc import Iterator
from typing import Any

from mdevemu.accel import Personality
from mdevemu.describe.words import about
from mdevemu.layout import fields_of, members_of, sizeof, width_of
from mdevemu.registers import RegisterMap, declared, size_of


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
        lines += ["", f"### {each.__name__}: {sizeof(each)} bytes", "", about(each), ""]
        lines += ["| offset | bytes | member |", "|---|---|---|"]
        lines += [f"| {at:#04x} | {size} | {name} |" for name, at, size in members_of(each)]
    for codes in interface.codes:
        lines += ["", f"### {codes.__name__}", "", about(codes), "", "| code | name |", "|---|---|"]
        lines += [f"| {member.value} | {member.name} |" for member in codes]
    return "\n".join([*lines, ""])


def _registers(registers: type[RegisterMap]) -> Iterator[str]:
    yield "| offset | register | bits | field | access | reset | |"
    yield "|---|---|---|---|---|---|---|"
    for reg in declared(registers):
        at, name = f"{reg.offset:#06x}", reg.name
        if reg.count > 1:
            at, name = f"{at} + n * {reg.stride:#x}", f"{name}[n], n < {reg.count}"
        said = f"{width_of(reg.word)} bits. {about(reg.word)}"
        for field_name, field in fields_of(reg.word).items():
            place = f"{field.high}:{field.low}" if field.high > field.low else str(field.low)
            reset = f"{field.reset >> field.low:#x}"
            access = field.access.name
            yield f"| {at} | {name} | {place} | {field_name} | {access} | {reset} | {said} |"
            at = name = said = ""
