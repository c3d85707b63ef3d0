"""One client: its socket and its session, joined, with neither waiting for the other."""

import select
from collections.abc import Callable
from typing import Protocol

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd
from mdevemu.trace import Trace
from mdevemu.units import KIB
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.session import Session, State
from mdevemu.vfio_user.transport import Transport

TURN = 8
"""Messages answered in one wake-up before it is others' turn; a KiB of payload counts as one."""

BACKLOG = 256 * KIB
"""Reply bytes that may wait for a client to read them; more, and it is not listened to."""


class Watcher(Protocol):
    """The loop, as far as a server needs it."""

    def watch(
        self,
        fileno: int,
        readable: Callable[[], None] | None,
        writable: Callable[[], None] | None = None,
    ) -> None:
        """Call back when a descriptor is ready; replaces what was asked for it before."""

    def forget(self, fileno: int) -> None:
        """Watch this descriptor no more."""


class Connection:
    """Carries messages between a non-blocking socket and a session.

    It reads once nothing is left to answer, and answers unless too many replies
    wait for the client.  Messages that one turn leaves over get the next one by
    way of ``again``, a descriptor that is always ready to be read.
    """

    def __init__(
        self,
        transport: Transport,
        session: Session,
        loop: Watcher,
        again: Fd,
        trace: Trace,
        name: str,
        closed: Callable[[], None],
    ) -> None:
        """``again`` stays the caller's; ``closed`` is called once, at the very end."""
        self._transport = transport
        self._session = session
        self._loop = loop
        self._again = again
        self._trace = trace
        self._name = name
        self._closed = closed
        self._open = True
        self._interest = (False, False)
        self._unfinished = False
        self._drained = True
        session.send = self._ask
        trace.emit("session.open", session=name)
        self._watch(drained=True)

    @property
    def hung_up(self) -> bool:
        """The client is gone, though what it sent before may still wait for us."""
        poll = select.poll()
        poll.register(self._transport.fileno(), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def close(self, reason: str) -> None:
        """End the connection; a second time does nothing."""
        if not self._open:
            return
        self._open = False
        self._loop.forget(self._transport.fileno())
        if self._unfinished:
            self._loop.forget(self._again.fileno())
        self._transport.close()
        self._session.close()
        self._trace.emit("session.close", session=self._name, reason=reason)
        self._closed()

    def _fail(self, reason: str) -> None:
        """End the connection because of what came over it."""
        self._trace.emit("session.error", session=self._name, reason=reason)
        self.close(reason)

    def _readable(self) -> None:
        """Read once and answer."""
        try:
            more = self._transport.receive()
        except BlockingIOError:
            return
        except OSError as broken:
            self.close(f"read: {broken.strerror}")
            return
        except ProtocolError as wrong:
            self._fail(str(wrong))
            return
        if more:
            self._answer()
        elif self._transport.inside:
            self._fail("closed inside a message")
        else:
            self.close("closed")

    def _writable(self) -> None:
        """Send what is waiting to be sent, then answer what is waiting for an answer."""
        try:
            self._transport.flush()
        except OSError as broken:
            self.close(f"write: {broken.strerror}")
            return
        self._answer()

    def _answer(self) -> None:
        """Answer messages that have arrived, one turn's worth at most."""
        transport, left = self._transport, TURN
        while left > 0 and transport.queued <= BACKLOG:
            try:
                message = transport.next()
            except ProtocolError as wrong:
                self._fail(str(wrong))
                return
            if message is None:
                self._watch(drained=True)
                return
            left -= 1 + (len(message.payload) >> 10)
            if not self._one(message):
                return
        self._watch(drained=False)

    def _one(self, message: Message) -> bool:
        """Answer one message; False if that ended the connection."""
        try:
            data, fds = self._session.answer(message)
        except ProtocolError as wrong:
            self._fail(str(wrong))
            return False
        finally:
            if message.fds:
                message.close()
        if not self._open:  # the function behind the session may have gone away
            return False
        if data:
            try:
                self._transport.send(data, [fd.fileno() for fd in fds] if fds else ())
            except OSError as broken:
                self.close(f"write: {broken.strerror}")
                return False
        if self._session.state is State.OVER:
            self.close("refused")
            return False
        return True

    def _ask(self, data: bytes) -> None:
        """Send a command of the session's; it may not know yet that the client is gone."""
        if not self._open:
            return
        try:
            self._transport.send(data)
        except OSError as broken:
            self.close(f"write: {broken.strerror}")
        else:
            self._watch(drained=self._drained)

    def _watch(self, *, drained: bool) -> None:
        """Tell the loop what we wait for; ``drained`` means that nothing is left to answer."""
        self._drained = drained
        queued = self._transport.queued
        interest = (drained and queued <= BACKLOG, queued > 0)
        if interest != self._interest:
            self._interest = interest
            readable = self._readable if interest[0] else None
            writable = self._writable if interest[1] else None
            self._loop.watch(self._transport.fileno(), readable, writable)
        unfinished = not drained and queued <= BACKLOG
        if unfinished != self._unfinished:
            self._unfinished = unfinished
            if unfinished:
                self._loop.watch(self._again.fileno(), self._answer)
            else:
                self._loop.forget(self._again.fileno())
