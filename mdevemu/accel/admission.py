"""How many commands of a work queue, of a group, or of several are under way at the same time."""

from collections import deque
from collections.abc import Generator, Sequence
from typing import TypeAlias

from mdevemu.accel.scheduler import Lane

Entering: TypeAlias = Generator[int, None, None]
"""Part of a piece of work, see ``mdevemu.accel.scheduler.Work``."""


class Places:
    """Places for commands that are under way; admissions have some each, and share the rest.

    Attributes:
        shared: how many are for whoever comes.
        taken: how many of these are.
    """

    def __init__(self, count: int) -> None:
        assert count >= 1
        self.shared = count
        self.taken = 0
        self._admissions: list[Admission] = []
        self._tickets = 0

    def add(self, admission: "Admission") -> None:
        """Have one more, whose reserved places are no longer for whoever comes."""
        self.shared -= admission.reserved
        assert self.shared >= 0
        self._admissions.append(admission)

    def ticket(self) -> int:
        """Numbers in the order of those who come to wait."""
        self._tickets += 1
        return self._tickets

    def first(self) -> "Admission | None":
        """Whose oldest waiting command is the next to get a place that is free for it."""
        able = [each for each in self._admissions if each.waiting and each.room]
        return min(able, key=lambda each: each.waiting[0][0]) if able else None

    def wake(self) -> None:
        """Let the next one know, if there is one."""
        if first := self.first():
            first.waiting[0][1].wake()


class Admission:
    """Places for commands of one kind; who finds none waits, first come first served.

    Attributes:
        reserved: how many nobody else gets.
        taken: how many it has, of those and of the shared ones.
        waiting: a ticket and a lane for each command that waits, oldest first.
    """

    def __init__(self, places: Places, reserved: int = 0) -> None:
        self._places = places
        self.reserved = reserved
        self.taken = 0
        self.waiting: deque[tuple[int, Lane]] = deque()
        places.add(self)

    @property
    def room(self) -> bool:
        """There is a free place for one more."""
        return self.taken < self.reserved or self._places.taken < self._places.shared

    def enter(self, lane: Lane) -> Entering:
        """Take a place for a command of this lane, once there is one."""
        if self.room and self._places.first() is None:
            self._take()
            return
        mine = self._places.ticket(), lane
        self.waiting.append(mine)
        try:
            while self.waiting[0] is not mine or self._places.first() is not self:
                lane.park()
                yield lane.between(0)
            self._take()
        finally:
            self.waiting.remove(mine)
            # Whoever is first now may have a place already, and nobody else tells it.
            self._places.wake()

    def leave(self) -> None:
        """Give the place back."""
        assert self.taken > 0
        self.taken -= 1
        self._places.taken -= self.taken >= self.reserved
        self._places.wake()

    def _take(self) -> None:
        self._places.taken += self.taken >= self.reserved
        self.taken += 1


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
