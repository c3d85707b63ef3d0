"""The twin socket: commands of ours and their answers, beside the client's own conversation."""

import socket
from collections.abc import Callable

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.transport import Transport
from mdevemu.vfio_user.watcher import Watcher


class Twin:
    """Our end of a socket pair; it ends with the connection, and the connection with it.

    Attributes:
        other: the client's end, ours until ``passed``.
    """

    def __init__(
        self,
        loop: Watcher,
        answered: Callable[[Message], None],
        ended: Callable[[str], None],
    ) -> None:
        """``answered`` takes each message and may raise ProtocolError; ``ended`` is told why."""
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self.other = Fd(other.detach())
        self._transport = Transport(ours)
        self._loop = loop
        self._answered = answered
        self._ended = ended
        self._open = True
        self._watch()

    def passed(self) -> None:
        """The client has its end."""
        self.other.close()

    def send(self, data: bytes) -> None:
        """Send a command of ours."""
        if not self._open:
            return
        try:
            self._transport.send(data)
        except OSError as broken:
            self._ended(f"write to the twin socket: {broken.strerror}")
        else:
            self._watch()

    def close(self) -> None:
        """Hang up; again does nothing."""
        if self._open:
            self._open = False
            self._loop.forget(self._transport.fileno())
            self._transport.close()
            self.other.close()

    def _readable(self) -> None:
        try:
            if not self._transport.receive():
                self._ended("the twin socket was closed")
                return
            while self._open and (message := self._transport.next()):
                try:
                    self._answered(message)
                finally:
                    message.close()
        except BlockingIOError:
            return
        except OSError as broken:
            self._ended(f"read of the twin socket: {broken.strerror}")
        except ProtocolError as wrong:
            self._ended(f"twin socket: {wrong}")

    def _writable(self) -> None:
        try:
            self._transport.flush()
        except OSError as broken:
            self._ended(f"write to the twin socket: {broken.strerror}")
        else:
            self._watch()

    def _watch(self) -> None:
        writable = self._writable if self._transport.queued else None
        self._loop.watch(self._transport.fileno(), self._readable, writable)
