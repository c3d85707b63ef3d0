"""Notices a guest that reads the same place over and over and waits for something to change."""

from collections.abc import Callable
from dataclasses import dataclass

MANY = 1000
"""Reads of one place, with nothing changed and nothing written, that look like waiting."""

PLACES = 64
"""How many places are watched at once: who reads more of them is not waiting for one."""


@dataclass(slots=True)
class Reading:
    """What a place was last read as, and how often in a row."""

    bar: int
    offset: int
    value: bytes
    count: int = 1


class Watchdog:
    """Counts reads that tell the guest nothing new, of each place."""

    def __init__(self, spinning: Callable[[Reading], None]) -> None:
        """``spinning`` hears once of each such wait; the count goes on while it lasts."""
        self._spinning = spinning
        self._last: dict[tuple[int, int], Reading] = {}

    def read(self, bar: int, offset: int, value: bytes) -> None:
        """The guest read ``value`` from a BAR."""
        last = self._last.get((bar, offset))
        if last is not None and last.value == value:
            last.count += 1
            if last.count == MANY:
                self._spinning(last)
            return
        if len(self._last) >= PLACES:
            self._last.clear()
        self._last[bar, offset] = Reading(bar, offset, value)

    def write(self) -> None:
        """The guest wrote something: whatever it waits for now is another thing."""
        if self._last:
            self._last.clear()
