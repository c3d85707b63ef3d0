"""What a guest's driver did with registers, as the emulator tells of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from hostctl.tables import Table


@dataclass(frozen=True, slots=True)
class Unmodelled:
    """A place without a register that a guest has reached.

    Attributes:
        offset, length: bytes.
        count: how often.
    """

    bar: int
    offset: int
    length: int
    write: bool
    count: int


@dataclass(frozen=True, slots=True)
class Spin:
    """A place that a guest read over and over while nothing changed.

    Attributes:
        offset, length: bytes.
        register: what is there; None if it has no name.
        fields: the fields of it by name; a code is its name.
        reads: how often it was read in a row.
    """

    bar: int
    offset: int
    length: int
    register: str | None
    value: int
    fields: Mapping[str, object]
    reads: int


@dataclass(frozen=True, slots=True)
class Accesses:
    """What the author of a driver should know of its accesses.

    Attributes:
        others: accesses to further places without a register, too many to tell apart.
    """

    mdev: str
    unmodelled: tuple[Unmodelled, ...]
    others: int
    spins: tuple[Spin, ...]


def accesses(reply: Table) -> Accesses:
    """The accesses of an mdev as the emulator shows them."""
    return Accesses(
        mdev=reply.text("mdev"),
        unmodelled=tuple(
            Unmodelled(
                bar=each.whole("bar", 0),
                offset=each.whole("offset", 0),
                length=each.whole("length", 1),
                write=each.truth("write"),
                count=each.whole("count", 1),
            )
            for each in reply.tables("unmodelled")
        ),
        others=reply.whole("unmodelled-others", 0),
        spins=tuple(
            Spin(
                bar=each.whole("bar", 0),
                offset=each.whole("offset", 0),
                length=each.whole("length", 1),
                register=None if each.raw("register") is None else each.text("register"),
                value=each.whole("value", 0),
                fields=each.table("fields").facts,
                reads=each.whole("reads", 1),
            )
            for each in reply.tables("spins")
        ),
    )
