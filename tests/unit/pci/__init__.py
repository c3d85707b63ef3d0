"""Config space, BARs and interrupts of a function, with a device that records what it is told."""

import os
from collections.abc import Sequence

from mdevemu.fds import Fd
from mdevemu.pci.config import Bar, Identity
from mdevemu.pci.function import CONFIG, Function
from mdevemu.pci.messages import MessageKind
from mdevemu.pci.watchdog import Reading
from mdevemu.registers import Bank, RegisterMap
from mdevemu.trace import Trace

COMMAND, STATUS, POWER_CONTROL, DEVICE_CONTROL = 0x04, 0x06, 0x44, 0x58
MEMORY, BUS_MASTER, INTERRUPT_DISABLE = 1 << 1, 1 << 2, 1 << 10
FLR = 1 << 15
INTX, MSI, MSIX, ERR, REQ = range(5)

IDENTITY = Identity(0x1234, 0xACC1, 0x120000)
BARS = (
    Bar(0, 0x10000),
    Bar(2, 0x10000, wide=True),
    Bar(4, 1 << 28, wide=True, prefetchable=True),
)


class Board:
    """A device: BARs that are bytes, a status register, and a log of what it was told."""

    msix_bar = 1
    doorbells = ()

    def __init__(
        self,
        vectors: int = 4,
        bars: Sequence[Bar] = BARS,
        identity: Identity = IDENTITY,
        config: type[RegisterMap] | None = None,
    ) -> None:
        self.vectors, self.bars, self.identity = vectors, bars, identity
        self.config_registers, self.config = config, Bank(config) if config else None
        self.status = 0
        self.told: list[object] = []
        self.memory = {bar.index: bytearray(min(bar.size, 0x10000)) for bar in bars}

    @property
    def pending_intx(self) -> bool:
        return self.status != 0

    def pend(self, vector: int) -> None:
        self.status |= 1 << vector

    def read(self, bar: int, offset: int, length: int) -> bytes:
        return bytes(self.memory[bar][offset : offset + length]).ljust(length, b"\0")

    def write(self, bar: int, offset: int, data: bytes) -> None:
        if bar == 0 and offset == 0:
            self.status &= ~int.from_bytes(data, "little")  # write one to clear
        self.memory[bar][offset : offset + len(data)] = data

    def read_config(self, offset: int, length: int) -> bytes:
        return self.config.read(offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        self.config.write(offset, data)

    def spinning(self, reading: Reading) -> None:
        self.told.append(("spinning", reading.bar, reading.offset))

    def enable(self, bus_master: bool) -> None:
        self.told.append(("enable", bus_master))

    def reset(self) -> None:
        self.status = 0
        self.told.append("reset")


def functional(board: Board, messages: MessageKind = MessageKind.MSIX) -> Function:
    return Function(board, Trace(lambda: 0), "board", messages=messages)


def get(function: Function, offset: int, length: int = 4) -> int:
    return int.from_bytes(function.read(CONFIG, offset, length), "little")


def put(function: Function, offset: int, value: int, length: int = 2) -> None:
    function.write(CONFIG, offset, value.to_bytes(length, "little"))


class Listener:
    """The VMM's end of an eventfd."""

    def __init__(self, initial: int = 0, flags: int = os.EFD_NONBLOCK) -> None:
        self._fd = Fd(os.eventfd(initial, flags | os.EFD_CLOEXEC))

    def __del__(self) -> None:
        self._fd.close()

    def lend(self) -> Fd:
        return self._fd.duplicate()

    def count(self) -> int:
        """Signals since the last look."""
        try:
            return os.eventfd_read(self._fd.fileno())
        except BlockingIOError:
            return 0
