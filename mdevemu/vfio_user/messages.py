"""Hop 2, message to typed request: what the bytes say, before anybody asks whether it may be.

A decoder refuses what can be judged without knowing the device: short payloads,
flags that do not exist, ranges that wrap.  What depends on the device (bounds,
counts, what is mapped) is the session's to judge.
"""

import errno
from collections.abc import Sequence
from typing import TypeVar

from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all
from mdevemu.layout import Struct, sizeof, unpack
from mdevemu.units import PAGE
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.features_wire import BitmapRequest
from mdevemu.vfio_user.wire import MapFlags, SetFlags, UnmapFlags

S = TypeVar("S", bound=Struct)


class Message:
    """One whole message, and the descriptors that came with it.

    Whoever holds a message closes it; that closes the descriptors nobody took.

    Attributes:
        id: the sender's number for it, to be echoed.
        command: a number, known to us or not.
        flags: type and flag bits of the header.
        error: errno of an error reply.
        payload: the bytes after the header.
        fds: the descriptors, owned.
    """

    __slots__ = ("command", "error", "fds", "flags", "id", "payload")

    def __init__(
        self, id: int, command: int, flags: int, error: int, payload: bytes, fds: list[Fd]
    ) -> None:
        self.id = id
        self.command = command
        self.flags = flags
        self.error = error
        self.payload = payload
        self.fds = fds

    def take(self) -> list[Fd]:
        """Hand the descriptors over to the caller."""
        taken, self.fds = self.fds, []
        return taken

    def close(self) -> None:
        """Close the descriptors nobody took."""
        close_all(self.take())


def encode(
    id: int, command: int, payload: bytes = b"", *, flags: int = wire.COMMAND, error: int = 0
) -> bytes:
    """A whole message, header first."""
    return wire.HEADER.pack(id, command, wire.HEADER.size + len(payload), flags, error) + payload


def fixed(kind: type[S], message: Message) -> S:
    """The struct that a payload begins with, whose first member is ``argsz``.

    Raises:
        RequestError: the payload is too short.
    """
    if len(message.payload) < sizeof(kind):
        given = len(message.payload)
        raise RequestError(errno.EINVAL, f"{kind.__name__} of {given} bytes, not {sizeof(kind)}")
    return unpack(kind, message.payload)


def roomy(kind: type[S], message: Message) -> S:
    """Like ``fixed``, and ``argsz`` leaves room for the same struct.

    Raises:
        RequestError: the payload or the announced size is too small.
    """
    request = fixed(kind, message)
    argsz: int = getattr(request, "argsz")  # noqa: B009 - every such struct has one, Struct has not
    if argsz < sizeof(kind):
        raise RequestError(errno.EINVAL, f"{kind.__name__} with argsz {argsz}")
    return request


def dma_map(message: Message) -> wire.DmaMap:
    """A window that lies on page boundaries and does not wrap; at most one descriptor.

    Raises:
        RequestError: EINVAL, or ENOSPC for a window larger than we can translate.
    """
    request = roomy(wire.DmaMap, message)
    if request.flags > MapFlags.READ | MapFlags.WRITE:
        raise RequestError(errno.EINVAL, f"DMA_MAP with flags {int(request.flags):#x}")
    _aligned("DMA_MAP", request.address, request.size)
    if request.size > wire.MAX_WINDOW:
        raise RequestError(errno.ENOSPC, f"DMA_MAP of {request.size:#x} bytes")
    if len(message.fds) > 1:
        raise RequestError(errno.EINVAL, f"DMA_MAP with {len(message.fds)} descriptors")
    # The end must be a file position too: off_t is signed.
    if message.fds and (request.offset % PAGE or request.offset + request.size >= 1 << 63):
        raise RequestError(errno.EINVAL, f"DMA_MAP at file offset {request.offset:#x}")
    return request


def dma_unmap(message: Message) -> tuple[wire.DmaUnmap, BitmapRequest | None]:
    """One range, or all of them; and which bitmap is wanted, if one is.

    Raises:
        RequestError: EINVAL.
    """
    request = roomy(wire.DmaUnmap, message)
    if request.flags not in (0, UnmapFlags.GET_DIRTY_BITMAP, UnmapFlags.ALL):
        raise RequestError(errno.EINVAL, f"DMA_UNMAP with flags {int(request.flags):#x}")
    if request.flags & UnmapFlags.ALL:
        if request.address or request.size:
            raise RequestError(errno.EINVAL, "DMA_UNMAP of all, and of a range")
        return request, None
    _aligned("DMA_UNMAP", request.address, request.size)
    if not request.flags:
        return request, None
    if len(message.payload) < sizeof(wire.DmaUnmap) + sizeof(BitmapRequest):
        given = len(message.payload)
        raise RequestError(errno.EINVAL, f"DMA_UNMAP with a bitmap in {given} bytes")
    return request, unpack(BitmapRequest, message.payload, sizeof(wire.DmaUnmap))


def check_bitmap(request: wire.DmaUnmap, bitmap: BitmapRequest, size: int) -> None:
    """Whether the reply to a DMA_UNMAP has room for a bitmap of ``size`` bytes.

    Raises:
        RequestError: EINVAL; it has not.
    """
    needed = sizeof(wire.DmaUnmap) + sizeof(BitmapRequest) + size
    if bitmap.size < size or request.argsz < needed:
        given = f"{bitmap.size} bytes, argsz {request.argsz}"
        raise RequestError(errno.EINVAL, f"DMA_UNMAP with a bitmap of {size} bytes; room: {given}")


def _aligned(what: str, address: int, size: int) -> None:
    if not size or (address | size) % PAGE or address + size > 1 << 64:
        raise RequestError(errno.EINVAL, f"{what} of {address:#x}+{size:#x}")


def set_irqs(message: Message) -> tuple[wire.SetIrqs, bytes | None]:
    """What to do to which interrupts, and the switches (None unless BOOL).

    One data kind, one action.  EVENTFD comes with as many descriptors as
    interrupts, or with none to de-assign; nothing else comes with any.  Which
    interrupts can be masked is for the device to say.

    Raises:
        RequestError: EINVAL.
    """
    request = roomy(wire.SetIrqs, message)
    data = request.flags & (SetFlags.NONE | SetFlags.BOOL | SetFlags.EVENTFD)
    action = request.flags & (SetFlags.MASK | SetFlags.UNMASK | SetFlags.TRIGGER)
    what = f"SET_IRQS of index {request.index} with flags {int(request.flags):#x}"
    if request.flags != data | action or data.bit_count() != 1 or action.bit_count() != 1:
        raise RequestError(errno.EINVAL, what)
    if request.index >= wire.IRQS:
        raise RequestError(errno.EINVAL, what)
    if not request.count and (data != SetFlags.NONE or action != SetFlags.TRIGGER):
        raise RequestError(errno.EINVAL, f"{what}: no interrupts")
    if message.fds and (data != SetFlags.EVENTFD or len(message.fds) != request.count):
        given = len(message.fds)
        raise RequestError(errno.EINVAL, f"{what}: {given} descriptors for {request.count}")
    if data != SetFlags.BOOL:
        return request, None
    switches = message.payload[sizeof(wire.SetIrqs) :]
    if len(switches) != request.count:
        raise RequestError(errno.EINVAL, f"{what}: {len(switches)} switches for {request.count}")
    return request, switches


def write_multi(message: Message) -> Sequence[tuple[int, int, bytes]]:
    """Each write's (offset, region, data), in order.

    Raises:
        RequestError: EINVAL, or E2BIG for more writes than one message may have.
    """
    payload, first = message.payload, wire.COUNT.size
    if len(payload) < first:
        raise RequestError(errno.EINVAL, f"REGION_WRITE_MULTI of {len(payload)} bytes")
    (count,) = wire.COUNT.unpack_from(payload)
    if count > wire.MAX_WRITES:
        raise RequestError(errno.E2BIG, f"{count} writes in one message")
    if len(payload) != first + count * wire.MULTI.size:
        raise RequestError(errno.EINVAL, f"{count} writes in {len(payload)} bytes")
    writes = []
    for offset, region, length, data in wire.MULTI.iter_unpack(payload[first:]):
        if length > len(data):
            raise RequestError(errno.EINVAL, f"a write of {length} bytes in REGION_WRITE_MULTI")
        writes.append((offset, region, data[:length]))
    return writes
