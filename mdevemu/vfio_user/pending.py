"""A request whose reply may come later."""

from collections.abc import Callable
from typing import TypeAlias

from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.vfio_user.messages import Message

Reply: TypeAlias = tuple[bytes, tuple[Fd, ...]]
"""Bytes to send (none: no reply is wanted), and descriptors to go along, still the device's."""

LIMIT = 3_000_000_000
"""Nanoseconds that a reply may take; QEMU gives up after five seconds, and then for good."""


class Pending:
    """One request; it is answered once, and what comes after that means nothing.

    Attributes:
        message: the request.
        reply: the payload of its reply, unless it is refused.
        over: it was answered, or nobody waits any more.
        refusal: why it was refused, once it was.
    """

    def __init__(self, message: Message, settled: Callable[["Pending"], None]) -> None:
        """``settled`` is told once it is done or refused."""
        self.message = message
        self.over = False
        self.reply = b""
        self.refusal: RequestError | None = None
        self._settled = settled

    def settle(self, refusal: RequestError | None = None) -> None:
        """It is done, or it is refused."""
        if not self.over:
            self.over = True
            self.refusal = refusal
            self._settled(self)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self.over = True
