"""Why a slice does not fit, what would, and the fewest moves after which it does."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from mdevemu.profile.occupancy import Holding, Occupancy, Place
from mdevemu.profile.types import MdevType

MOST_TRIES = 4_000
"""Places that a search for moves looks at before it gives up."""


@dataclass(frozen=True, slots=True)
class Move:
    """A slice that would have to be elsewhere.

    Attributes:
        source, target: where its HBM begins now, and where it would, in bytes.
    """

    name: str
    type: str
    source: int
    target: int
    attached: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What stands in the way of one more slice.

    Attributes:
        type: its id.
        place: where it would go; None if it does not fit.
        lacking: what there is none left of, in words; empty if it fits.
        blocking: names of the slices that have some of what it could use.
        fitting: how many slices of each type fit now, by type id; only those that do.
        moves: the fewest that make room; empty if it fits, None if no moves do.
        exhausted: the search for moves was given up, so None says nothing.
    """

    type: str
    place: Place | None
    lacking: tuple[str, ...]
    blocking: tuple[str, ...]
    fitting: dict[str, int]
    moves: tuple[Move, ...] | None
    exhausted: bool = False


def explain(now: Occupancy, kind: MdevType) -> Explanation:
    """All of it, for one more slice of a type."""
    place = now.place(kind)
    fitting = {each.id: room for each in now.spec.types if (room := now.available(each))}
    if place is not None:
        return Explanation(kind.id, place, (), (), fitting, ())
    search = _Search()
    moves = search.moves(now, kind)
    return Explanation(
        kind.id,
        None,
        tuple(now.lacking(kind)),
        tuple(now.blocking(kind)),
        fitting,
        moves,
        search.tries >= MOST_TRIES and moves is None,
    )


class _Search:
    """Looks for moves, the fewest first.

    Attributes:
        tries: places looked at so far.
    """

    def __init__(self) -> None:
        self.tries = 0

    def moves(self, now: Occupancy, kind: MdevType) -> tuple[Move, ...] | None:
        """The fewest moves that make room for a slice; None if there are none, or too many tries.

        Among as few, those that leave attached slices alone come first.
        """
        if not now.short_of_hbm_only(kind):
            return None  # moving gives nothing else back
        movable = [each for each in now.held if each.place.hbm is not None]
        free = [each for each in movable if not each.attached]
        for count in range(1, len(movable) + 1):
            for pool in (free, movable):
                for some in itertools.combinations(pool, count):
                    self.tries += 1
                    if self.tries >= MOST_TRIES:
                        return None
                    found = self._moved(now.without(*some), some, kind)
                    if found is not None:
                        return found
        return None

    def _moved(
        self, rest: Occupancy, some: tuple[Holding, ...], kind: MdevType
    ) -> tuple[Move, ...] | None:
        """Where these slices would go to make room, when the others are ``rest``."""
        if rest.place(kind) is None:
            return None
        wanted = [(None, kind), *((each, each.type) for each in some)]
        placed = next(self._placed(rest, wanted), None)
        if placed is None:
            return None
        return tuple(
            Move(each.name, each.type.id, each.place.hbm or 0, at, each.attached)
            for each, at in placed
            if each is not None
        )

    def _placed(
        self, rest: Occupancy, wanted: list[tuple[Holding | None, MdevType]]
    ) -> Iterator[list[tuple[Holding | None, int]]]:
        """Ways to place all that is wanted.

        Any packing stays one when slices are pushed down within their holes, so it is
        enough to try each slice at the start of each hole, in every order.
        """
        if not wanted:
            yield []
            return
        for at, (who, kind) in enumerate(wanted):
            # Only the types with fixed places need no other order than the given one.
            if at and not any(not each.starts for _, each in wanted):
                return
            place = rest.place(kind)
            if place is None:
                return
            for start in rest.starts(kind):
                self.tries += 1
                if self.tries >= MOST_TRIES:
                    return
                name = who.name if who else ""
                taken = rest.with_(Holding(name, kind, Place(start, place.work_queue)))
                for others in self._placed(taken, wanted[:at] + wanted[at + 1 :]):
                    yield [(who, start), *others]
