"""Requests that wait for their replies, over a socket that blocks for so long and no longer."""

import errno
import math
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.fds import Fd, close_all
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.kept import Kept
from mdevemu.vfio_user.messages import Message, encode
from mdevemu.vfio_user.transport import Transport


class HasDescriptor(Protocol):
    """A file, socket, ``Fd``, ... that has a descriptor."""

    def fileno(self) -> int:
        """Its number."""


FileLike: TypeAlias = int | HasDescriptor
"""A descriptor, as a number or as what has one; it stays its owner's."""


def connect(path: str | os.PathLike[str], timeout: float) -> socket.socket:
    """A socket connected to ``path`` within ``timeout`` seconds.

    Raises:
        OSError: nobody listens there, or nobody takes the connection in time.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    return sock


class Caller:
    """The client end of a connection, without an idea of devices.

    A refusal leaves it open; any other error closes it, because a reply that
    comes late would be taken for another's.  Commands that the server sends are
    answered while we wait.

    Attributes:
        kept: the memory that we answer for.
    """

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        """Own ``sock``; each request may take ``timeout`` seconds."""
        self._timeout = timeout
        self._limit(sock)
        self._transport = Transport(sock)
        self._twin: Transport | None = None
        self._id = 0
        self.kept = Kept()

    def close(self) -> None:
        """Hang up; again does nothing."""
        self._transport.close()
        if self._twin:
            self._twin.close()

    def adopt(self, fds: list[Fd], index: object) -> None:
        """Let one of these descriptors be the twin socket, on which the server asks.

        Raises:
            ProtocolError: there is no such descriptor, or it is no socket.
        """
        if type(index) is not int or index >= len(fds):
            raise self.broken(f"twin socket {index} of {len(fds)} descriptors")
        with fds[index].duplicate() as end:
            try:
                sock = socket.socket(fileno=end.fileno())
            except OSError as wrong:
                raise self.broken(f"twin socket: {wrong.strerror}") from None
            end.release()
        self._limit(sock)
        self._twin = Transport(sock)

    def _limit(self, sock: socket.socket) -> None:
        """Let a socket block for so long and no longer."""
        # Time limits in the kernel cost no extra system call per reply.
        limit = struct.pack("@ll", int(self._timeout), max(1, int(self._timeout % 1 * 1_000_000)))
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def request(self, command: int, payload: bytes = b"", fds: Sequence[FileLike] = ()) -> bytes:
        """The reply's payload; descriptors that came with it are closed.

        Raises:
            RequestError: the server refused.
            ProtocolError: it makes no sense.
            ConnectionError: it is gone.
            TimeoutError: it took too long.
        """
        reply, stray = self.exchange(command, payload, fds)
        close_all(stray)
        return reply

    def exchange(
        self, command: int, payload: bytes = b"", fds: Sequence[FileLike] = ()
    ) -> tuple[bytes, list[Fd]]:
        """The reply's payload and descriptors, which are the caller's; raises like ``request``."""
        id = self.post(command, payload, fds)
        deadline = time.monotonic() + self._timeout
        while True:
            message = self._receive(wire.name(command), deadline)
            if message.flags & wire.TYPE_MASK == wire.COMMAND:
                self._answer(message)
                continue
            if (message.id, message.command) != (id, command):
                message.close()
                raise self.broken(f"reply {message.id} to command {message.command}")
            if message.flags & wire.ERROR:
                message.close()
                number = message.error if message.error in errno.errorcode else errno.EINVAL
                raise RequestError(number, f"{wire.name(command)} refused")
            return message.payload, message.take()

    def post(
        self,
        command: int,
        payload: bytes,
        fds: Sequence[FileLike] = (),
        flags: int = wire.COMMAND,
    ) -> int:
        """The id of the message that went out."""
        self._id = (self._id + 1) & 0xFFFF
        self._transmit(encode(self._id, command, payload, flags=flags), fds)
        return self._id

    def _transmit(
        self, data: bytes, fds: Sequence[FileLike] = (), end: Transport | None = None
    ) -> None:
        end = end or self._transport
        try:
            end.send(data, [fd if isinstance(fd, int) else fd.fileno() for fd in fds])
        except OSError as broken:
            self.close()
            raise ConnectionError(f"server is gone: {broken.strerror}") from broken
        if end.queued:
            self.close()
            raise TimeoutError("server does not read")

    def attend(self, timeout: float) -> int:
        """Answer what the server asks for until ``timeout`` seconds passed without any; how much.

        Raises:
            ProtocolError: what it sends makes no sense.
            ConnectionError: it is gone.
        """
        answered = 0
        while True:
            try:
                message = self._transport.next()
                if message is None:
                    ready = self._wait(timeout)
                    if not ready:
                        return answered
                    if self._twin and self._twin.fileno() in ready:
                        answered += self._attend_twin(self._twin)
                    if self._transport.fileno() not in ready:
                        continue
                    message = self._receive("a command of its own", time.monotonic() + timeout)
            except ProtocolError:
                self.close()
                raise
            if message.flags & wire.TYPE_MASK != wire.COMMAND:
                message.close()
                raise self.broken(f"reply {message.id} to command {message.command}")
            self._answer(message)
            answered += 1

    def _wait(self, timeout: float) -> list[int]:
        """Which sockets can be read within ``timeout`` seconds."""
        poll = select.poll()
        for end in (self._transport, self._twin):
            if end is not None:
                poll.register(end.fileno(), select.POLLIN)
        return [fileno for fileno, _ in poll.poll(math.ceil(max(0.0, timeout) * 1000))]

    def _attend_twin(self, twin: Transport) -> int:
        """Answer what came over the twin socket; how much that was."""
        answered = 0
        try:
            if not twin.receive():
                raise ConnectionResetError("server closed the twin socket")
            while message := twin.next():
                if message.flags & wire.TYPE_MASK != wire.COMMAND:
                    message.close()
                    raise ProtocolError(f"reply {message.id} on the twin socket")
                self._answer(message, twin)
                answered += 1
        except BlockingIOError:
            return answered
        except (OSError, ProtocolError):
            self.close()
            raise
        return answered

    def _receive(self, what: str, deadline: float) -> Message:
        try:
            while (message := self._transport.next()) is None:
                if self._twin:
                    ready = self._wait(deadline - time.monotonic())
                    if not ready:
                        raise BlockingIOError
                    if self._twin.fileno() in ready:
                        self._attend_twin(self._twin)
                    if self._transport.fileno() not in ready:
                        continue
                if not self._transport.receive():
                    raise ConnectionResetError("server closed the connection")
                if time.monotonic() > deadline:
                    raise BlockingIOError
        except BlockingIOError:
            self.close()
            raise TimeoutError(f"no reply to {what} in {self._timeout} s") from None
        except (OSError, ProtocolError):
            self.close()
            raise
        return message

    def _answer(self, message: Message, end: Transport | None = None) -> None:
        """Do what the server asks for, or tell it that we do not."""
        try:
            reply = encode(message.id, message.command, self.kept.answer(message), flags=wire.REPLY)
        except RequestError as refusal:
            flags, error = wire.REPLY | wire.ERROR, refusal.number
            reply = encode(message.id, message.command, flags=flags, error=error)
        finally:
            message.close()
        if not message.flags & wire.NO_REPLY:
            self._transmit(reply, end=end or self._transport)

    def broken(self, what: str) -> ProtocolError:
        """Close, since what comes next would not be understood either."""
        self.close()
        return ProtocolError(what)
