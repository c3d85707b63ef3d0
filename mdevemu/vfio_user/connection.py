"""One client: its socket and its session, joined, with neither waiting for the other."""

import select
from collections.abc import Callable
from contextlib import closing
from functools import partial

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd
from mdevemu.trace import Trace
from mdevemu.units import KIB
from mdevemu.vfio_user.carrier import Alarm
from mdevemu.vfio_user.held import Held
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.session import Session, State
from mdevemu.vfio_user.transport import Transport
from mdevemu.vfio_user.twin import Twin
from mdevemu.vfio_user.watcher import Watcher
from mdevemu.vfio_user.wire import COMMAND, TYPE_MASK, Command

TURN = 8
"""Messages answered in one wake-up before it is others' turn; a KiB of payload counts as one."""

SLOW = frozenset(
    {
        Command.VERSION,
        Command.DMA_MAP,
        Command.DMA_UNMAP,
        Command.DEVICE_RESET,
        Command.DEVICE_FEATURE,
        Command.MIG_DATA_READ,
        Command.MIG_DATA_WRITE,
    }
)
"""Each of these takes as long as many accesses, and has a turn to itself."""

BACKLOG = 256 * KIB
"""Reply bytes that may wait for a client to read them; more, and it is not listened to."""


class Connection:
    """Carries messages between a non-blocking socket and a session.

    It reads once nothing is left to answer, and answers unless too many replies
    wait for the client.  Messages that one turn leaves over get the next one by
    way of ``again``, a descriptor that is always ready to be read.  While the
    session waits for its device, requests are held and answers of the client pass.

    It is the session's ``Carrier``.
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
        self._open = True  # the socket is
        self._over = False  # the session is
        self._interest = (False, False)
        self._unfinished = False
        self._drained = True
        self._held = Held()
        self._twin: Twin | None = None
        session.carrier = self
        trace.emit("session.open", session=name)
        self._watch(drained=True)

    @property
    def hung_up(self) -> bool:
        """The client is gone, though what it sent before may still wait for us."""
        if not self._open:
            return True
        poll = select.poll()
        poll.register(self._transport.fileno(), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def close(self, reason: str) -> None:
        """End the connection; a second time does nothing."""
        if self._over:
            return
        self._over = True
        self._hang_up()
        self._loop.forget(self._again.fileno())
        self._session.close()
        self._trace.emit("session.close", session=self._name, reason=reason)
        self._closed()

    def _hang_up(self) -> None:
        """Neither hear nor say anything any more."""
        if not self._open:
            return
        self._open = False
        self._loop.forget(self._transport.fileno())
        self._transport.close()
        self._held.close()
        if self._twin:
            self._twin.close()
            self._twin = None

    def _left(self) -> None:
        """The client hung up: what it lent takes long to give back, and has a turn to itself."""
        self._hang_up()
        self._loop.watch(self._again.fileno(), partial(self.close, "closed"))

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
            self._left()

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
        if self._session.state is State.WAITING:
            self._hold()
            return
        transport, held, left = self._transport, self._held, TURN
        while transport.queued <= BACKLOG:
            try:
                message = held.next() if held else transport.next()
            except ProtocolError as wrong:
                self._fail(str(wrong))
                return
            if message is None:
                self._watch(drained=True)
                return
            share = _share(message)
            if share > left and left < TURN:
                held.put_back(message)  # for the next turn, which it may have whole
                break
            left -= share
            if not self._one(message):
                return
        self._watch(drained=False)

    def _one(self, message: Message) -> bool:
        """Answer one message; False if no other can be answered now."""
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
            # As ``_reply``, without a call: this is the way of every message.
            try:
                self._transport.send(data, [fd.fileno() for fd in fds] if fds else ())
            except OSError as broken:
                self.close(f"write: {broken.strerror}")
                return False
            if fds and self._twin:
                self._twin.passed()
        state = self._session.state
        if state is State.READY:
            return True
        if state is State.WAITING:
            self._hold()
        else:
            self.close("refused")
        return False

    def _reply(self, data: bytes, fds: tuple[Fd, ...]) -> bool:
        """Send a reply; False if that ended the connection."""
        try:
            self._transport.send(data, [fd.fileno() for fd in fds] if fds else ())
        except OSError as broken:
            self.close(f"write: {broken.strerror}")
            return False
        if fds and self._twin:
            self._twin.passed()
        return True

    def _hold(self) -> None:
        """Keep requests for later, and let answers to commands of ours pass."""
        session, held, transport = self._session, self._held, self._transport
        while self._open and session.state is State.WAITING and not held.full:
            try:
                message = transport.next()
                if message is None:
                    break
                if message.flags & TYPE_MASK == COMMAND:
                    held.add(message)
                    continue
                with closing(message):
                    session.answer(message)
            except ProtocolError as wrong:
                self._fail(str(wrong))
                return
        if self._open:
            self._watch(drained=session.state is State.WAITING)

    # What the session needs of its carrier.

    def send(self, data: bytes) -> None:
        """See ``Carrier``; the session may not know yet that the client is gone."""
        if not self._open:
            return
        if self._twin:
            self._twin.send(data)
        elif self._reply(data, ()):
            self._watch(drained=self._drained)

    def ready(self) -> None:
        """See ``Carrier``: send what was due, and let the next turn answer what was held."""
        data, fds = self._session.collect()
        if self._open and (not data or self._reply(data, fds)):
            self._watch(drained=False)

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """See ``Carrier``."""
        return self._loop.after(delay, ring)

    def watch(self, fileno: int, readable: Callable[[], None]) -> None:
        """See ``Carrier``."""
        self._loop.watch(fileno, readable)

    def forget(self, fileno: int) -> None:
        """See ``Carrier``."""
        self._loop.forget(fileno)

    def twin(self) -> Fd | None:
        """See ``Carrier``; without descriptors to spare there is none."""
        try:
            self._twin = Twin(self._loop, self._session.answered, self._fail)
        except OSError:
            return None
        return self._twin.other

    def _watch(self, *, drained: bool) -> None:
        """Tell the loop what we wait for; ``drained`` means that nothing is left to answer."""
        self._drained = drained
        queued = self._transport.queued
        waiting = self._session.state is State.WAITING
        interest = (drained and queued <= BACKLOG and not self._held.full, queued > 0)
        if interest != self._interest:
            self._interest = interest
            readable = self._readable if interest[0] else None
            writable = self._writable if interest[1] else None
            self._loop.watch(self._transport.fileno(), readable, writable)
        unfinished = not drained and queued <= BACKLOG and not waiting
        if unfinished != self._unfinished:
            self._unfinished = unfinished
            if unfinished:
                self._loop.watch(self._again.fileno(), self._answer)
            else:
                self._loop.forget(self._again.fileno())


def _share(message: Message) -> int:
    """How much of a turn a message takes."""
    return TURN if message.command in SLOW else 1 + (len(message.payload) >> 10)
