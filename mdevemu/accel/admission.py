"""How many commands of a work queue, or of a group, are under way at the same time."""

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import TypeAlias

from mdevemu.accel.scheduler import Lane

Entering: TypeAlias = Generator[int, None, None]
"""Part of a piece of work, see ``mdevemu.accel.scheduler.Work``."""


class Admission:
    """Places for commands that are under way; who finds none waits, first come first served.

    Attributes:
        places: how many there are.
        taken: how many of them are.
    """

    def __init__(self, places: int) -> None:
        assert places >= 1
        self.places = places
        self.taken = 0
        self._waiting: deque[Lane] = deque()

    def enter(self, lane: Lane) -> Entering:
        """Take a place for a command of this lane, once there is one."""
        if self.taken < self.places and not self._waiting:
            self.taken += 1
            return
        self._waiting.append(lane)
        try:
            while self.taken >= self.places or self._waiting[0] is not lane:
                lane.park()
                yield lane.between(0)
            self.taken += 1
        finally:
            with suppress(ValueError):
                self._waiting.remove(lane)
            # Whoever is first now may have a place already, and nobody else tells it.
            self._wake()

    def leave(self) -> None:
        """Give the place back."""
        assert self.taken > 0
        self.taken -= 1
        self._wake()

    def _wake(self) -> None:
        if self._waiting and self.taken < self.places:
            self._waiting[0].wake()


def enter(every: Sequence[Admission], lane: Lane) -> Entering:
    """Take a place in each, in this order, or in none if the lane is cancelled meanwhile."""
    entered: list[Admission] = []
    try:
        for each in every:
            yield from each.enter(lane)
            entered.append(each)
    except GeneratorExit:
        leave(entered)
        raise


def leave(every: Sequence[Admission]) -> None:
    """Give the places back."""
    for each in every:
        each.leave()
