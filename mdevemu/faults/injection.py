"""What an operator asks for: a kind of fault, and when it strikes."""

import enum
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from mdevemu.errors import ConfigError

MICROSECOND = 1000
"""In nanoseconds."""

WHEN = frozenset({"after", "count", "percent", "seed"})
"""What every fault takes that waits for occasions."""


class Direction(enum.Enum):
    """Which accesses to memory are meant."""

    ANY = "any"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault.

    Attributes:
        occasion: what it strikes; each such thing is one occasion.
        effect: what becomes of it.
        takes: names of the members of ``Order`` that mean something for it.
        needs: those of them that must be given.
        endless: it strikes every occasion until it is cleared, if no count is given.
    """

    name: str
    occasion: str
    effect: str
    takes: frozenset[str] = WHEN
    needs: frozenset[str] = frozenset()
    endless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """When a fault strikes, and how; None is what its kind does by itself.

    Attributes:
        after: occasions that it lets pass first.
        count: how many occasions it strikes.
        percent: how many of a hundred occasions it strikes, chosen by ``seed``.
        address, length: only what touches these bytes; see each kind for what has this address.
        access: only reads, or only writes, of memory.
        vector: only this interrupt vector.
        status: what a command ends with; one of the personality's codes, by name or number.
        delay_us: microseconds.
        rate: bytes per second.
    """

    after: int | None = None
    count: int | None = None
    percent: int | None = None
    seed: int | None = None
    address: int | None = None
    length: int | None = None
    access: str | None = None
    vector: int | None = None
    status: str | None = None
    delay_us: int | None = None
    rate: int | None = None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """What was given, by name."""
        return ((name, value) for name, value in asdict(self).items() if value is not None)


RANGES = {
    "after": (0, 1 << 32),
    "count": (1, 1 << 32),
    "percent": (1, 100),
    "seed": (0, (1 << 64) - 1),
    "address": (0, (1 << 64) - 1),
    "length": (1, 1 << 64),
    "vector": (0, 2047),
    "delay_us": (1, 3_600_000_000),
    "rate": (1, 1 << 50),
}
"""What numbers of an order may be, both ends included."""

OPTIONS = tuple(field.name for field in fields(Order))


class Injection:
    """A fault of one mdev.

    Attributes:
        number: its own, never used again.
        hits: how often it struck.
    """

    def __init__(self, number: int, kind: Kind, order: Order) -> None:
        """Check the order.

        Raises:
            ConfigError: something in it is missing, out of range, or means nothing for the kind.
        """
        check(kind, order)
        self.number = number
        self.kind = kind
        self.order = order
        self.hits = 0
        self._passed = 0
        self._count = order.count or (None if kind.endless else 1)
        self._random = random.Random(order.seed or 0)

    @property
    def spent(self) -> bool:
        """It has struck as often as it should."""
        return self._count is not None and self.hits >= self._count

    @property
    def delay_ns(self) -> int:
        """The delay that was asked for, in nanoseconds."""
        return (self.order.delay_us or 0) * MICROSECOND

    def occurs(self) -> bool:
        """There is an occasion; whether to strike now."""
        self._passed += 1
        if self._passed <= (self.order.after or 0):
            return False
        percent = self.order.percent or 100
        return percent == 100 or self._random.randrange(100) < percent

    def touches(self, address: int, length: int) -> bool:
        """Bytes from ``address`` on are among those that are meant."""
        first = self.order.address
        if first is None:
            return True
        return first < address + length and address < first + (self.order.length or 1)


def check(kind: Kind, order: Order) -> None:
    """See that an order is one for a kind.

    Raises:
        ConfigError: it is not.
    """
    given = dict(order)
    for name, value in given.items():
        if name not in kind.takes:
            accepted = ", ".join(sorted(map(option, kind.takes)))
            raise ConfigError(
                option(name), f"means nothing for {kind.name} (accepted: {accepted or 'nothing'})"
            )
        low, high = RANGES.get(name, (None, None))
        if low is not None and high is not None and not low <= value <= high:
            raise ConfigError(option(name), f"{value} (accepted: {low} to {high})")
    for name in sorted(kind.needs):
        if name not in given:
            raise ConfigError(option(name), f"is missing; {kind.name} needs it")
    if order.length is not None and order.address is None:
        raise ConfigError("length", "means nothing without an address")
    if order.seed is not None and "percent" in kind.takes and order.percent is None:
        raise ConfigError("seed", "means nothing without percent")


def option(name: str) -> str:
    """A member of an order as operators write it."""
    return name.replace("_", "-")
