"""Requests that arrived while the reply to an earlier one is not there."""

from collections import deque

from mdevemu.units import KIB
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.messages import Message

MOST_BYTES = 256 * KIB
MOST_FDS = 4 * wire.MAX_FDS


class Held:
    """Messages in order, and their descriptors."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._fds = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def full(self) -> bool:
        """No more should be read."""
        return self._bytes > MOST_BYTES or self._fds > MOST_FDS

    def add(self, message: Message) -> None:
        """Keep a message."""
        self._messages.append(message)
        self._count(message, 1)

    def put_back(self, message: Message) -> None:
        """Keep a message that is older than all others."""
        self._messages.appendleft(message)
        self._count(message, 1)

    def next(self) -> Message | None:
        """The oldest message, which is the caller's; None if there is none."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._count(message, -1)
        return message

    def close(self) -> None:
        """Nobody will answer these."""
        while message := self.next():
            message.close()

    def _count(self, message: Message, sign: int) -> None:
        self._bytes += sign * (wire.HEADER_SIZE + len(message.payload))
        self._fds += sign * len(message.fds)
