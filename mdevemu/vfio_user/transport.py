"""Hop 1, socket to ``Message``: one system call per read, one per reply, never a wait.

The socket is non-blocking for a server; a client's blocks with a time limit.
"""

import array
import os
import socket
from collections import deque
from collections.abc import Sequence

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd, close_all
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.framing import Framer
from mdevemu.vfio_user.messages import Message

_ANCILLARY = socket.CMSG_LEN(wire.MAX_FDS * array.array("i").itemsize)
# Plain ints: an enum's ``&`` takes longer than the rest of a read.
_RECEIVE = int(socket.MSG_CMSG_CLOEXEC)
_SEND = int(socket.MSG_NOSIGNAL)
_TRUNCATED = int(socket.MSG_CTRUNC)


class Transport:
    """One end of a connection.  Owns the socket, and descriptors on their way in or out.

    Attributes:
        queued: bytes that the socket did not take yet.
    """

    def __init__(self, sock: socket.socket, largest: int = wire.MAX_MESSAGE) -> None:
        """``largest`` is how many bytes a message that arrives may have."""
        self._socket = sock
        self._framer = Framer(largest)
        self._queue: deque[tuple[memoryview, list[Fd]]] = deque()
        self.queued = 0

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def inside(self) -> bool:
        """Part of a message has arrived, and not all of it."""
        return self._framer.inside

    def receive(self) -> bool:
        """Read once; False when the other end closed.

        Call it only after ``next`` returned None.

        Raises:
            BlockingIOError: nothing is there yet.
            OSError: the connection is broken.
            ProtocolError: too many descriptors; those that arrived are closed.
        """
        framer = self._framer
        count, ancillary, flags, _ = self._socket.recvmsg_into(
            [framer.space()], _ANCILLARY, _RECEIVE
        )
        if not ancillary and not flags & _TRUNCATED:
            framer.received(count)
            return count > 0
        fds = _descriptors(ancillary)
        if flags & _TRUNCATED:
            close_all(fds)
            raise ProtocolError("more descriptors than fit")
        framer.received(count, fds)
        return count > 0

    def next(self) -> Message | None:
        """The next message that has arrived as a whole.

        Raises:
            ProtocolError: the stream is not made of messages.
        """
        return self._framer.next()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message, or queue what the socket does not take.

        ``fds`` are numbers of descriptors, which stay the caller's; queued ones
        are duplicated.

        Raises:
            OSError: the connection is broken.
        """
        if not self._queue:
            sent = self._push(data, fds)
            if sent == len(data):
                return
            rest, fds = memoryview(data)[sent:], fds if not sent else ()
        else:
            rest = memoryview(data)
        self._queue.append((rest, [Fd(os.dup(fd)) for fd in fds]))
        self.queued += len(rest)

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it.

        Raises:
            OSError: the connection is broken.
        """
        while self._queue:
            data, fds = self._queue[0]
            sent = self._push(data, [fd.fileno() for fd in fds])
            self.queued -= sent
            if sent:
                close_all(fds)
                self._queue[0] = (data[sent:], [])
            if sent < len(data):
                return
            self._queue.popleft()

    def close(self) -> None:
        """Close the socket, and every descriptor that never arrived where it was to go."""
        self._socket.close()
        self._framer.close()
        while self._queue:
            close_all(self._queue.popleft()[1])
        self.queued = 0

    def _push(self, data: bytes | memoryview, fds: Sequence[int]) -> int:
        """How many bytes the socket took; the descriptors go with the first of them."""
        try:
            if not fds:
                return self._socket.send(data, _SEND)
            numbers = array.array("i", fds)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
            return self._socket.sendmsg([data], rights, _SEND)
        except BlockingIOError:
            return 0


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Fd]:
    """What arrived beside the bytes, owned from here on."""
    fds: list[Fd] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
            fds += [Fd(number) for number in numbers]
    return fds
