"""A PCI function of the guest, reached through VFIO."""

import contextlib
import mmap
import os
import struct

from guest import pci, vfio
from guest.access import Buffer, Interrupt, IovaSpace, whole_pages
from guest.errors import DeviceError
from guest.machine import load_module

_BASE = 1 << 32  # first Iova handed out if nobody says otherwise
_COMMAND = 0x04  # config space: command register
_MEMORY_AND_MASTER = 0x06
_FORMATS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


class VfioBuffer:
    """Anonymous memory of ours that the device reaches; see ``guest.access.Buffer``."""

    def __init__(self, iova: int, memory: mmap.mmap) -> None:
        self.iova = iova
        self.size = len(memory)
        self.memory = memory
        self.view = memoryview(memory)


class VfioAccess:
    """Holds a function through VFIO until closed; see ``guest.access.Access``."""

    def __init__(self, function: pci.Function, base: int | None = None) -> None:
        """Bind the function's group to vfio-pci and open it.  ``base``: the first Iova.

        Raises:
            DeviceError: the kernel or the machine lacks what it takes.
        """
        self.name = function.address
        load_module("vfio-pci")
        self.group = pci.take_group(function)
        with contextlib.ExitStack() as undo:
            self._container = vfio.Container()
            undo.callback(self._container.close)
            group = vfio.Group(self.group, self._container)
            undo.callback(group.close)
            self._container.activate()
            self._device = group.open_device(function.address)
            undo.callback(os.close, self._device)
            self._iovas = IovaSpace(_BASE if base is None else base, self._container.ranges())
            self._regions = [vfio.region(self._device, bar) for bar in range(6)]
            self._config = vfio.region(self._device, vfio.CONFIG_REGION)
            self.vectors = vfio.vectors(self._device, vfio.MSIX)
            self._eventfds: list[int] = []
            self._interrupts: dict[int, Interrupt] = {}
            self._buffers: dict[int, VfioBuffer] = {}
            self._unmapped: set[int] = set()
            self._apertures: dict[int, tuple[mmap.mmap, memoryview]] = {}
            self._master()
            self._undo = undo.pop_all()

    def size(self, bar: int) -> int:
        """Bytes of a BAR, 0 if there is none."""
        return self._regions[bar].size

    def read(self, bar: int, offset: int, size: int) -> int:
        """One register access of 1, 2, 4 or 8 bytes."""
        value: int = struct.unpack(_FORMATS[size], self.dump(bar, offset, size))[0]
        return value

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """One register access of 1, 2, 4 or 8 bytes."""
        data = struct.pack(_FORMATS[size], value)
        os.pwrite(self._device, data, self._regions[bar].offset + offset)

    def dump(self, bar: int, offset: int, length: int) -> bytes:
        """``length`` bytes of a BAR; the kernel chooses the accesses."""
        data = os.pread(self._device, length, self._regions[bar].offset + offset)
        if len(data) != length:
            raise DeviceError(f"{self.name}: read {len(data)} of {length} bytes of BAR{bar}")
        return data

    def config(self, offset: int, length: int) -> bytes:
        """``length`` bytes of the PCI config space."""
        return os.pread(self._device, length, self._config.offset + offset)

    def aperture(self, bar: int) -> memoryview | None:
        """The memory behind a BAR, mapped: as much from its start as can be."""
        if bar not in self._apertures:
            region = self._regions[bar]
            length = next((size for start, size in region.areas if start == 0), 0)
            if not length:
                return None
            memory = mmap.mmap(self._device, length, offset=region.offset)
            self._apertures[bar] = (memory, memoryview(memory))
        return self._apertures[bar][1]

    def allocate(self, size: int) -> VfioBuffer:
        """Zeroed memory at a fresh Iova."""
        # Private memory gets huge pages, and the IOMMU superpages with them.
        memory = mmap.mmap(-1, whole_pages(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_DONTFORK)  # or a write after a fork could leave the pinned page
        buffer = VfioBuffer(self._iovas.take(len(memory)), memory)
        self._container.map(buffer.iova, memory)
        self._buffers[buffer.iova] = buffer
        return buffer

    def buffers(self) -> list[Buffer]:
        """Every buffer that the device reaches now."""
        return [one for iova, one in self._buffers.items() if iova not in self._unmapped]

    def unmap(self, buffer: Buffer) -> None:
        """Take the buffer from the device; we keep it."""
        self._container.unmap(buffer.iova, buffer.size)
        self._unmapped.add(buffer.iova)

    def map(self, buffer: Buffer) -> None:
        """Give a buffer back to the device at its old Iova."""
        self._container.map(buffer.iova, self._buffers[buffer.iova].memory)
        self._unmapped.discard(buffer.iova)

    def release(self, buffer: Buffer) -> None:
        """Take the buffer from the device and from us."""
        if buffer.iova not in self._unmapped:
            self._container.unmap(buffer.iova, buffer.size)
        self._unmapped.discard(buffer.iova)
        ours = self._buffers.pop(buffer.iova)
        ours.view.release()
        with contextlib.suppress(BufferError):  # who failed may hold a part, and it goes with that
            ours.memory.close()

    def interrupt(self, vector: int) -> Interrupt:
        """The vector's interrupts, from now on."""
        if not self._eventfds:
            flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
            self._eventfds = [os.eventfd(0, flags) for _ in range(self.vectors)]
            # All at once: not every kernel can add vectors later.
            vfio.enable_interrupts(self._device, vfio.MSIX, self._eventfds)
        if vector not in self._interrupts:
            self._interrupts[vector] = Interrupt(self._eventfds[vector])
        return self._interrupts[vector]

    def reset(self) -> None:
        """Reset the device; buffers and interrupts stay."""
        vfio.reset(self._device)
        self._master()

    def close(self) -> None:
        """Give everything back; the function stays bound to vfio-pci."""
        if self._eventfds:
            vfio.disable_interrupts(self._device, vfio.MSIX)
        for eventfd in self._eventfds:
            os.close(eventfd)
        for buffer in list(self._buffers.values()):
            self.release(buffer)
        for memory, view in self._apertures.values():
            view.release()
            memory.close()
        self._undo.close()

    def _master(self) -> None:
        """Let the function decode its BARs and do DMA."""
        command: int = struct.unpack("<H", self.config(_COMMAND, 2))[0]
        data = struct.pack("<H", command | _MEMORY_AND_MASTER)
        os.pwrite(self._device, data, self._config.offset + _COMMAND)
