"""How many commands of a work queue, of a group, or of several are under way at the same time."""

from collections import deque
from collections.abc import Generator, Sequence
from operator import itemgetter
from typing import TypeAlias

from mdevemu.accel.scheduler import Lane

Entering: TypeAlias = Generator[int, None, None]
"""Part of a piece of work, see ``mdevemu.accel.scheduler.Work``."""

Ticket: TypeAlias = tuple[int, Lane]
"""Who waits, and when he came."""


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

    def first(self) -> Ticket | None:
        """Who has waited longest for a shared place, if one is free.

        Who has a reserved place waits for none: it is his whatever became of others.
        """
        if self.taken == self.shared:
            return None
        heads = [each.waiting[0] for each in self._admissions if each.waiting and not each.spare]
        return min(heads, key=itemgetter(0), default=None)


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
        self.waiting: deque[Ticket] = deque()
        places.add(self)

    @property
    def spare(self) -> bool:
        """A reserved place is free."""
        return self.taken < self.reserved

    def enter(self, lane: Lane) -> Entering:
        """Take a place for a command of this lane, once there is one."""
        if self._free(None):
            self._take()
            return
        mine = self._places.ticket(), lane
        self.waiting.append(mine)
        try:
            while not self._free(mine):
                lane.park()
                yield lane.between(0)
            self._take()
        finally:
            self.waiting.remove(mine)
            # Whoever is first now may have a place already, and nobody else tells it.
            self._wake()

    def leave(self) -> None:
        """Give the place back."""
        assert self.taken > 0
        self.taken -= 1
        self._places.taken -= not self.spare
        self._wake()

    def _free(self, ticket: Ticket | None) -> bool:
        """A place is free, and who has this ticket is next; None comes behind all that wait."""
        if self.spare:
            return (self.waiting[0] if self.waiting else None) is ticket
        return self._places.taken < self._places.shared and self._places.first() is ticket

    def _wake(self) -> None:
        """Let those know who are next."""
        if self.waiting and self.spare:
            self.waiting[0][1].wake()
        if first := self._places.first():
            first[1].wake()

    def _take(self) -> None:
        self._places.taken += not self.spare
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
