"""What the native device's operations work on: the address space of one command."""

from dataclasses import dataclass

from mdevemu.accel.operations import Command, Entry, Extent, extent
from mdevemu.accel.reach import Reach, Reading, Writing
from mdevemu.accel.repeat import apart
from mdevemu.accel.scheduler import Lane
from mdevemu.errors import Elsewhere
from mdevemu.iommu.port import Port
from mdevemu.personalities.native.decode import HBM
from mdevemu.units import PAGE, Iova


@dataclass(slots=True)
class Counters:
    """What the monitoring page shows; counts since reset."""

    completed: int = 0
    failed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    interrupts: int = 0
    doorbells: int = 0
    faults: int = 0


class CountedMemory:
    """Operands of a command: its own addresses by one port, HBM by another, bytes counted.

    Attributes:
        read_bytes, written_bytes: by this command.
    """

    def __init__(self, port: Port, hbm: Port, hbm_at: int, counters: Counters, lane: Lane) -> None:
        """HBM starts at ``hbm_at`` of the port ``hbm``; ``lane`` waits where one must."""
        self._port = port
        self._hbm = hbm
        self._shift = hbm_at - HBM
        self._counters = counters
        self._lane = lane
        self.read_bytes = self.written_bytes = 0
        self._written: range = range(0)

    def read(self, iova: Iova, length: int) -> Reading:
        """Bytes at an address."""
        port, at = self._place(iova)
        data = yield from Reach(port, self._lane).read(at, length)
        self._count(length, 0)
        return data

    def write(self, iova: Iova, data: bytes) -> Writing:
        """Put bytes at an address."""
        port, at = self._place(iova)
        self._writing(iova, len(data))
        yield from Reach(port, self._lane).write(at, data)
        self._count(0, len(data))

    def copy(self, source: Iova, destination: Iova, length: int) -> Writing:
        """Move bytes; without a copy in between where both sides are mapped."""
        if length == 0:
            return
        try:
            self._move(source, destination, length)
        except Elsewhere:
            data = yield from self.read(source, length)
            yield from self.write(destination, data)
        else:
            self._writing(destination, length)
            self._count(length, length)

    @property
    def wrote(self) -> bool:
        """Something was written, or is being written."""
        return bool(self._written)

    def repeatable(self, entry: Entry, command: Command) -> bool:
        """The command can be done again from its beginning, as if it had not begun."""
        written = self._written
        if not written:
            return True
        if not entry.repeatable:
            return False
        operands = (command.source, entry.source), (command.operand, entry.operand)
        reads = [(at, kind) for at, kind in operands if kind is not Extent.NONE]
        sizes = command.length, command.capacity
        return apart(
            (*self._place(Iova(written.start)), len(written)),
            [(*self._place(Iova(at)), extent(kind, *sizes)) for at, kind in reads],
        )

    def forget(self) -> None:
        """Count nothing of this command."""
        self._count(-self.read_bytes, -self.written_bytes)

    def _count(self, read: int, written: int) -> None:
        self.read_bytes += read
        self.written_bytes += written
        self._counters.bytes_read += read
        self._counters.bytes_written += written

    def _writing(self, iova: Iova, length: int) -> None:
        """What an operation writes is one range, from its destination on."""
        low = min(self._written.start, iova) if self._written else iova
        self._written = range(low, max(self._written.stop, iova + length))

    def _move(self, source: Iova, destination: Iova, length: int) -> None:
        """Copy between places that are both at hand."""
        (here, start), (there, end) = self._place(source), self._place(destination)
        if length > PAGE:
            ours = here.views(start, length, write=False)
            theirs = there.views(end, length, write=True)
            first, second = ours[0], theirs[0]
            direct = len(ours) == len(theirs) == 1
            if direct and isinstance(first, memoryview) and isinstance(second, memoryview):
                second[:] = first
                return
        there.write(end, here.read(start, length))

    def _place(self, iova: Iova) -> tuple[Port, Iova]:
        """By which port an operand is reached, and at which address of it."""
        if iova < HBM:
            return self._port, iova
        return self._hbm, Iova(iova + self._shift)
