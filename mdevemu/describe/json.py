"""A device's interface as JSON, for tools."""

import enum
from json import dumps
from typing import Any

from mdevemu.accel import Personality
from mdevemu.describe.words import about
from mdevemu.layout import fields_of, members_of, sizeof, width_of
from mdevemu.layout.structs import format_of
from mdevemu.registers import RegisterMap, declared, size_of

SCHEMA = "mdevemu.describe/1"


def json(kind: type[Personality[Any]]) -> str:
    """All of it, offsets and sizes in bytes, ids as numbers."""
    identity, interface = kind.identity, kind.interface
    facts = {
        "schema": SCHEMA,
        "name": kind.__name__,
        "vendor": identity.vendor,
        "device": identity.device,
        "class": identity.class_code,
        "bars": [
            {"bar": bar, "size": size_of(registers), "registers": _registers(registers)}
            for bar, registers in interface.maps.items()
        ],
        "config": _registers(interface.config) if interface.config else [],
        "structs": [
            {
                "name": each.__name__,
                "about": about(each),
                "size": sizeof(each),
                "format": format_of(each),
                "members": [
                    {"name": name, "offset": at, "size": size}
                    for name, at, size in members_of(each)
                ],
            }
            for each in interface.structs
        ],
        "codes": [
            {
                "name": codes.__name__,
                "about": about(codes),
                "flags": issubclass(codes, enum.IntFlag),
                "members": {member.name: member.value for member in codes},
            }
            for codes in interface.codes
        ],
        "numbers": dict(interface.numbers),
    }
    return dumps(facts, indent=1) + "\n"


def _registers(registers: type[RegisterMap]) -> list[dict[str, object]]:
    return [
        {
            "name": reg.name,
            "about": about(reg.word),
            "offset": reg.offset,
            "width": width_of(reg.word),
            "count": reg.count,
            "stride": reg.stride,
            "fields": [
                {
                    "name": name,
                    "high": field.high,
                    "low": field.low,
                    "access": field.access.name,
                    "reset": field.reset >> field.low,
                }
                for name, field in fields_of(reg.word).items()
            ],
        }
        for reg in declared(registers)
    ]
