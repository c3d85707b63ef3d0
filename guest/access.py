"""What a driver needs of a bound device, however it is reached.

``guest.vfio_access`` reaches it through /dev/vfio in a guest, ``hostctl.socket_access``
through a vfio-user socket on the host; the driver and the checks are the same for both.
"""

import os
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from guest.errors import DeviceError

PAGE = 4096
_SUPERPAGE = 2 << 20
_LAST = (1 << 47) - 1  # the lower canonical half of an Sv48 address space


class Buffer(Protocol):
    """Memory that the device reaches.

    Attributes:
        iova: where the device finds its first byte; page aligned.
        size: bytes, a multiple of the page size.
        view: the same bytes for us.
    """

    @property
    def iova(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def view(self) -> memoryview: ...


class Interrupt:
    """One interrupt vector as an eventfd.

    Attributes:
        total: interrupts counted since the beginning.
    """

    def __init__(self, fileno: int) -> None:
        """``fileno`` is the eventfd; it stays its owner's to close."""
        self._fileno = fileno
        self._poll = select.poll()
        self._poll.register(fileno, select.POLLIN)
        self.total = 0

    def take(self) -> int:
        """Interrupts since the last take; does not wait."""
        return self.wait(0)

    def wait(self, seconds: float) -> int:
        """Wait for an interrupt; gives how many came since the last take, 0 for none in time."""
        if not self._poll.poll(seconds * 1000):
            return 0
        count = os.eventfd_read(self._fileno)
        self.total += count
        return count


class Access(Protocol):
    """A bound device: its BARs, its config space, memory that it reaches, its interrupts.

    Attributes:
        name: how people call the device: PCI address or socket.
        vectors: number of MSI-X vectors.
    """

    @property
    def name(self) -> str: ...
    @property
    def vectors(self) -> int: ...

    def size(self, bar: int) -> int:
        """Bytes of a BAR, 0 if there is none."""
        ...

    def read(self, bar: int, offset: int, size: int) -> int:
        """One register access of 1, 2, 4 or 8 bytes."""
        ...

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """One register access of 1, 2, 4 or 8 bytes."""
        ...

    def dump(self, bar: int, offset: int, length: int) -> bytes:
        """``length`` bytes of a BAR, by accesses of any size."""
        ...

    def config(self, offset: int, length: int) -> bytes:
        """``length`` bytes of the PCI config space."""
        ...

    def aperture(self, bar: int) -> memoryview | None:
        """The memory behind a BAR, mapped; None if the BAR is not memory."""
        ...

    def allocate(self, size: int) -> Buffer:
        """Zeroed memory of at least ``size`` bytes at a fresh Iova with nothing next to it."""
        ...

    def buffers(self) -> Sequence[Buffer]:
        """Every buffer that the device reaches now."""
        ...

    def unmap(self, buffer: Buffer) -> None:
        """Take the buffer from the device; we keep it."""
        ...

    def map(self, buffer: Buffer) -> None:
        """Give a buffer back to the device at its old Iova."""
        ...

    def release(self, buffer: Buffer) -> None:
        """Take the buffer from the device and from us."""
        ...

    def interrupt(self, vector: int) -> Interrupt:
        """The vector's interrupts, from now on."""
        ...

    def reset(self) -> None:
        """Reset the device as VFIO does; buffers and interrupts stay."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class IovaSpace:
    """Hands out Iovas upward from a base and never twice, so that a stale one stays stale.

    At least one unmapped page lies after each allocation: to run over the end of a buffer
    is a fault and not the next buffer.
    """

    def __init__(self, base: int, ranges: Sequence[tuple[int, int]] = ((0, _LAST),)) -> None:
        """``ranges`` are the (first, last) Iovas that the IOMMU takes."""
        self._next = base
        self._ranges = sorted(ranges)

    def take(self, size: int) -> int:
        """An Iova for ``size`` bytes; 2 MiB aligned if that lets the IOMMU use superpages.

        Raises:
            DeviceError: no room is left.
        """
        step = _SUPERPAGE if size >= _SUPERPAGE else PAGE
        for first, last in self._ranges:
            start = -(-max(self._next, first) // step) * step
            if start + size - 1 <= last:
                self._next = start + -(-size // PAGE) * PAGE + PAGE
                return start
        raise DeviceError(f"no Iovas left for {size} bytes above {self._next:#x}")


@contextmanager
def allocated(access: Access, size: int) -> Iterator[Buffer]:
    """Memory that the device reaches for the length of a block."""
    buffer = access.allocate(size)
    try:
        yield buffer
    finally:
        access.release(buffer)


def whole_pages(size: int) -> int:
    """``size`` bytes, rounded up to pages; at least one."""
    return max(1, -(-size // PAGE)) * PAGE
