"""MSI-X: the table and the pending bits, in a BAR of their own.

A VMM keeps the real table and tells with SET_IRQS where a vector goes, so the
table here is storage that decides nothing, and a masked vector is one that the
VMM masked.  The pending bits are ours: a vector that cannot be delivered waits
there.

Spec: PCI Express Base 5.0 §6.1.4, §7.7.2
"""

from collections.abc import Sequence

from mdevemu.fds import Fd
from mdevemu.layout import Access, Word, bit, bits
from mdevemu.pci.config import Bar
from mdevemu.pci.derive import derive
from mdevemu.pci.interrupts import Interrupts
from mdevemu.registers import Array, Bank, RegisterMap

TABLE = 0x000
"""Offset of the table."""
PENDING = 0x800
"""Offset of the pending bits."""
SIZE = 0x1000
"""Size of the BAR, in bytes."""
ENTRY = 16
"""Size of a table entry, in bytes."""
VECTORS = (PENDING - TABLE) // ENTRY
"""How many vectors there is room for."""


class MessageAddress(Word, width=64):
    """Where the message is written; a multiple of 4."""

    address = bits(63, 2)


class MessageData(Word, width=32):
    """What is written."""

    data = bits(31, 0)


class VectorControl(Word, width=32):
    """Whether the vector is masked."""

    mask = bit(0, reset=True)


class Pending(Word, width=64):
    """One bit for each of 64 vectors."""

    vectors = bits(63, 0, Access.RO)


class MsixRegisters(RegisterMap, size=SIZE):
    """The table, an entry for each vector, and the pending bits."""

    address = Array(TABLE, MessageAddress, count=VECTORS, stride=ENTRY)
    data = Array(TABLE + 8, MessageData, count=VECTORS, stride=ENTRY)
    control = Array(TABLE + 12, VectorControl, count=VECTORS, stride=ENTRY)
    pending = Array(PENDING, Pending, count=VECTORS // 64)


def msix_registers(vectors: int) -> type[MsixRegisters]:
    """The registers for this many vectors, 1 to 128."""
    assert 1 <= vectors <= VECTORS, f"{vectors} MSI-X vectors"
    entries = dict.fromkeys(("address", "data", "control"), vectors)
    return derive(MsixRegisters, {}, entries | {"pending": -(-vectors // 64)})


class Msix(Interrupts):
    """The message interrupts of a function.

    Attributes:
        bar: where the table is.
        held: the function may not send messages at the moment.
    """

    def __init__(self, vectors: int, index: int) -> None:
        """``index`` is the number of the BAR that the table gets."""
        super().__init__("MSI-X", vectors)
        self.bar = Bar(index, SIZE)
        self.held = False
        self._masked: set[int] = set()
        self._bank = Bank(msix_registers(vectors))

    def read(self, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes of the BAR."""
        return self._bank.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Guest write of the BAR."""
        self._bank.write(offset, data)

    def reset(self) -> None:
        """Forget the table and what is pending; eventfds and masks are the VMM's and stay."""
        self._bank.reset()

    def interrupt(self, vector: int) -> None:
        """Send a vector's message, or keep it pending until it can be sent."""
        self._set(vector, True)
        self._deliver(vector)

    def hold(self, held: bool) -> None:
        """Keep every message back, or let those that are pending go."""
        released = self.held and not held
        self.held = held
        if released:
            self._deliver_all()

    def pending(self, vector: int) -> bool:
        """The vector waits to be sent."""
        return bool(self._bank.regs.pending[vector // 64].vectors >> vector % 64 & 1)

    def assign(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Vectors that were pending are signalled as soon as they have an eventfd."""
        super().assign(start, eventfds)
        self._deliver_all()

    def disable(self) -> None:
        """Forget eventfds and masks; what is pending stays so."""
        super().disable()
        self._masked.clear()

    def mask(self, start: int, count: int) -> None:
        """Keep vectors pending until they are unmasked."""
        self.check(start, count)
        self._masked.update(range(start, start + count))

    def unmask(self, start: int, count: int) -> None:
        """Signal those that are pending."""
        self.check(start, count)
        self._masked.difference_update(range(start, start + count))
        self._deliver_all()

    def _deliver_all(self) -> None:
        for vector in range(self.count):
            if self.pending(vector):
                self._deliver(vector)

    def _deliver(self, vector: int) -> None:
        if not self.held and vector not in self._masked and self.has(vector):
            self._set(vector, False)
            self.signal(vector)

    def _set(self, vector: int, pending: bool) -> None:
        word, one = self._bank.regs.pending[vector // 64], 1 << vector % 64
        word.vectors = word.vectors & ~one | (one if pending else 0)
