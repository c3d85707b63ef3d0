"""Level "qtest": a real QEMU with the mdev behind vfio-user-pci, and a test that is its CPU.

There is no firmware, so that BARs are placed here; there is no IOMMU, so that an Iova is a
guest-physical address.  Spec: QEMU, docs/devel/testing/qtest.rst; PCI Local Bus 3.0 §3.2.2.3,
§6.2.5 (BARs), §6.8.2 (MSI-X)
"""

import contextlib
import itertools
import mmap
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from guest.access import Interrupt, IovaSpace, whole_pages
from guest.errors import DeviceError
from hostctl.errors import TimedOut, VmError
from hostctl.processes import spawn, stop, tail
from hostctl.socket_access import HeldAccess, SocketBuffer
from hostctl.vm.argv import device
from images.programs import Program
from mdevemu.vfio_user.client import RegionInfo, Vector
from mdevemu.vfio_user.wire import IrqFlags, IrqInfo, RegionFlags

_RAM = 64 << 20  # bytes
_HEAP = 1 << 20  # where buffers begin; below are mailboxes
_MAILBOX = 0x1000  # where vectors send their messages, four bytes each
_SLOT = 4
_WINDOW = 0xE000_0000  # where BARs are put
_SECONDS = 20.0
_PAUSE = 0.002
_CONFIG = 7
_BAR0, _CAPABILITIES, _COMMAND = 0x10, 0x34, 0x04
_EXPRESS, _MSIX = 0x10, 0x11
_DEVICE_CONTROL, _INITIATE_FLR = 8, 1 << 15
_MSIX_ENABLE = 1 << 15
_WORDS = {1: "b", 2: "w", 4: "l", 8: "q"}
_numbers = itertools.count()


class Machine:
    """QEMU without a CPU."""

    def __init__(self, program: Program, mdev: str, folder: Path) -> None:
        """Start it with the mdev of that socket, and files of its own in ``folder``.

        Raises:
            VmError: it ended.
            TimedOut: it does not answer.
        """
        name = f"qtest{next(_numbers)}"
        self.ram = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.ftruncate(self.ram, _RAM)
        path, self._log = folder / f"{name}.sock", folder / f"{name}.log"
        ram = f"/proc/{os.getpid()}/fd/{self.ram}"
        slot = {"driver": "vfio-user-pci", "addr": f"{_SLOT:02x}.0"}
        self._argv = [
            *program.argv_prefix,
            *("-nodefaults", "-no-user-config", "-display", "none", "-accel", "qtest"),
            *("-machine", "pc,memory-backend=ram", "-m", f"{_RAM >> 20}M", "-qtest-log", "none"),
            *("-object", f"memory-backend-file,id=ram,size={_RAM},mem-path={ram},share=on"),
            *("-qtest", f"unix:{path}"),
            *device(**slot, socket={"type": "unix", "path": mdev}),
        ]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen(1)
            listener.settimeout(_SECONDS)
            self._child = spawn(self._argv, log=self._log, environment=program.env)
            try:
                self._socket, _ = listener.accept()
            except TimeoutError:
                stop(self._child, 1.0)
                raise self._failed("does not start") from None
        self._socket.settimeout(_SECONDS)
        self._answers = self._socket.makefile("r")

    def _failed(self, wrong: str) -> VmError:
        return VmError("QEMU", wrong, self._argv, {"its stderr": tail(self._log)})

    def tell(self, *words: object) -> list[str]:
        """One command of the qtest protocol; what it answers.

        Raises:
            VmError: QEMU is gone, or refuses.
            TimedOut: it does not answer.
        """
        line = " ".join(hex(each) if isinstance(each, int) else str(each) for each in words)
        try:
            self._socket.sendall(line.encode() + b"\n")
            answer = self._answers.readline().split()
        except TimeoutError:
            raise TimedOut(f"QEMU's answer to {line!r}", _SECONDS) from None
        except OSError as error:
            raise self._failed(f"hung up: {error}") from None
        if answer[:1] != ["OK"]:
            raise self._failed(f"{line!r}: {' '.join(answer) or 'hung up'}")
        return answer[1:]

    def read(self, at: int, length: int) -> bytes:
        """Read memory or registers, by one access if there is one of that length."""
        if word := _WORDS.get(length):
            return int(self.tell(f"read{word}", at)[0], 16).to_bytes(length, "little")
        return bytes.fromhex(self.tell("read", at, length)[0][2:])

    def write(self, at: int, data: bytes) -> None:
        """Write memory or registers, by one access if there is one of that length."""
        if word := _WORDS.get(len(data)):
            self.tell(f"write{word}", at, int.from_bytes(data, "little"))
        else:
            self.tell("write", at, len(data), "0x" + data.hex())

    def config(self, at: int, value: int | None = None, *, length: int = 4) -> int:
        """Read config space, or write ``value``; within four aligned bytes."""
        self.tell("outl", 0xCF8, 1 << 31 | _SLOT << 11 | at & ~3)
        word, port = _WORDS[length], 0xCFC + at % 4
        if value is None:
            return int(self.tell(f"in{word}", port)[0], 16)
        self.tell(f"out{word}", port, value)
        return value

    def close(self) -> None:
        """End QEMU and reap it."""
        self._answers.close()
        self._socket.close()
        stop(self._child, 3.0)
        os.close(self.ram)


class _QtestClient:
    """Holds the function in ``_SLOT``; see ``hostctl.socket_access.Holder``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._sizes: dict[int, int] = {}
        self._bars: dict[int, int] = {}
        self._place()
        self.msix = self._capability(_MSIX)

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

    def _capability(self, wanted: int) -> int:
        """Where a capability is; 0 if there is none."""
        at = self.machine.config(_CAPABILITIES, length=1)
        while at and self.machine.config(at, length=1) != wanted:
            at = self.machine.config(at + 1, length=1)
        return at

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
        at = self._capability(_EXPRESS) + _DEVICE_CONTROL
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
        machine = Machine(program, mdev, folder)
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
