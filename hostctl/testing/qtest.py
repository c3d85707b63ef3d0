"""Level "qtest": a real QEMU with the mdev behind vfio-user-pci, and a test that is its CPU.

There is no firmware, so that BARs are placed here; there is no IOMMU, so that an Iova is a
guest-physical address.  Spec: PCI Local Bus 3.0 §6.2.5 (BARs), §6.8.2 (MSI-X)
"""

import contextlib
import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from guest.access import Interrupt, IovaSpace, whole_pages
from guest.errors import DeviceError
from hostctl.socket_access import HeldAccess, SocketBuffer
from hostctl.testing.qtest_machine import Machine, function
from hostctl.vm.argv import device
from images.programs import Program
from mdevemu.vfio_user.client import RegionInfo, Vector
from mdevemu.vfio_user.wire import IrqFlags, IrqInfo, RegionFlags

_RAM = 64 << 20  # bytes
_HEAP = 1 << 20  # where buffers begin; below are mailboxes
_MAILBOX = 0x1000  # where vectors send their messages, four bytes each
_WINDOW = 0xE000_0000  # where BARs are put
_PAUSE = 0.002
_CONFIG = 7
_BAR0 = 0x10
_EXPRESS, _MSIX = 0x10, 0x11
_DEVICE_CONTROL, _INITIATE_FLR = 8, 1 << 15
_MSIX_ENABLE = 1 << 15


class _LentMachine(Machine):
    """A machine with the device, and with memory that is this process's, too.

    Attributes:
        ram: the memory's file.
    """

    def __init__(self, program: Program, mdev: str, folder: Path) -> None:
        """See ``Machine``; ``mdev`` is the path of a socket."""
        self.ram = os.memfd_create("ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.ram, _RAM)
            path = f"/proc/{os.getpid()}/fd/{self.ram}"
            memory = f"memory-backend-file,id=ram,size={_RAM},mem-path={path},share=on"
            options = ["-machine", "memory-backend=ram", "-m", f"{_RAM >> 20}M", "-object", memory]
            super().__init__(program, folder, *options, *device(**function(mdev)))
        except BaseException:
            os.close(self.ram)
            raise

    def close(self) -> None:
        super().close()
        os.close(self.ram)


class _QtestClient:
    """Holds the function in ``SLOT``; see ``hostctl.socket_access.Holder``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._sizes: dict[int, int] = {}
        self._bars: dict[int, int] = {}
        self._place()
        self.msix = machine.capability(_MSIX)

    def _place(self) -> None:
        """Learn the sizes of BARs and put each where it is aligned."""
        config, free, upper = self.machine.config, _WINDOW, False
        for index in range(6):
            at = _BAR0 + 4 * index
            if upper:
                config(at, 0)
                upper = False
                continue
            config(at, 0xFFFF_FFFF)
            found = config(at)
            size = (~(found & ~0xF) & 0xFFFF_FFFF) + 1 if found else 0
            self._sizes[index] = size
            if size:
                self._bars[index] = -(-free // size) * size
                config(at, self._bars[index])
                free, upper = self._bars[index] + size, found & 6 == 4

    def region(self, index: int) -> RegionInfo:
        return RegionInfo(index, self._sizes.get(index, 0), RegionFlags(0), None, 0, ())

    def irq_info(self, index: int) -> IrqInfo:
        control = self.machine.config(self.msix + 2, length=2) if self.msix else None
        return IrqInfo(16, IrqFlags(0), index, 0 if control is None else (control & 0x7FF) + 1)

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        if region == _CONFIG:
            each = (self.machine.config(at, length=1) for at in range(offset, offset + length))
            return bytes(each)
        return self.machine.read(self._bars[region] + offset, length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region == _CONFIG:
            value = int.from_bytes(data, "little")
            self.machine.config(offset, value, length=len(data))
        else:
            self.machine.write(self._bars[region] + offset, data)

    def region_mmap(self, region: int) -> mmap.mmap:
        raise AssertionError(f"region {region} has no file")

    def map_dma(self, iova: int, size: int, file: int) -> None:
        raise AssertionError("the machine's memory is there from the start")

    def unmap_dma(self, iova: int, size: int) -> object:
        raise DeviceError("a machine without an IOMMU takes no memory from its devices")

    def assign_interrupts(self, index: int, start: int, eventfds: Sequence[Vector]) -> None:
        raise AssertionError("interrupts are messages to memory")

    def enable_messages(self, vectors: int) -> None:
        """Have each vector write 1 to its mailbox."""
        table = self.machine.config(self.msix + 4)
        for vector in range(vectors):
            entry = (_MAILBOX + 4 * vector, 0, 1, 0)
            for at, value in enumerate(entry):
                where = (table & ~7) + 16 * vector + 4 * at
                self.region_write(table & 7, where, value.to_bytes(4, "little"))
        control = self.machine.config(self.msix + 2, length=2)
        self.machine.config(self.msix + 2, control | _MSIX_ENABLE, length=2)

    def reset(self) -> None:
        """A function level reset, and BARs in their places again."""
        at = self.machine.capability(_EXPRESS) + _DEVICE_CONTROL
        self.machine.config(at, self.machine.config(at, length=2) | _INITIATE_FLR, length=2)
        for index, place in self._bars.items():
            self.machine.config(_BAR0 + 4 * index, place)

    def close(self) -> None:
        self.machine.close()


class _QtestInterrupt(Interrupt):
    """A vector that writes to memory; those between two looks count as one."""

    def __init__(self, mailbox: memoryview, look: Callable[[], object]) -> None:
        self._mailbox = mailbox
        self._look = look
        self.total = 0

    def wait(self, seconds: float) -> int:
        """See ``Interrupt``."""
        end = time.monotonic() + seconds
        while not self._mailbox[0]:
            if time.monotonic() > end:
                return 0
            time.sleep(_PAUSE)
            self._look()
        self._mailbox[0] = 0
        self.total += 1
        return 1


class _RamBuffer(SocketBuffer):
    """Memory of the machine."""

    def __init__(self, ram: memoryview, iova: int, size: int) -> None:
        self.iova = iova
        self.size = size
        self.view = ram[iova : iova + size]

    def close(self) -> None:
        """The machine keeps it."""
        self.view.release()


class QtestAccess(HeldAccess):
    """A device in a QEMU of its own."""

    def __init__(self, program: Program, mdev: str, folder: Path) -> None:
        """Start QEMU with the mdev of that socket.

        Raises:
            VmError, TimedOut: it does not start.
        """
        machine = _LentMachine(program, mdev, folder)
        with contextlib.ExitStack() as stack:
            stack.callback(machine.close)
            self._memory = mmap.mmap(machine.ram, _RAM)
            self._ram = memoryview(self._memory)
            self._machine = _QtestClient(machine)
            super().__init__(mdev, self._machine)
            stack.pop_all()
        self._iovas = IovaSpace(_HEAP, [(_HEAP, _RAM - 1)])

    def allocate(self, size: int) -> SocketBuffer:
        """Zeroed memory at a fresh address of the machine's."""
        size = whole_pages(size)
        buffer = _RamBuffer(self._ram, self._iovas.take(size), size)
        self._buffers[buffer.iova] = buffer
        return buffer

    def release(self, buffer: object) -> None:
        """Forget a buffer; the machine's memory stays the machine's."""
        assert isinstance(buffer, _RamBuffer)
        self._buffers.pop(buffer.iova).close()

    def interrupt(self, vector: int) -> Interrupt:
        """The vector's interrupts, from now on."""
        if not self._interrupts:
            self._machine.enable_messages(self.vectors)
        if vector not in self._interrupts:
            at = _MAILBOX + 4 * vector
            look = lambda: self._machine.machine.read(0, 1)  # noqa: E731
            self._interrupts[vector] = _QtestInterrupt(self._ram[at : at + 4], look)
        return self._interrupts[vector]

    def reset(self) -> None:
        """Reset the function; buffers and interrupts stay."""
        super().reset()
        if self._interrupts:
            self._machine.enable_messages(self.vectors)
