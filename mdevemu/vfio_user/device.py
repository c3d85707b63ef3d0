"""What a session needs of the function behind it, and how that is told to a client."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all
from mdevemu.layout import pack, sizeof
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.wire import Irq, IrqFlags, RegionFlags


class RegionShape(Protocol):
    """One region: how large it is and what a client may do with it."""

    @property
    def size(self) -> int:
        """Bytes; 0 if the region is not there."""

    @property
    def readable(self) -> bool:
        """Reads are served."""

    @property
    def writable(self) -> bool:
        """Writes are served."""

    @property
    def memory(self) -> Fd | None:
        """A file that the client may map instead, owned by the function."""

    @property
    def memory_offset(self) -> int:
        """Where in that file the region begins, in bytes."""

    @property
    def areas(self) -> Sequence[tuple[int, int]]:
        """The mappable (offset, size) pairs, in bytes of the region; none means all of it."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region as plain values."""

    size: int = 0
    readable: bool = False
    writable: bool = False
    memory: Fd | None = None
    memory_offset: int = 0
    areas: Sequence[tuple[int, int]] = ()


class DoorbellShape(Protocol):
    """Bytes of a region that a client may reach by a descriptor instead of by messages."""

    @property
    def region(self) -> int:
        """Which region they are in."""

    @property
    def offset(self) -> int:
        """Where they begin, in bytes of the region."""

    @property
    def size(self) -> int:
        """How many they are; 1, 2, 4 or 8 with ``data``."""

    @property
    def data(self) -> int | None:
        """The one value whose write rings, by an eventfd (ioeventfd).

        None: any read or write of them may come, over a socket (ioregionfd).
        """


@dataclass(frozen=True, slots=True)
class Doorbell:
    """A doorbell as plain values."""

    region: int
    offset: int
    size: int
    data: int | None = None


class Migration(Protocol):
    """A device's state as a stream.  Spec: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE.

    Which verb may come when is the session's to see to; what it means is the device's.
    """

    def stop(self, done: Callable[[RequestError | None], None]) -> None:
        """Come to rest: no DMA, no interrupt, no register that changes by itself.

        ``done`` is called once, now or later: with None at rest, with what kept the
        device from it if it still runs.
        """

    def run(self) -> None:
        """Go on from where it stands."""

    def save(self, *, live: bool) -> None:
        """A stream begins, or goes on with what changed since.

        ``live``: the device runs meanwhile (PRE_COPY); else it is stopped (STOP_COPY), and
        what comes is the rest of a live stream, or all of it.
        """

    def read(self, size: int) -> bytes:
        """The next bytes of the stream, ``size`` at most; fewer are all there is now."""

    def end(self) -> None:
        """The stream that ``save`` began is over, whether all of it was read or not."""

    def load(self) -> None:
        """A stream comes in (RESUMING); the device is stopped."""

    def write(self, data: bytes) -> None:
        """The next bytes of the stream.

        Raises:
            RequestError: EINVAL; they cannot be a device's state, as a hostile client's are not.
        """

    def finish(self) -> None:
        """The stream is whole: be what it says, stopped.

        Raises:
            RequestError: EINVAL; it is not whole or not ours, and the device is as reset.
        """


class Function(Protocol):
    """The PCI function behind a session.

    A session checks indexes, bounds and counts before it calls.  Each method
    may refuse with a RequestError, which becomes the error reply.  Who derives
    from this class need not write what a simple device does not have.
    """

    @property
    def regions(self) -> Sequence[RegionShape]:
        """Nine, by VFIO region number; the same for as long as a session lives."""

    @property
    def interrupts(self) -> Sequence[int]:
        """How many vectors each of the five VFIO interrupt indexes has."""

    @property
    def doorbells(self) -> Sequence[DoorbellShape]:
        """What can be rung by a descriptor; the same for as long as a session lives."""
        return ()

    @property
    def migration(self) -> Migration | None:
        """Its state as a stream; None if it cannot be moved."""
        return None

    def read(self, region: int, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of a region."""

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region."""

    def reset(self) -> None:
        """Function-level reset."""
        return

    def quiesce(self, done: Callable[[RequestError | None], None]) -> None:
        """Call ``done`` once, now or later, at a moment when no piece of work is under way.

        With None; or with what keeps the device from it, and then nothing is done.  What
        comes next may begin right after.  Nobody waits here for the answer to a DMA
        message, for a client may wait for us in turn: the session takes those back itself.
        """
        done(None)

    def assign(self, index: int, start: int, eventfds: Sequence[Fd | None]) -> None:
        """From vector ``start`` on, fire these, which are now yours; None de-assigns.

        They come from the client and may be any kind of file; a write to one
        must not be able to wait.
        """
        close_all(eventfds)
        raise RequestError(errno.ENOTSUP, f"interrupts of index {index} fire no eventfds")

    def assign_masks(self, index: int, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Like ``assign``, for eventfds that fire when a vector becomes masked."""
        close_all(eventfds)
        raise RequestError(errno.ENOTSUP, f"no events when interrupts of index {index} are masked")

    def disable(self, index: int) -> None:
        """De-assign every eventfd of an index."""
        return

    def trigger(self, index: int, start: int, count: int) -> None:
        """Fire vectors as if the device had."""
        raise RequestError(errno.EINVAL, f"cannot trigger interrupts of index {index}")

    def mask(self, index: int, start: int, count: int) -> None:
        """Hold vectors back, if those of this index can be."""
        raise RequestError(errno.EINVAL, f"cannot mask interrupts of index {index}")

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again."""
        raise RequestError(errno.EINVAL, f"cannot unmask interrupts of index {index}")

    def disconnect(self) -> None:
        """The client is gone: close its eventfds, keep the device's state."""
        return


def device_info() -> bytes:
    """Reply payload of DEVICE_GET_INFO."""
    flags = wire.DeviceFlags.RESET | wire.DeviceFlags.PCI
    size = sizeof(wire.DeviceInfo)
    return pack(wire.DeviceInfo(size, flags, wire.REGIONS, wire.IRQS))


def region_info(
    region: RegionShape, index: int, room: int, *, mappable: bool
) -> tuple[bytes, tuple[Fd, ...]]:
    """Reply payload of DEVICE_GET_REGION_INFO, at most ``room`` bytes, and its descriptor.

    If the mappable areas do not fit, the reply only says how much room they
    need; areas and descriptor go together.  ``mappable`` is False for a client
    that cannot receive a descriptor.
    """
    flags = RegionFlags(0)
    if region.readable and region.size:
        flags |= RegionFlags.READ
    if region.writable and region.size:
        flags |= RegionFlags.WRITE
    size = needed = sizeof(wire.RegionInfo)
    if region.memory is None or not mappable:
        return pack(wire.RegionInfo(size, flags, index, 0, region.size, 0)), ()
    flags |= RegionFlags.MMAP
    capability = _sparse(region.areas) if region.areas else b""
    needed += len(capability)
    offset = region.memory_offset
    if needed > room:
        return pack(wire.RegionInfo(needed, flags, index, 0, region.size, offset)), ()
    if not capability:
        return pack(wire.RegionInfo(size, flags, index, 0, region.size, offset)), (region.memory,)
    info = wire.RegionInfo(needed, flags | RegionFlags.CAPS, index, size, region.size, offset)
    return pack(info) + capability, (region.memory,)


def _sparse(areas: Sequence[tuple[int, int]]) -> bytes:
    head = wire.SparseMmap(wire.SPARSE_MMAP, 1, 0, len(areas), 0)
    return pack(head) + b"".join(pack(wire.Area(offset, size)) for offset, size in areas)


def irq_info(index: int, count: int) -> bytes:
    """Reply payload of DEVICE_GET_IRQ_INFO."""
    flags = IrqFlags.EVENTFD
    if index == Irq.INTX:
        flags |= IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
    return pack(wire.IrqInfo(sizeof(wire.IrqInfo), flags, index, count))


def check_vectors(request: wire.SetIrqs, vectors: int) -> None:
    """Whether an index with so many ``vectors`` has the ones of a request.

    Raises:
        RequestError: EINVAL; it has not.
    """
    if request.start >= vectors or request.start + request.count > vectors:
        raise RequestError(
            errno.EINVAL,
            f"SET_IRQS of {request.count} vectors from {request.start} on;"
            f" index {request.index} has {vectors}",
        )
