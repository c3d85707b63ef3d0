"""A recorded client talks again, and the server must answer what it answered then."""

import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mdevemu.capture.labels import StandIns
from mdevemu.capture.pcapng import Captured
from mdevemu.capture.proxy import LARGEST
from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd, close_all
from mdevemu.layout import sizeof, unpack
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.messages import Message, encode
from mdevemu.vfio_user.transport import Transport
from mdevemu.vfio_user.wire import HEADER, HEADER_SIZE, TYPE_MASK, Command

REST = 0.05
"""Seconds after the last message in which nothing more must come."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was not as it was recorded.

    Attributes:
        at: number of the message in the recording, from 1; one more than all of them
            for what came in addition.
        expected: recorded bytes, none if nothing was.
        got: bytes that came, None if nothing did.
        what: in words.
    """

    at: int
    expected: bytes
    got: bytes | None
    what: str


@dataclass(slots=True)
class Replayed:
    """How it went.

    Attributes:
        sent: messages of the client.
        compared: messages of the server.
        differences: in order; the replay ends early once nothing comes any more.
    """

    sent: int = 0
    compared: int = 0
    differences: list[Difference] = field(default_factory=list)


class _Over(Exception):
    """The server does not say what comes next."""


class Replay:
    """One replay over one connection, which it owns.

    Replies are compared with replies and commands of the server with its commands:
    how the two kinds were mixed was chance.  A command may have another number.
    """

    def __init__(self, sock: socket.socket, timeout: float, *, paced: bool = False) -> None:
        """``timeout``: seconds to wait for each message of the server.

        ``paced``: let as much time pass before each message as the client did, for a
        device whose answers depend on what it has done meanwhile.
        """
        self._timeout = timeout
        self._paced = paced
        self._last: int | None = None
        self._transport = Transport(sock, LARGEST)
        self._stand_ins = StandIns()
        self._arrived: dict[int, deque[Message]] = {wire.COMMAND: deque(), wire.REPLY: deque()}
        self._numbers: dict[int, deque[int]] = {}
        self._twin: list[Fd] = []
        self.result = Replayed()

    def run(self, messages: Iterable[Captured]) -> Replayed:
        """Say everything that the client said, and compare everything that the server says."""
        at = 0
        try:
            for at, each in enumerate(messages, 1):
                if self._paced:
                    self._pause(each.time)
                if each.to_server:
                    self._say(at, each)
                else:
                    self._compare(at, each)
            self._nothing_more(at + 1)
        except _Over:
            pass
        return self.result

    def close(self) -> None:
        """Hang up."""
        self._transport.close()
        self._stand_ins.close()
        close_all(self._twin)
        for waiting in self._arrived.values():
            for message in waiting:
                message.close()

    def _pause(self, at: int) -> None:
        """Wait as long as it was from the message before to the one of this time."""
        if self._last is not None:
            time.sleep(max(0, at - self._last) / 1e9)
        self._last = at

    def _say(self, at: int, each: Captured) -> None:
        number, command, _, flags, error = HEADER.unpack_from(each.data)
        payload = each.data[HEADER_SIZE:]
        if flags & TYPE_MASK != wire.COMMAND:
            number = self._number(number)
        data = encode(number, command, payload, flags=flags, error=error)
        size = 0
        if command == Command.DMA_MAP and len(payload) >= sizeof(wire.DmaMap):
            window = unpack(wire.DmaMap, payload)
            size = min(window.offset + window.size, (1 << 63) - 1)
        fds = []
        try:
            fds = [self._stand_ins.of(label, size) for label in each.fds]
            self._transport.send(data, [fd.fileno() for fd in fds])
        except OSError as broken:
            self._differs(at, each.data, None, f"it was not taken: {broken.strerror}")
            raise _Over from None
        finally:
            close_all(fds)
        self.result.sent += 1

    def _number(self, recorded: int) -> int:
        """What number the server's command has now that had this one then."""
        known = self._numbers.get(recorded)
        return known.popleft() if known else recorded

    def _compare(self, at: int, each: Captured) -> None:
        number, _, _, flags, _ = HEADER.unpack_from(each.data)
        kind = wire.REPLY if flags & TYPE_MASK == wire.REPLY else wire.COMMAND
        message = self._next(at, kind, each.data)
        if kind == wire.COMMAND:
            self._numbers.setdefault(number, deque()).append(message.id)
            came = _bytes(message, number)
        else:
            came = _bytes(message, message.id)
        count = len(message.fds)
        if message.command == Command.VERSION:
            # A twin socket, whose end is the connection's.
            self._twin += message.take()
        message.close()
        self.result.compared += 1
        if came != each.data:
            self._differs(at, each.data, came, _difference(each.data, came))
        elif count != len(each.fds):
            self._differs(at, each.data, came, f"{count} descriptors, not {len(each.fds)}")

    def _next(self, at: int, kind: int, expected: bytes) -> Message:
        """The server's next message of a kind."""
        end = time.monotonic() + self._timeout
        while not self._arrived[kind]:
            try:
                came = self._receive(max(0.0, end - time.monotonic()))
            except (OSError, ProtocolError) as broken:
                self._differs(at, expected, None, f"the connection broke: {broken}")
                raise _Over from None
            if came is None:
                self._differs(at, expected, None, f"nothing came in {self._timeout:g} s")
                raise _Over
            if not came:
                self._differs(at, expected, None, "the server hung up")
                raise _Over
        return self._arrived[kind].popleft()

    def _receive(self, timeout: float) -> bool | None:
        """Read once: False if the server is gone, None if nothing came in time."""
        poll = select.poll()
        poll.register(self._transport.fileno(), select.POLLIN)
        if not poll.poll(timeout * 1000):
            return None
        if not self._transport.receive():
            return False
        while message := self._transport.next():
            kind = wire.REPLY if message.flags & TYPE_MASK == wire.REPLY else wire.COMMAND
            self._arrived[kind].append(message)
        return True

    def _nothing_more(self, at: int) -> None:
        """Whatever the server still says was not recorded."""
        try:
            while self._receive(REST):
                pass
        except (OSError, ProtocolError):
            pass
        for waiting in self._arrived.values():
            for message in waiting:
                self._differs(at, b"", _bytes(message, message.id), "a message in addition")

    def _differs(self, at: int, expected: bytes, got: bytes | None, what: str) -> None:
        self.result.differences.append(Difference(at, expected, got, what))


def replay(
    messages: Iterable[Captured],
    path: str | os.PathLike[str],
    timeout: float,
    *,
    paced: bool = False,
) -> Replayed:
    """Replay a conversation against the server behind a socket; see ``Replay``.

    Raises:
        OSError: nobody listens.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    made = Replay(sock, timeout, paced=paced)
    try:
        return made.run(messages)
    finally:
        made.close()


def _bytes(message: Message, number: int) -> bytes:
    return encode(
        number, message.command, message.payload, flags=message.flags, error=message.error
    )


def _difference(expected: bytes, came: bytes) -> str:
    """The first thing that differs, in words."""
    then, now = HEADER.unpack_from(expected), HEADER.unpack_from(came)
    for name, before, after in zip(
        ("number", "command", "size", "flags", "errno"), then, now, strict=True
    ):
        if before != after:
            return f"{name} {after}, not {before}"
    where = next(at for at in range(len(came)) if came[at] != expected[at])
    return f"byte {where} is {came[where]:#04x}, not {expected[where]:#04x}"
