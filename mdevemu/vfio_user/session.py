"""Hop 3, request to reply: one client's conversation, without a socket.

    NEW --VERSION--> READY --close--> OVER
    NEW --any refusal---------------> OVER
                     READY <--------> WAITING

One message goes in, its reply comes out; who carries them is free to be a socket, a pipe
or a test.  A request that the device needs time for (a reset, an unmap, a change of the
migration state) puts the session into WAITING: its reply is collected later, and no
request is answered before it.  Commands of ours, DMA_READ and DMA_WRITE, go out between
replies and are answered whenever the client likes; no reply waits for them.

Which requests there are depends on the migration state: see ``migration.ALLOWED``.
"""

import enum
import errno
from collections.abc import Callable
from typing import TypeAlias

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.trace import Trace
from mdevemu.vfio_user import messages, wire
from mdevemu.vfio_user.carrier import Alarm, Carrier
from mdevemu.vfio_user.device import (
    Function,
    Region,
    RegionShape,
    device_info,
    irq_info,
)
from mdevemu.vfio_user.dirty import Logging
from mdevemu.vfio_user.features import Features
from mdevemu.vfio_user.features_wire import MigState
from mdevemu.vfio_user.iofds import IoFds
from mdevemu.vfio_user.irqs import Irqs
from mdevemu.vfio_user.lender import Asked
from mdevemu.vfio_user.memory import Memory
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.migration import ALLOWED, Mover
from mdevemu.vfio_user.pending import LIMIT, Pending, Reply
from mdevemu.vfio_user.regions import Regions
from mdevemu.vfio_user.version import Capabilities, agree, decode_version, encode_version
from mdevemu.vfio_user.windows import Windows
from mdevemu.vfio_user.wire import (
    COMMAND,
    HEADER,
    HEADER_SIZE,
    MAX_TRANSFER,
    NO_REPLY,
    REPLY,
    TYPE_MASK,
    Command,
)

__all__ = ["Function", "Region", "RegionShape", "Reply", "Session", "State", "Windows"]

NOTHING: Reply = (b"", ())
Handler: TypeAlias = Callable[[Message], Reply]
SlowHandler: TypeAlias = Callable[[Message, Pending], None]


class State(enum.Enum):
    """Where a conversation is."""

    NEW = "waiting for VERSION"
    READY = "version agreed"
    WAITING = "a reply is not there yet"
    OVER = "over"


TAKES_FDS = {Command.DMA_MAP, Command.DEVICE_SET_IRQS}
"""Descriptors that come with another command are closed and the command refused."""


class Session:
    """The server end of one connection.

    Whoever carries the messages asks for an ``answer`` to each, sends it, closes
    the message, ends the connection once ``state`` is OVER, and calls ``close``
    once at the end.  While it is WAITING only replies of the client may be passed in;
    when it no longer is, ``collect`` has the reply that was due.

    Attributes:
        state: where the conversation is.
        peer: what the client said it can do.
        carrier: who sends commands of ours, keeps time and watches descriptors; set it
            before the first message.  Without one, windows without a file are out of
            reach, nothing is served by descriptors, and a reply may take for ever.
    """

    def __init__(
        self,
        function: Function,
        windows: Windows,
        trace: Trace,
        name: str,
        mover: Mover | None = None,
    ) -> None:
        """``name`` says in the trace which session it is.

        ``mover`` is where the function's migration is, if it was begun by an earlier session.
        """
        self.state = State.NEW
        self.peer = Capabilities()
        self.carrier: Carrier | None = None
        self._function = function
        self._trace = trace
        self._name = name
        migration = function.migration
        self._mover = Mover(migration) if mover is None and migration is not None else mover
        self._logging = Logging(windows)
        self._memory = Memory(function, windows, self._logging, trace, name)
        self._irqs = Irqs(function)
        self._iofds = IoFds(function, trace, name)
        self._features = Features(self._mover, self._logging)
        self._twin = False
        self._pending: Pending | None = None
        self._alarm: Alarm | None = None
        self._late: Reply = NOTHING
        self._regions = Regions(function)
        self._known: dict[int, Handler] = {
            Command.DMA_MAP: self._memory.map,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_REGION_IO_FDS: self._region_io_fds,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._irqs.set,
            Command.REGION_READ: self._regions.read,
            Command.REGION_WRITE: self._regions.write,
            Command.REGION_WRITE_MULTI: self._regions.write_multi,
            Command.MIG_DATA_READ: self._mig_data_read,
            Command.MIG_DATA_WRITE: self._mig_data_write,
        }
        self._slow: dict[int, SlowHandler] = {
            Command.DMA_UNMAP: self._memory.unmap,
            Command.DEVICE_FEATURE: self._features.answer,
            Command.DEVICE_RESET: self._reset,
        }
        # What can be done now and at once.
        self._handlers: dict[int, Handler] = {Command.VERSION: self._version}

    def answer(self, message: Message) -> Reply:
        """Carry out one request and encode its reply.

        Raises:
            ProtocolError: it is no request; nothing was done, and the session must end.
        """
        flags = message.flags
        if flags & TYPE_MASK != COMMAND:
            if self._twin:
                raise ProtocolError("a reply beside the twin socket")
            self.answered(message)
            return NOTHING
        command = message.command
        try:
            if message.fds and command not in TAKES_FDS:
                given = len(message.fds)
                raise RequestError(errno.EINVAL, f"{given} descriptors with command {command}")
            handler = self._handlers.get(command)
            if handler is None:
                return self._begin(message)
            payload, fds = handler(message)
        except RequestError as refusal:
            return self._refuse(message, refusal)
        if flags & NO_REPLY:
            return NOTHING
        size = HEADER_SIZE + len(payload)
        return HEADER.pack(message.id, command, size, REPLY, 0) + payload, fds

    def answered(self, message: Message) -> None:
        """The client sent a reply to a command of ours; over the twin socket, if there is one.

        Raises:
            ProtocolError: it is none; the session must end.
        """
        kind = message.flags & TYPE_MASK
        if kind != REPLY or message.fds or self._memory.asked is None:
            raise ProtocolError(f"a reply to nothing, or type {kind}")
        self._memory.asked.answered(message)

    def collect(self) -> Reply:
        """The reply that was not there when its request was answered."""
        reply, self._late = self._late, NOTHING
        return reply

    def close(self) -> None:
        """The client is gone: take its windows and eventfds back, keep the device's state."""
        self.state = State.OVER
        if self._pending:
            self._pending.abandon()
            self._quiet()
        self._iofds.close()
        self._logging.close()
        if self._mover:
            self._mover.end_stream()
        self._memory.close()
        self._irqs.close()
        # Tables of its own methods, and its carrier, which has it: such cycles would be left
        # to Python's collector, for which all clients wait.
        self._known.clear()
        self._slow.clear()
        self._handlers.clear()
        self.carrier = None

    # Replies that take time

    def _begin(self, message: Message) -> Reply:
        """Have a request carried out that may take time.

        Raises:
            RequestError: it is refused at once, as what is in no table is.
        """
        handler = self._slow.get(message.command) if self.state is State.READY else None
        if handler is None:
            raise self._refusal(message.command)
        pending = Pending(message, self._settled)
        try:
            handler(message, pending)
        except RequestError:
            pending.abandon()
            raise
        if pending.over:
            return self._outcome(pending)
        self.state = State.WAITING
        self._pending = pending
        if self.carrier:
            self._alarm = self.carrier.after(LIMIT, self._too_late)
        return NOTHING

    def _too_late(self) -> None:
        assert self._pending
        limit = f"{wire.name(self._pending.message.command)} took more than {LIMIT / 1e9:g} s"
        self._pending.settle(RequestError(errno.ETIMEDOUT, limit))

    def _settled(self, pending: Pending) -> None:
        """A request was carried out, or refused, maybe before anybody waits for it."""
        if pending is self._pending:
            self._quiet()
            self.state = State.READY
            self._late = self._outcome(pending)
            if self.carrier:
                self.carrier.ready()

    def _quiet(self) -> None:
        """Wait for nothing."""
        self._pending = None
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None

    def _outcome(self, pending: Pending) -> Reply:
        """The reply to a request that took its time."""
        self._choose()
        message = pending.message
        if pending.refusal is not None:
            return self._refuse(message, pending.refusal)
        if message.flags & NO_REPLY:
            return NOTHING
        return messages.encode(message.id, message.command, pending.reply, flags=REPLY), ()

    def _choose(self) -> None:
        """Allow what the migration state allows."""
        allowed = ALLOWED[self._mover.state if self._mover else MigState.RUNNING]
        self._handlers = {each: self._known[each] for each in allowed & self._known.keys()}
        self._iofds.listen(wanted=Command.REGION_WRITE in allowed)

    # Refusals

    def _refuse(self, message: Message, refusal: RequestError) -> Reply:
        self._trace.emit(
            "session.error",
            session=self._name,
            command=message.command,
            errno=refusal.number,
            reason=refusal.reason,
        )
        if self.state is State.NEW:
            self.state = State.OVER
        if message.flags & NO_REPLY:
            return NOTHING
        flags = REPLY | wire.ERROR
        return messages.encode(message.id, message.command, flags=flags, error=refusal.number), ()

    def _refusal(self, command: int) -> RequestError:
        """Why a command is not in the table of this state."""
        assert self.state is not State.WAITING, "a request while another is not answered"
        if self.state is not State.READY:
            return RequestError(errno.EINVAL, f"command {command} while {self.state.value}")
        if command in (Command.VERSION, Command.DMA_READ, Command.DMA_WRITE):
            return RequestError(errno.EINVAL, f"{Command(command).name} from a client, now")
        if command not in self._known:
            return RequestError(errno.ENOTSUP, f"unknown command {command}")
        if self._mover is None:
            return RequestError(errno.ENOTSUP, f"{Command(command).name} is not offered")
        return RequestError(
            errno.EINVAL, f"{Command(command).name} in state {self._mover.state.name}"
        )

    # Negotiation and information

    def _version(self, message: Message) -> Reply:
        major, minor, self.peer = decode_version(message.payload)
        if major != wire.MAJOR:
            raise RequestError(errno.EINVAL, f"version {major}.{minor}")
        self.state = State.READY
        twin = None
        if carrier := self.carrier:
            if self.peer.twin_socket and self.peer.max_msg_fds:
                twin = carrier.twin()
            largest = self.peer.max_data_xfer_size
            # No client that has data in a wrong place knows of twin sockets.
            asked = Asked(carrier.send, largest, self._trace, self._name, trusted=twin is not None)
            self._memory.attach(asked)
            self._irqs.attach(carrier)
            self._iofds.attach(carrier)
        self._choose()
        self._twin = twin is not None
        agreed = agree(self.peer, movable=self._mover is not None, twin=self._twin)
        told = encode_version(min(minor, wire.MINOR), agreed, fd_index=0 if twin else None)
        return told, (twin,) if twin else ()

    def _device_info(self, message: Message) -> Reply:
        messages.roomy(wire.DeviceInfo, message)
        return device_info(), ()

    def _region_info(self, message: Message) -> Reply:
        return self._regions.info(message, mappable=self.peer.max_msg_fds > 0)

    def _region_io_fds(self, message: Message) -> Reply:
        return self._iofds.answer(message, self.peer.max_msg_fds)

    def _irq_info(self, message: Message) -> Reply:
        request = messages.roomy(wire.IrqInfo, message)
        if request.index >= wire.IRQS:
            raise RequestError(errno.EINVAL, f"interrupt index {request.index}")
        return irq_info(request.index, self._function.interrupts[request.index]), ()

    # Migration and reset

    def _mig_data_read(self, message: Message) -> Reply:
        return self._features.read(message, min(self.peer.max_data_xfer_size, MAX_TRANSFER))

    def _mig_data_write(self, message: Message) -> Reply:
        return self._features.write(message, min(self.peer.max_data_xfer_size, MAX_TRANSFER))

    def _reset(self, message: Message, pending: Pending) -> None:
        if message.payload:
            raise RequestError(errno.EINVAL, f"RESET with {len(message.payload)} bytes")

        def reset(refused: RequestError | None) -> None:
            if refused is None and not pending.over:
                self._memory.forget()
                if self._mover:
                    self._mover.end_stream()
                self._function.reset()
                if self._mover:
                    self._mover.after_reset()
            pending.settle(refused)

        self._function.quiesce(reset)
