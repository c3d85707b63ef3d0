"""Hop 3, request to reply: one client's conversation, without a socket.

    NEW --VERSION--> READY --close--> OVER
    NEW --any refusal---------------> OVER

Refused, because nothing here stands behind it: region I/O descriptors, device
features, migration data and dirty bitmaps (ENOTSUP); eventfds that fire when a
guest masks or unmasks (ENOTSUP, after which QEMU falls back to UNMASK messages).
A twin socket is never agreed to.  Commands of ours, DMA_READ and DMA_WRITE, go out
between replies and are answered whenever the client likes; nothing waits for them.
"""

import enum
import errno
from collections.abc import Callable
from typing import TypeAlias

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.fds import Fd
from mdevemu.layout import pack
from mdevemu.trace import Trace
from mdevemu.vfio_user import messages, wire
from mdevemu.vfio_user.device import (
    Function,
    Region,
    RegionShape,
    check_vectors,
    device_info,
    irq_info,
    region_info,
)
from mdevemu.vfio_user.lender import Asked
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.version import Capabilities, agree, decode_version, encode_version
from mdevemu.vfio_user.windows import Lent, Windows
from mdevemu.vfio_user.wire import (
    ACCESS,
    ACCESS_SIZE,
    COMMAND,
    HEADER,
    HEADER_SIZE,
    MAX_TRANSFER,
    NO_REPLY,
    REGIONS,
    REPLY,
    TYPE_MASK,
    Command,
    MapFlags,
    SetFlags,
    UnmapFlags,
)

__all__ = ["Function", "Region", "RegionShape", "Reply", "Session", "State", "Windows"]

Reply: TypeAlias = tuple[bytes, tuple[Fd, ...]]
"""Bytes to send (none: no reply is wanted), and descriptors to go along, still the device's."""

NOTHING: Reply = (b"", ())
Handler: TypeAlias = Callable[[Message], Reply]


class State(enum.Enum):
    """Where a conversation is."""

    NEW = "waiting for VERSION"
    READY = "version agreed"
    OVER = "over"


TAKES_FDS = {Command.DMA_MAP, Command.DEVICE_SET_IRQS}
"""Descriptors that come with another command are closed and the command refused."""

NOT_OFFERED = {
    Command.DEVICE_GET_REGION_IO_FDS,
    Command.DEVICE_FEATURE,
    Command.MIG_DATA_READ,
    Command.MIG_DATA_WRITE,
}
"""Commands that exist, and that we do not have: ENOTSUP, as for numbers that nobody knows."""


class Session:
    """The server end of one connection.

    Whoever carries the messages asks for an ``answer`` to each, sends it, closes
    the message, ends the connection once ``state`` is OVER, and calls ``close``
    once at the end.

    Attributes:
        state: where the conversation is.
        peer: what the client said it can do.
        send: how commands of ours leave, whole messages; None if they cannot, so that
            windows without a file are out of reach.
    """

    def __init__(self, function: Function, windows: Windows, trace: Trace, name: str) -> None:
        """``name`` says in the trace which session it is."""
        self.state = State.NEW
        self.peer = Capabilities()
        self.send: Callable[[bytes], None] | None = None
        self._asked: Asked | None = None
        self._function = function
        self._windows = windows
        self._trace = trace
        self._name = name
        self._lent = Lent()
        self._regions = tuple(function.regions)
        assert len(self._regions) == REGIONS
        # How many bytes of each region can be read, and written.
        self._readable = [region.size if region.readable else 0 for region in self._regions]
        self._writable = [region.size if region.writable else 0 for region in self._regions]
        self._handlers: dict[int, Handler] = {Command.VERSION: self._version}
        self._ready: dict[int, Handler] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._write_multi,
            Command.DEVICE_RESET: self._reset,
        }

    def answer(self, message: Message) -> Reply:
        """Carry out one request and encode its reply.

        Raises:
            ProtocolError: it is no request; nothing was done, and the session must end.
        """
        flags = message.flags
        if flags & TYPE_MASK != COMMAND:
            if flags & TYPE_MASK == REPLY and self._asked:
                self._asked.answered(message)
                return NOTHING
            raise ProtocolError(f"a reply to nothing, or type {flags & TYPE_MASK}")
        command = message.command
        try:
            handler = self._handlers.get(command)
            if handler is None:
                raise self._refusal(command)
            if message.fds and command not in TAKES_FDS:
                given = len(message.fds)
                raise RequestError(errno.EINVAL, f"{given} descriptors with command {command}")
            payload, fds = handler(message)
        except RequestError as refusal:
            return self._refuse(message, refusal)
        if flags & NO_REPLY:
            return NOTHING
        size = HEADER_SIZE + len(payload)
        return HEADER.pack(message.id, command, size, REPLY, 0) + payload, fds

    def close(self) -> None:
        """The client is gone: take its windows and eventfds back, keep the device's state."""
        self.state = State.OVER
        if self._asked:
            self._asked.close()
        self._lent.clear()
        self._windows.clear()
        self._windows.attach(None)
        self._function.disconnect()

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
        if self.state is not State.READY:
            return RequestError(errno.EINVAL, f"command {command} while {self.state.value}")
        if command in (Command.VERSION, Command.DMA_READ, Command.DMA_WRITE):
            return RequestError(errno.EINVAL, f"{Command(command).name} from a client, now")
        if command in NOT_OFFERED:
            return RequestError(errno.ENOTSUP, f"{Command(command).name} is not offered")
        return RequestError(errno.ENOTSUP, f"unknown command {command}")

    # Negotiation and information

    def _version(self, message: Message) -> Reply:
        major, minor, self.peer = decode_version(message.payload)
        if major != wire.MAJOR:
            raise RequestError(errno.EINVAL, f"version {major}.{minor}")
        self.state = State.READY
        self._handlers = self._ready
        if self.send:
            largest = self.peer.max_data_xfer_size
            self._asked = Asked(self.send, largest, self._trace, self._name)
            self._windows.attach(self._asked)
        return encode_version(min(minor, wire.MINOR), agree(self.peer)), ()

    def _device_info(self, message: Message) -> Reply:
        messages.roomy(wire.DeviceInfo, message)
        return device_info(), ()

    def _region_info(self, message: Message) -> Reply:
        request = messages.roomy(wire.RegionInfo, message)
        if request.index >= REGIONS:
            raise RequestError(errno.EINVAL, f"region {request.index}")
        region, mappable = self._regions[request.index], self.peer.max_msg_fds > 0
        return region_info(region, request.index, request.argsz, mappable=mappable)

    def _irq_info(self, message: Message) -> Reply:
        request = messages.roomy(wire.IrqInfo, message)
        if request.index >= wire.IRQS:
            raise RequestError(errno.EINVAL, f"interrupt index {request.index}")
        return irq_info(request.index, self._function.interrupts[request.index]), ()

    # Memory

    def _dma_map(self, message: Message) -> Reply:
        request = messages.dma_map(message)
        self._lent.check(request.address, request.size)
        fds = message.take()
        self._windows.map(
            request.address,
            request.size,
            fds[0] if fds else None,
            request.offset if fds else 0,
            readable=MapFlags.READ in request.flags,
            writable=MapFlags.WRITE in request.flags,
        )
        self._lent.add(request.address, request.size)
        self._trace.emit(
            "dma.map",
            session=self._name,
            iova=request.address,
            size=request.size,
            offset=request.offset,
            flags=int(request.flags),
            file=bool(fds),
        )
        return NOTHING

    def _dma_unmap(self, message: Message) -> Reply:
        request = messages.dma_unmap(message)
        if request.flags & UnmapFlags.ALL:
            self._lent.clear()
            self._windows.clear()
        else:
            for iova, size in self._lent.remove(request.address, request.size):
                self._windows.unmap(iova, size)
        self._trace.emit(
            "dma.unmap",
            session=self._name,
            iova=request.address,
            size=request.size,
            flags=int(request.flags),
        )
        return pack(request), ()

    # Interrupts

    def _set_irqs(self, message: Message) -> Reply:
        request, switches = messages.set_irqs(message)
        function, index, start = self._function, request.index, request.start
        if not request.count:
            function.disable(index)
            return NOTHING
        check_vectors(request, function.interrupts[index])
        if SetFlags.EVENTFD in request.flags:
            fds: list[Fd | None] = [*message.take()] or [None] * request.count
            function.assign(index, start, fds)
            return NOTHING
        if SetFlags.TRIGGER in request.flags:
            act = function.trigger
        else:
            act = function.mask if SetFlags.MASK in request.flags else function.unmask
        if switches is None:
            act(index, start, request.count)
            return NOTHING
        for vector, switch in enumerate(switches, start):
            if switch:
                act(index, vector, 1)
        return NOTHING

    # Regions

    def _region_read(self, message: Message) -> Reply:
        payload = message.payload
        if len(payload) != ACCESS_SIZE:
            raise RequestError(errno.EINVAL, f"REGION_READ of {len(payload)} bytes")
        offset, region, count = ACCESS.unpack(payload)
        self._check(self._readable, region, offset, count)
        if not count:
            return payload, ()
        data = self._function.read(region, offset, count)
        assert len(data) == count, f"{len(data)} bytes of region {region}, not {count}"
        return payload + data, ()

    def _region_write(self, message: Message) -> Reply:
        payload = message.payload
        if len(payload) < ACCESS_SIZE:
            raise RequestError(errno.EINVAL, f"REGION_WRITE of {len(payload)} bytes")
        offset, region, count = ACCESS.unpack_from(payload)
        if len(payload) != ACCESS_SIZE + count:
            given = len(payload) - ACCESS_SIZE
            raise RequestError(errno.EINVAL, f"REGION_WRITE of {count} bytes, with {given}")
        self._check(self._writable, region, offset, count)
        if count:
            self._function.write(region, offset, payload[ACCESS_SIZE:])
        return payload[:ACCESS_SIZE], ()

    def _write_multi(self, message: Message) -> Reply:
        writes = messages.write_multi(message)
        for offset, region, data in writes:
            self._check(self._writable, region, offset, len(data))
        for offset, region, data in writes:
            if data:
                self._function.write(region, offset, data)
        return wire.COUNT.pack(len(writes)), ()

    def _check(self, limits: list[int], region: int, offset: int, count: int) -> None:
        """Whether an access of ``count`` bytes stays inside what a region allows.

        Raises:
            RequestError: EINVAL; it does not.
        """
        if region >= REGIONS:
            raise RequestError(errno.EINVAL, f"region {region}")
        if offset + count > limits[region] or count > MAX_TRANSFER:
            raise RequestError(errno.EINVAL, f"{count} bytes at {offset:#x} of region {region}")

    # Reset

    def _reset(self, message: Message) -> Reply:
        if message.payload:
            raise RequestError(errno.EINVAL, f"RESET with {len(message.payload)} bytes")
        self._function.reset()
        return NOTHING
