"""A device behind a vfio-user socket, as the guest's driver and checks want to reach it."""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Protocol

from guest.access import Buffer, Interrupt, IovaSpace, whole_pages
from mdevemu.errors import RequestError
from mdevemu.vfio_user.client import Client, RegionInfo, Vector
from mdevemu.vfio_user.wire import Irq, IrqInfo

_BASE = 1 << 32  # first Iova handed out if nobody says otherwise
_CONFIG_REGION = 7
_COMMAND = 0x04  # config space: command register
_MEMORY_AND_MASTER = 0x06
_PIECE = 64 << 10  # bytes of one read


class SocketBuffer:
    """A sealed memfd that the device reaches; see ``guest.access.Buffer``."""

    def __init__(self, iova: int, size: int) -> None:
        self.iova = iova
        self.size = size
        self.file = os.memfd_create("buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, size)
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = mmap.mmap(self.file, size)
        self.view = memoryview(self._memory)

    def close(self) -> None:
        """Give the memory back."""
        self.view.release()
        with contextlib.suppress(BufferError):  # who failed may hold a part, and it goes with that
            self._memory.close()
        os.close(self.file)


class Holder(Protocol):
    """Whoever holds a device for us, as ``mdevemu.vfio_user.client.Client`` does."""

    def region(self, index: int) -> RegionInfo: ...
    def irq_info(self, index: int) -> IrqInfo: ...
    def region_read(self, region: int, offset: int, length: int) -> bytes: ...
    def region_write(self, region: int, offset: int, data: bytes) -> None: ...
    def region_mmap(self, region: int) -> mmap.mmap: ...
    def map_dma(self, iova: int, size: int, file: int) -> None: ...
    def unmap_dma(self, iova: int, size: int) -> object: ...
    def assign_interrupts(self, index: int, start: int, eventfds: Sequence[Vector]) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


class HeldAccess:
    """A device that somebody holds for us until closed; see ``guest.access.Access``."""

    def __init__(self, name: str, client: Holder, *, base: int = _BASE) -> None:
        """Let the device do DMA; owns ``client``.  ``base``: the first Iova."""
        self.name = name
        self._client = client
        self._iovas = IovaSpace(base)
        self._regions = [self._client.region(index) for index in range(6)]
        self.vectors = self._client.irq_info(Irq.MSIX).count
        self._buffers: dict[int, SocketBuffer] = {}
        self._unmapped: set[int] = set()
        self._vectors: list[Vector] = []
        self._interrupts: dict[int, Interrupt] = {}
        self._apertures: dict[int, tuple[mmap.mmap, memoryview]] = {}
        self._master()

    def size(self, bar: int) -> int:
        """Bytes of a BAR, 0 if there is none."""
        return self._regions[bar].size

    def read(self, bar: int, offset: int, size: int) -> int:
        """One register access of 1, 2, 4 or 8 bytes."""
        return int.from_bytes(self._client.region_read(bar, offset, size), "little")

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """One register access of 1, 2, 4 or 8 bytes."""
        self._client.region_write(bar, offset, value.to_bytes(size, "little"))

    def dump(self, bar: int, offset: int, length: int) -> bytes:
        """``length`` bytes of a BAR."""
        return b"".join(
            self._client.region_read(bar, at, min(_PIECE, offset + length - at))
            for at in range(offset, offset + length, _PIECE)
        )

    def config(self, offset: int, length: int) -> bytes:
        """``length`` bytes of the PCI config space."""
        return self._client.region_read(_CONFIG_REGION, offset, length)

    def aperture(self, bar: int) -> memoryview | None:
        """The memory behind a BAR, mapped; None if the BAR is not memory."""
        if bar not in self._apertures:
            if self._regions[bar].file is None:
                return None
            memory = self._client.region_mmap(bar)
            self._apertures[bar] = (memory, memoryview(memory))
        return self._apertures[bar][1]

    def allocate(self, size: int) -> SocketBuffer:
        """Zeroed memory at a fresh Iova."""
        size = whole_pages(size)
        buffer = SocketBuffer(self._iovas.take(size), size)
        try:
            self._client.map_dma(buffer.iova, size, buffer.file)
        except RequestError:
            buffer.close()
            raise
        self._buffers[buffer.iova] = buffer
        return buffer

    def buffers(self) -> list[Buffer]:
        """Every buffer that the device reaches now."""
        return [one for iova, one in self._buffers.items() if iova not in self._unmapped]

    def unmap(self, buffer: Buffer) -> None:
        """Take the buffer from the device; we keep it."""
        self._client.unmap_dma(buffer.iova, buffer.size)
        self._unmapped.add(buffer.iova)

    def map(self, buffer: Buffer) -> None:
        """Give a buffer back to the device at its old Iova."""
        self._client.map_dma(buffer.iova, buffer.size, self._buffers[buffer.iova].file)
        self._unmapped.discard(buffer.iova)

    def release(self, buffer: Buffer) -> None:
        """Take the buffer from the device and from us."""
        if buffer.iova not in self._unmapped:
            self._client.unmap_dma(buffer.iova, buffer.size)
        self._unmapped.discard(buffer.iova)
        self._buffers.pop(buffer.iova).close()

    def interrupt(self, vector: int) -> Interrupt:
        """The vector's interrupts, from now on."""
        if not self._vectors:
            self._vectors = [Vector() for _ in range(self.vectors)]
            self._client.assign_interrupts(Irq.MSIX, 0, self._vectors)
        if vector not in self._interrupts:
            self._interrupts[vector] = self._interrupt(self._vectors[vector].fileno())
        return self._interrupts[vector]

    def _interrupt(self, fileno: int) -> Interrupt:
        """Interrupts that come by an eventfd."""
        return Interrupt(fileno)

    def reset(self) -> None:
        """Reset the device; buffers and interrupts stay."""
        self._client.reset()
        self._master()

    def close(self) -> None:
        """Hang up, which takes everything from the device."""
        self._client.close()
        for vector in self._vectors:
            vector.close()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        for memory, view in self._apertures.values():
            view.release()
            memory.close()
        self._apertures.clear()

    def _master(self) -> None:
        """Let the function decode its BARs and do DMA."""
        now = self._client.region_read(_CONFIG_REGION, _COMMAND, 2)
        both = int.from_bytes(now, "little") | _MEMORY_AND_MASTER
        self._client.region_write(_CONFIG_REGION, _COMMAND, both.to_bytes(2, "little"))


class SocketAccess(HeldAccess):
    """A device that we hold through its vfio-user socket."""

    def __init__(
        self, path: str | os.PathLike[str], *, base: int = _BASE, timeout: float = 10.0
    ) -> None:
        """Connect.  ``base``: the first Iova; ``timeout``: seconds that an answer may take.

        Raises:
            OSError, MdevError: as ``mdevemu.vfio_user.client.Client`` does.
        """
        super().__init__(os.fspath(path), Client(path, timeout=timeout), base=base)
