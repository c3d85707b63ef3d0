"""Somebody who follows: events on their way to him, as many as there is room for."""

from collections import deque
from collections.abc import Callable, Mapping

from mdevemu.following.filters import Filter
from mdevemu.following.kinds import LOST
from mdevemu.following.records import Record

DEPTH = 8192
"""Events that wait for a follower who does not read; what comes then is lost to him."""

BATCH = 64
"""Events that are sent at once: as much as a guest may have to wait for."""


class Follower:
    """A queue of records for one control client.

    Attributes:
        chosen: which.
    """

    def __init__(
        self, chosen: Filter, wake: Callable[[], None], closed: Callable[["Follower"], None]
    ) -> None:
        """``wake`` is called when there is something to take, ``closed`` once he is gone."""
        self.chosen = chosen
        self._wake = wake
        self._closed = closed
        self._queue: deque[Record] = deque()
        self._lost: Record | None = None

    @property
    def waiting(self) -> bool:
        """There is something to take."""
        return bool(self._queue)

    def offer(self, record: Record) -> None:
        """Something happened."""
        if not self.chosen.passes(record):
            return
        if len(self._queue) >= DEPTH:
            if self._lost is None:
                self._lost = {**_HEAD, "number": record["number"], "time": record["time"]}
            self._lost["lost"] += 1
            return
        self._tell_lost()
        self._queue.append(record)
        if len(self._queue) == 1:
            self._wake()

    def take(self) -> tuple[str, Mapping[str, object]]:
        """The next events, oldest first; where some were lost, one says how many."""
        count = min(len(self._queue), BATCH)
        events = [self._queue.popleft() for _ in range(count)]
        if not self._queue:
            self._tell_lost()
        return "TRACE", {"events": events}

    def close(self) -> None:
        """Nobody follows any more."""
        self._closed(self)

    def _tell_lost(self) -> None:
        if self._lost is not None:
            self._queue.append(self._lost)
            self._lost = None


_HEAD: Record = {"number": 0, "time": 0, "kind": LOST, "mdev": None, "lost": 0}
