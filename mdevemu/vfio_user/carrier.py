"""What a session needs of whoever carries its messages, when a reply alone is not enough."""

from collections.abc import Callable
from typing import Protocol

from mdevemu.fds import Fd


class Alarm(Protocol):
    """Something that rings later."""

    def cancel(self) -> None:
        """Do not ring."""


class Carrier(Protocol):
    """Sends what nobody asked for, keeps time, and watches descriptors.

    Callbacks come from outside of a session's own calls.
    """

    def send(self, data: bytes) -> None:
        """Send a command of ours, a whole message: over the twin socket if there is one."""

    def ready(self) -> None:
        """A reply that was not there can be collected, and the next request be answered."""

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """Call back once ``delay`` nanoseconds have passed."""

    def watch(self, fileno: int, readable: Callable[[], None]) -> None:
        """Call back whenever this descriptor can be read."""

    def forget(self, fileno: int) -> None:
        """Watch this descriptor no more."""

    def twin(self) -> Fd | None:
        """The client's end of a new socket for commands of ours, which stays the carrier's.

        What comes over the other end goes to ``Session.answered``.  None: there is none.
        """
