"""A proxy between a client and a server that keeps a copy of every message."""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from mdevemu.capture.labels import Labels
from mdevemu.capture.pcapng import Captured
from mdevemu.errors import ProtocolError
from mdevemu.units import KIB, MIB
from mdevemu.vfio_user.messages import Message, encode
from mdevemu.vfio_user.transport import Transport

LARGEST = 64 * MIB + 4 * KIB
"""Most bytes of one message: what QEMU lets a server announce, and a header's worth."""

BACKLOG = MIB
"""Bytes that may wait for one end to read them; more, and the other is not listened to."""

LAST = 5.0
"""Seconds that the end that stays has to read what the one that left had sent."""


@dataclass(slots=True)
class Totals:
    """What went through.

    Attributes:
        to_server, to_client: messages.
        bytes: of all of them.
        ended: why it is over.
    """

    to_server: int = 0
    to_client: int = 0
    bytes: int = 0
    ended: str = ""


class Proxy:
    """One conversation.  Owns both sockets."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        keep: Callable[[Captured], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Tell ``keep`` every message; ``clock`` returns nanoseconds since the epoch."""
        for each in (client, server):
            each.setblocking(False)
        self._client = Transport(client, LARGEST)
        self._server = Transport(server, LARGEST)
        self._keep = keep
        self._clock = clock
        self._labels = Labels()
        self.totals = Totals()

    def run(self) -> Totals:
        """Carry messages until one end leaves, or is not understood; then close both.

        Raises:
            OSError: ``keep`` raised it.
        """
        ends = (self._client, self._server)
        try:
            while not self.totals.ended:
                poll = select.poll()
                for end, other in (ends, ends[::-1]):
                    wanted = select.POLLIN if other.queued <= BACKLOG else 0
                    poll.register(end.fileno(), wanted | (select.POLLOUT if end.queued else 0))
                ready = dict(poll.poll())
                for end, other in (ends, ends[::-1]):
                    events = ready.get(end.fileno(), 0)
                    if not self.totals.ended and events:
                        self._serve(end, other, events)
            self._drain()
        finally:
            for end in ends:
                end.close()
        return self.totals

    def _serve(self, end: Transport, other: Transport, events: int) -> None:
        try:
            if events & select.POLLOUT:
                end.flush()
            more = not events & ~select.POLLOUT or end.receive()
        except BlockingIOError:
            return
        except ProtocolError as wrong:
            self._end(end, f"sent {wrong}")
            return
        except OSError:
            more = False
        self._carry(end, other)
        if not more:
            self._end(end, "hung up")

    def _carry(self, end: Transport, other: Transport) -> None:
        """Pass on what is whole."""
        while not self.totals.ended:
            try:
                message = end.next()
            except ProtocolError as wrong:
                self._end(end, f"sent {wrong}")
                return
            if message is None:
                return
            try:
                self._pass(message, other)
            finally:
                message.close()

    def _end(self, end: Transport, what: str) -> None:
        name = "client" if end is self._client else "server"
        self.totals.ended = self.totals.ended or f"the {name} {what}"

    def _pass(self, message: Message, other: Transport) -> None:
        data = encode(
            message.id, message.command, message.payload, flags=message.flags, error=message.error
        )
        fds = tuple(self._labels.of(fd) for fd in message.fds)
        to_server = other is self._server
        # Kept before it leaves, so that an answer never stands before its question.
        self._keep(Captured(self._clock(), to_server, data, fds))
        self.totals.bytes += len(data)
        if to_server:
            self.totals.to_server += 1
        else:
            self.totals.to_client += 1
        try:
            other.send(data, [fd.fileno() for fd in message.fds])
        except OSError:
            self._end(other, "hung up")

    def _drain(self) -> None:
        """Let who stays have what the other had sent."""
        end = time.monotonic() + LAST
        for each in (self._client, self._server):
            while each.queued and time.monotonic() < end:
                poll = select.poll()
                poll.register(each.fileno(), select.POLLOUT)
                poll.poll(100)
                try:
                    each.flush()
                except OSError:
                    break
