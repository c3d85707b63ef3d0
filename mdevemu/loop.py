"""The one loop: serves every socket, and does engine work in between.

There are no locks and no threads beside it.  Work is done in bounded pieces, so
a socket waits for one burst of pieces at most.
"""

import select
import time
from collections.abc import Callable

from mdevemu.alarms import Alarm, Alarms

BURST_NS = 50_000
"""How long engines work between two looks at the sockets, in nanoseconds."""

LONGEST_NS = 3600 * 10**9
"""How long one look at the sockets may take, in nanoseconds: epoll has no number for a century."""

READY = 64
"""Most descriptors that one look at the sockets tells of; the next look tells of others."""

READABLE = ~select.EPOLLOUT
WRITABLE = ~select.EPOLLIN
"""Events for which there is something to read, or to write; errors and hang-ups are both."""

Watch = tuple[Callable[[], None] | None, Callable[[], None] | None]
"""What to call when a descriptor can be read, and when it can be written."""


class Loop:
    """Watches descriptors and runs a worker while it has work."""

    def __init__(
        self, clock: Callable[[], int] = time.monotonic_ns, alarms: Alarms | None = None
    ) -> None:
        """``clock`` returns nanoseconds; ``alarms`` ring in its turns, its own if not given."""
        self._clock = clock
        # Not ``selectors``, which costs each message as much as the rest of the loop.
        self._epoll = select.epoll()
        self._watched: dict[int, Watch] = {}
        # What callbacks changed in the turn at hand: events of these are of the past.
        self._changed: set[int] = set()
        # Watched to be called last, and those of them that were ready and have let that pass.
        self._last: set[int] = set()
        self._seen: set[int] = set()
        self._worker: Callable[[], bool] = lambda: False
        self._alarms = alarms or Alarms(clock)
        self._stopped = False

    def watch(
        self,
        fileno: int,
        readable: Callable[[], None] | None,
        writable: Callable[[], None] | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Call back when a descriptor is ready; replaces what was asked for it before.

        ``last``: whoever is ready in the same turn, or in the next that tells of it, comes first.
        """
        events = (select.EPOLLIN if readable else 0) | (select.EPOLLOUT if writable else 0)
        known = self._watched.pop(fileno, None)
        self._changed.add(fileno)
        self._last.discard(fileno)
        self._seen.discard(fileno)
        if events:
            if last:
                self._last.add(fileno)
            self._watched[fileno] = readable, writable
            if known:
                self._epoll.modify(fileno, events)
            else:
                self._epoll.register(fileno, events)
        elif known:
            self._epoll.unregister(fileno)

    def forget(self, fileno: int) -> None:
        """Watch this descriptor no more."""
        self.watch(fileno, None)

    def work(self, worker: Callable[[], bool]) -> None:
        """Call ``worker`` between looks at the sockets; it returns False when idle."""
        self._worker = worker

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """Call ``ring`` once ``delay`` nanoseconds have passed."""
        return self._alarms.after(delay, ring)

    def run(self) -> None:
        """Serve until ``stop``, which may have come before this."""
        idle = False
        while True:
            left = self._alarms.ring_due()
            if self._stopped:
                return
            self.turn(0 if not idle else left and min(left, LONGEST_NS) / 1e9)
            idle = not self._burst()

    def stop(self) -> None:
        """Let ``run`` return after the turn at hand."""
        self._stopped = True

    def go_on(self) -> None:
        """Let ``run`` serve once more after ``stop``."""
        self._stopped = False

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()

    def turn(self, timeout: float | None) -> None:
        """Wait up to ``timeout`` seconds (None: for ever) and call back for what is ready."""
        changed = self._changed
        changed.clear()
        late: list[int] = []
        for fileno, events in self._epoll.poll(timeout, READY):
            # A callback may end, or replace, a watch whose turn is still to come.
            if fileno in changed:
                continue
            if fileno in self._last:
                late.append(fileno)
                continue
            readable, writable = self._watched[fileno]
            if readable and events & READABLE:
                readable()
            if writable and events & WRITABLE and fileno not in changed:
                writable()
        if late:
            self._call_late(late)

    def _call_late(self, ready: list[int]) -> None:
        """Call back for those that were told of before; one look may not tell of all of them."""
        for fileno in ready:
            if fileno in self._changed:
                continue
            if fileno not in self._seen:
                self._seen.add(fileno)
                continue
            self._seen.remove(fileno)
            readable, _ = self._watched[fileno]
            assert readable is not None, "whoever comes last is watched for reading"
            readable()

    def _burst(self) -> bool:
        """Work for a bounded time; False when there is nothing left to do."""
        if not self._worker():
            return False
        end = self._clock() + BURST_NS
        while self._clock() < end:
            if not self._worker():
                return False
        return True
