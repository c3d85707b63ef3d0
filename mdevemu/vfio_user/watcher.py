"""The loop, as far as a server needs it."""

from collections.abc import Callable
from typing import Protocol

from mdevemu.vfio_user.carrier import Alarm


class Watcher(Protocol):
    """Calls back when descriptors are ready, and when time has passed."""

    def watch(
        self,
        fileno: int,
        readable: Callable[[], None] | None,
        writable: Callable[[], None] | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Call back when a descriptor is ready; replaces what was asked for it before.

        ``last``: whoever is ready in the same turn, or in the next one, comes first.
        """

    def forget(self, fileno: int) -> None:
        """Watch this descriptor no more."""

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """Call ``ring`` once ``delay`` nanoseconds have passed."""
