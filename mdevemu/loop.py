"""The one loop: serves every socket, and does engine work in between.

There are no locks and no threads beside it.  Work is done in bounded pieces, so
a socket waits for one burst of pieces at most.
"""

import selectors
import time
from collections.abc import Callable

BURST_NS = 400_000
"""How long engines work between two looks at the sockets, in nanoseconds."""


Watch = tuple[Callable[[], None] | None, Callable[[], None] | None]
"""What to call when a descriptor can be read, and when it can be written."""


class Loop:
    """Watches descriptors and runs a worker while it has work."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """``clock`` returns nanoseconds."""
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, Watch] = {}
        self._worker: Callable[[], bool] = lambda: False
        self._ring_due: Callable[[], int | None] = lambda: None
        self._stopped = False

    def watch(
        self,
        fileno: int,
        readable: Callable[[], None] | None,
        writable: Callable[[], None] | None = None,
    ) -> None:
        """Call back when a descriptor is ready; replaces what was asked for it before."""
        events = (selectors.EVENT_READ if readable else 0) | (
            selectors.EVENT_WRITE if writable else 0
        )
        known = self._watched.pop(fileno, None)
        if not events:
            if known:
                self._selector.unregister(fileno)
            return
        self._watched[fileno] = wanted = readable, writable
        if known:
            self._selector.modify(fileno, events, wanted)
        else:
            self._selector.register(fileno, events, wanted)

    def forget(self, fileno: int) -> None:
        """Watch this descriptor no more."""
        self.watch(fileno, None)

    def work(self, worker: Callable[[], bool]) -> None:
        """Call ``worker`` between looks at the sockets; it returns False when idle."""
        self._worker = worker

    def alarms(self, ring_due: Callable[[], int | None]) -> None:
        """Call ``ring_due`` often enough; it tells how many nanoseconds it can wait."""
        self._ring_due = ring_due

    def run(self) -> None:
        """Serve until ``stop``, which may have come before this."""
        idle = False
        while not self._stopped:
            left = self._ring_due()
            self.turn(0 if not idle else left and left / 1e9)
            idle = not self._burst()

    def stop(self) -> None:
        """Let ``run`` return after the turn at hand."""
        self._stopped = True

    def close(self) -> None:
        """Give the selector back."""
        self._selector.close()

    def turn(self, timeout: float | None) -> None:
        """Wait up to ``timeout`` seconds (None: for ever) and call back for what is ready."""
        for key, events in self._selector.select(timeout):
            watch: Watch = key.data
            readable, writable = watch
            # A callback may end, or replace, a watch whose turn is still to come.
            if events & selectors.EVENT_READ and readable and self._stands(key.fd, watch):
                readable()
            if events & selectors.EVENT_WRITE and writable and self._stands(key.fd, watch):
                writable()

    def _stands(self, fileno: int, watch: Watch) -> bool:
        # Not by identity: the selector keeps the old one of two that are equal.
        return self._watched.get(fileno) == watch

    def _burst(self) -> bool:
        """Work for a bounded time; False when there is nothing left to do."""
        end = self._clock() + BURST_NS
        while self._worker():
            if self._clock() >= end:
                return True
        return False
