"""The queues that the IOMMU fills: faults and page requests.

Spec: RISC-V IOMMU 1.0, Fault/Event-Queue; Page-Request-Queue
"""

from collections.abc import Callable

from mdevemu.iommu.registers import Index, OwnIndex, QueueBase, RecordQueueCsr
from mdevemu.memory import Miss, PhysicalMemory

LOG2_ENTRIES = 16
"""A queue has at most so many entries, as a log-to-base-2."""


def bounded(base: QueueBase) -> None:
    """LOG2SZ-1 is WARL: a larger queue than there can be is the largest one."""
    base.log2sz_1 = min(base.log2sz_1, LOG2_ENTRIES - 1)


class RecordQueue:
    """A ring of records in memory that the IOMMU writes and software reads.

    Software owns the head, the IOMMU the tail.  A queue of n entries holds n - 1
    records.  An error bit stops it until software clears the bit; what comes
    meanwhile is lost.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        base: QueueBase,
        head: Index,
        tail: OwnIndex,
        csr: RecordQueueCsr,
        size: int,
        interrupt: Callable[[], None],
    ) -> None:
        """``size`` is that of a record, in bytes."""
        self._memory = memory
        self._base = base
        self._head = head
        self._tail = tail
        self._csr = csr
        self._size = size
        self._interrupt = interrupt

    @property
    def running(self) -> bool:
        """It is on, and no error stopped it."""
        return self._csr.on and not self._csr.memory_fault and not self._csr.overflow

    @property
    def on(self) -> bool:
        """Software turned it on."""
        return self._csr.on

    @property
    def broken(self) -> bool:
        """A record could not be written to memory."""
        return self._csr.memory_fault

    @property
    def mask(self) -> int:
        """Number of entries, less one."""
        return (2 << self._base.log2sz_1) - 1

    def push(self, record: bytes) -> bool:
        """Write a record and interrupt; False if it was lost."""
        csr = self._csr
        if not self.running:
            return False
        tail, mask = self._tail.index, self.mask
        if tail + 1 & mask == self._head.index & mask:
            csr.overflow = True
        else:
            try:
                self._memory.write((self._base.ppn << 12) + tail * self._size, record)
            except Miss:
                csr.memory_fault = True
            else:
                self._tail.index = tail + 1 & mask
        if csr.interrupt_enable:
            self._interrupt()
        return not csr.overflow and not csr.memory_fault

    def controlled(self, before: int) -> None:
        """Software wrote the csr, which held ``before``: turn on or off."""
        csr = self._csr
        if csr.enable and not before & 1:
            self._tail.index = 0
            csr.memory_fault = csr.overflow = False
        csr.on = csr.enable
        self.remind()

    def moved(self) -> None:
        """Software wrote the head or the base: only the head's low bits can be other than 0."""
        bounded(self._base)
        self._head.index &= self.mask

    def remind(self) -> None:
        """Interrupt again for an error bit that is still there."""
        csr = self._csr
        if csr.interrupt_enable and (csr.memory_fault or csr.overflow):
            self._interrupt()
