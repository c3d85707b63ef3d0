"""Hop 1, bytes and descriptors to messages.  Half a message waits here for its rest."""

from collections import deque
from collections.abc import Sequence

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd, close_all
from mdevemu.units import KIB
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.wire import HEADER_SIZE, MAX_MESSAGE

ROOM = 64 * KIB
"""Bytes of a fresh buffer; it grows to the largest message seen."""

SPARE = 4 * KIB
"""Bytes that a message has at least from its start on, so that no read is tiny."""


class Framer:
    """Cuts a byte stream into messages and gives each its descriptors.

    Whoever reads asks for ``space``, says what was ``received``, and calls
    ``next`` until nothing whole is left.

    A Unix socket ends a read after the piece that brought descriptors, so they
    belong to the message that the last byte of the read is in.  (They arrive
    with their message's first byte when header and body are sent at once, as
    every client does.)
    """

    def __init__(self, largest: int = MAX_MESSAGE) -> None:
        """``largest`` is how many bytes a message may have."""
        self._largest = largest
        self._buffer = memoryview(bytearray(ROOM))
        self._start = 0
        self._end = 0
        # Where the last byte of a read with descriptors is, and these; in order.
        self._marks: deque[tuple[int, list[Fd]]] = deque()

    @property
    def inside(self) -> bool:
        """A message has begun and not ended."""
        return self._end > self._start

    def space(self) -> memoryview:
        """Where to put the next bytes; never empty after ``next`` returned None."""
        return self._buffer[self._end :]

    def received(self, count: int, fds: Sequence[Fd] = ()) -> None:
        """``count`` bytes were put into ``space``, and these descriptors came along.

        Raises:
            ProtocolError: more descriptors than one message may have.
        """
        self._end += count
        if fds:
            self._marks.append((self._end - 1, list(fds)))
            # Two, because this read may have ended one message and begun another.
            if sum(len(held) for _, held in self._marks) > 2 * wire.MAX_FDS:
                raise ProtocolError("descriptors without end")

    def next(self) -> Message | None:
        """The next whole message, or None.

        Raises:
            ProtocolError: a header announces an impossible size, or a message
                has more descriptors than it may.
        """
        start, have = self._start, self._end - self._start
        if not have:
            self._start = self._end = 0
            return None
        if have < HEADER_SIZE:
            self._make_room(HEADER_SIZE)
            return None
        id, command, size, flags, error = wire.HEADER.unpack_from(self._buffer, start)
        if not HEADER_SIZE <= size <= self._largest:
            raise ProtocolError(f"message of {size} bytes")
        if have < size:
            self._make_room(size)
            return None
        stop = start + size
        payload = bytes(self._buffer[start + HEADER_SIZE : stop])
        self._start = stop
        fds = self._claim(stop) if self._marks else []
        return Message(id, command, flags, error, payload, fds)

    def close(self) -> None:
        """Close the descriptors of messages that will never be whole."""
        while self._marks:
            close_all(self._marks.popleft()[1])

    def _claim(self, stop: int) -> list[Fd]:
        claimed: list[Fd] = []
        while self._marks and self._marks[0][0] < stop:
            claimed += self._marks.popleft()[1]
        if len(claimed) > wire.MAX_FDS:
            close_all(claimed)
            raise ProtocolError(f"message with {len(claimed)} descriptors")
        return claimed

    def _make_room(self, size: int) -> None:
        """Let a message of ``size`` bytes fit, with something to spare for what follows it."""
        if self._start + max(size, SPARE) <= len(self._buffer):
            return
        waiting = bytes(self._buffer[self._start : self._end])
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        self._buffer[: len(waiting)] = waiting
        self._marks = deque((at - self._start, fds) for at, fds in self._marks)
        self._start, self._end = 0, len(waiting)
