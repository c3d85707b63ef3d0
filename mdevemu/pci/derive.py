"""From a declaration of what functions have in common to that of one function."""

import types
from collections.abc import Collection, Mapping
from typing import TypeVar, cast

from mdevemu.layout import Field, Word, fields_of, width_of
from mdevemu.registers import Array, Reg, RegisterMap, declared, size_of

W = TypeVar("W", bound=Word)
M = TypeVar("M", bound=RegisterMap)


def preset(kind: type[W], **values: int) -> type[W]:
    """The same word, with these reset values in the fields of these names."""
    fields: dict[str, object] = {"__doc__": kind.__doc__}
    for name, field in fields_of(kind).items():
        reset = field.kind(values.pop(name, field.reset >> field.low))
        fields[name] = Field(field.high, field.low, field.kind, field.access, reset)
    assert not values, f"{kind.__name__} has no field {', '.join(values)}"
    width = {"width": width_of(kind)}
    return cast(
        type[W], types.new_class(kind.__name__, (kind,), width, lambda ns: ns.update(fields))
    )


def derive(
    kind: type[M],
    words: Mapping[str, type[Word]],
    counts: Mapping[str, int] | None = None,
    without: Collection[str] = (),
) -> type[M]:
    """The same map with other words in some registers.

    Args:
        words: what to declare for a register instead.
        counts: how long an array is instead.
        without: registers to leave out; their places read as zero.
    """
    placed: dict[str, object] = {"__doc__": kind.__doc__}
    for reg in declared(kind):
        if reg.name in without:
            continue
        word = words.get(reg.name, reg.word)
        if isinstance(reg, Array):
            count = (counts or {}).get(reg.name, reg.count)
            placed[reg.name] = Array(reg.offset, word, count=count, stride=reg.stride)
        else:
            placed[reg.name] = Reg(reg.offset, word)
    size = {"size": size_of(kind)}
    return cast(
        type[M], types.new_class(kind.__name__, (kind,), size, lambda ns: ns.update(placed))
    )
