"""What slices hold of an accelerator, and what still fits: counts and places, no devices.

Everything that limits slices is here, and each limit is a resource of its own: instances of
the type, HBM, compute shares, queues, PASIDs, work queues.  A slice takes one unit of each
that its type names, so what can be created is the least that any of them allows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mdevemu.accel.hbm import GRANULE
from mdevemu.accel.ranges import Ranges
from mdevemu.profile.spec import AcceleratorSpec
from mdevemu.profile.types import MdevType


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slice is.

    Attributes:
        hbm: bytes from the start of all HBM; None if its type has none.
        work_queue: its name; None if its type has none.
    """

    hbm: int | None = None
    work_queue: str | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """A slice and its place; ``name`` is what the operator calls it."""

    name: str
    type: MdevType
    place: Place
    attached: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource that a slice takes some of.

    Attributes:
        name: what it is.
        room: how many more slices it allows.
        words: why there is nothing left of it.
        has: a slice has some of it.
    """

    name: str
    room: int
    words: Callable[[], str]
    has: Callable[[Holding], bool]


def _pool(what: str, total: int, used: int, each: int, has: Callable[[Holding], bool]) -> Limit:
    """So many of something that are all alike."""
    words = f"{used} of {total} {what} are in use, it takes {each}"
    return Limit(what, (total - used) // each, lambda: words, has)


class Occupancy:
    """An accelerator with slices in their places."""

    def __init__(self, spec: AcceleratorSpec, held: Iterable[Holding] = ()) -> None:
        self.spec = spec
        self._held: dict[str, Holding] = {}
        self._types: Counter[MdevType] = Counter()
        self._on_queue: Counter[str | None] = Counter()
        self._free = Ranges(spec.hbm)
        for each in held:
            self.add(each)

    @property
    def held(self) -> tuple[Holding, ...]:
        """The slices, oldest first; no two have the same name."""
        return tuple(self._held.values())

    def add(self, holding: Holding) -> None:
        """One slice more; what it takes is free."""
        assert holding.name not in self._held, f"{holding.name} is there"
        if holding.place.hbm is not None:
            self._free.take(holding.place.hbm, holding.type.hbm)
        self._held[holding.name] = holding
        self._types[holding.type] += 1
        self._on_queue[holding.place.work_queue] += 1

    def remove(self, name: str) -> None:
        """One slice less."""
        holding = self._held.pop(name)
        if holding.place.hbm is not None:
            self._free.give(holding.place.hbm, holding.type.hbm)
        self._types[holding.type] -= 1
        self._on_queue[holding.place.work_queue] -= 1

    def copy(self) -> "Occupancy":
        """The same, for changes of its own."""
        other = Occupancy(self.spec)
        other._held, other._free = self._held.copy(), self._free.copy()
        other._types, other._on_queue = self._types.copy(), self._on_queue.copy()
        return other

    def with_(self, *more: Holding) -> "Occupancy":
        """The same, and these too."""
        other = self.copy()
        for each in more:
            other.add(each)
        return other

    def without(self, *less: Holding) -> "Occupancy":
        """The same, and not these."""
        other = self.copy()
        for each in less:
            other.remove(each.name)
        return other

    # Room for one more.

    def place(self, kind: MdevType, wanted: Place | None = None) -> Place | None:
        """Where the next slice of a type goes; None if it does not fit.

        That is the place that is ``wanted`` if it can be there, else the lowest start.
        """
        if not self.available(kind):
            return None
        if wanted and self._can_be(kind, wanted):
            return wanted
        return Place(next(iter(self.starts(kind)), None), next(iter(self._queues(kind)), None))

    def _can_be(self, kind: MdevType, place: Place) -> bool:
        """The next slice of a type, for which there is room, can be at this very place."""
        if place.work_queue not in (self._queues(kind) if kind.work_queues else (None,)):
            return False
        if place.hbm is None or not kind.hbm:
            return place.hbm is None and not kind.hbm
        if place.hbm % GRANULE or (kind.starts and place.hbm not in kind.starts):
            return False
        return self._free.free(place.hbm, kind.hbm)

    def available(self, kind: MdevType) -> int:
        """How many slices of a type could be created now, one after the other."""
        return max(0, min(limit.room for limit in self._limits(kind)))

    def lacking(self, kind: MdevType) -> list[str]:
        """What there is none left of for another slice of a type, in words."""
        return [limit.words() for limit in self._limits(kind) if limit.room <= 0]

    def blocking(self, kind: MdevType) -> list[str]:
        """Names of the slices that have some of what is lacking for another slice of a type."""
        short = [limit for limit in self._limits(kind) if limit.room <= 0]
        return [each.name for each in self.held if any(limit.has(each) for limit in short)]

    def short_of_hbm_only(self, kind: MdevType) -> bool:
        """Nothing is lacking for another slice of a type but a place in the HBM."""
        short = [limit.name for limit in self._limits(kind) if limit.room <= 0]
        return short == ["HBM"]

    def starts(self, kind: MdevType) -> list[int]:
        """Where the HBM of a slice could begin now, lowest first, in bytes.

        A type without starts of its own begins where a hole does.
        """
        if not kind.hbm:
            return []
        if not kind.starts:
            return [at for at, count in self._free if count >= kind.hbm]
        return [start for start in kind.starts if self._free.free(start, kind.hbm)]

    def holes(self) -> list[tuple[int, int]]:
        """HBM that nobody has, as (offset, bytes), lowest first."""
        return list(self._free)

    def overlapping(self, start: int, size: int) -> list[Holding]:
        """Who has some of the HBM from ``start`` on."""
        return [
            each
            for each in self.held
            if each.place.hbm is not None
            and each.place.hbm < start + size
            and start < each.place.hbm + each.type.hbm
        ]

    def _limits(self, kind: MdevType) -> Iterator[Limit]:
        """Every resource that a slice of a type takes some of."""
        spec = self.spec
        same = self._types[kind]
        yield Limit(
            "instances",
            kind.instances - same,
            lambda: f"{same} of {kind.instances} instances are in use",
            lambda each: each.type is kind,
        )
        if kind.hbm:
            yield Limit(
                "HBM",
                self._hbm_room(kind),
                lambda: self._hbm_words(kind),
                lambda each: self._in_the_way(each, kind),
            )
        if kind.compute:
            yield _pool(
                "compute shares",
                spec.compute_shares,
                self._all(lambda each: each.compute),
                kind.compute,
                lambda each: each.type.compute > 0,
            )
        if spec.queues is not None:
            used = self._all(lambda each: each.queues)
            yield _pool("queues", spec.queues, used, kind.queues, lambda each: True)
        if spec.pasids is not None and kind.pasid_bits is None:
            used = self._all(lambda each: each.pasid_bits is None)
            yield _pool("PASIDs", spec.pasids, used, 1, lambda each: each.type.pasid_bits is None)
        if kind.work_queues and spec.work_queues[kind.work_queues[0]].dedicated:
            yield Limit(
                "work queues",
                len(self._queues(kind)),
                lambda: f"each of the work queues {', '.join(kind.work_queues)} is taken",
                lambda each: each.place.work_queue in kind.work_queues,
            )

    def _all(self, amount: Callable[[MdevType], int]) -> int:
        """What all slices take, when ``amount`` is what one of a type does."""
        return sum(count * amount(kind) for kind, count in self._types.items())

    def _hbm_room(self, kind: MdevType) -> int:
        if not kind.starts:
            return sum(count // kind.hbm for _, count in self.holes())
        room, end = 0, 0
        for start in self.starts(kind):
            if start >= end:
                room, end = room + 1, start + kind.hbm
        return room

    def _in_the_way(self, each: Holding, kind: MdevType) -> bool:
        """A slice has HBM where one of a type could be."""
        if not kind.starts:
            return each.place.hbm is not None
        return any(each in self.overlapping(start, kind.hbm) for start in kind.starts)

    def _queues(self, kind: MdevType) -> list[str]:
        """Work queues that the next slice of a type could get, best first.

        Dedicated ones are free; of shared ones, those with the fewest slices come first.
        """
        if not kind.work_queues or not self.spec.work_queues[kind.work_queues[0]].dedicated:
            return sorted(kind.work_queues, key=lambda name: self._on_queue[name])
        return [name for name in kind.work_queues if not self._on_queue[name]]

    def _hbm_words(self, kind: MdevType) -> str:
        if not kind.starts:
            free = ", ".join(f"{count} at {at:#x}" for at, count in self.holes())
            return f"no {kind.hbm} adjacent bytes of HBM (free: {free or 'none'})"
        share = self.spec.share_bytes
        blocked = []
        for start in kind.starts:
            who = ", ".join(each.name for each in self.overlapping(start, kind.hbm))
            blocked.append(f"share {start // share} ({who})")
        return (
            f"every place of its {kind.hbm // share} memory shares is taken: {'; '.join(blocked)}"
        )
