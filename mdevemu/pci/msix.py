"""MSI-X: the table and the pending bits, in a BAR of their own.

A VMM keeps the real table and tells with SET_IRQS where a vector goes, so the
table here is storage that decides nothing, and a masked vector is one that the
VMM masked.  The pending bits are ours: a vector that cannot be delivered waits
there.

Spec: PCI Express Base 5.0 §6.1.4, §7.7.2
"""

from functools import cache

from mdevemu.layout import Word, bit, bits
from mdevemu.pci.config import Bar
from mdevemu.pci.derive import derive
from mdevemu.pci.messages import Messages, Pending
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


class MsixRegisters(RegisterMap, size=SIZE):
    """The table, an entry for each vector, and the pending bits."""

    address = Array(TABLE, MessageAddress, count=VECTORS, stride=ENTRY)
    data = Array(TABLE + 8, MessageData, count=VECTORS, stride=ENTRY)
    control = Array(TABLE + 12, VectorControl, count=VECTORS, stride=ENTRY)
    pending = Array(PENDING, Pending, count=VECTORS // 64)


@cache
def msix_registers(vectors: int) -> type[MsixRegisters]:
    """The registers for this many vectors, 1 to 128."""
    assert 1 <= vectors <= VECTORS, f"{vectors} MSI-X vectors"
    entries = dict.fromkeys(("address", "data", "control"), vectors)
    return derive(MsixRegisters, {}, entries | {"pending": -(-vectors // 64)})


class Msix(Messages):
    """The message interrupts of a function with a table.

    Attributes:
        bar: where the table is.
    """

    def __init__(self, vectors: int, index: int) -> None:
        """``index`` is the number of the BAR that the table gets."""
        super().__init__("MSI-X", vectors, Bank(msix_registers(vectors)))
        self.bar = Bar(index, SIZE)

    @property
    def registers(self) -> type[RegisterMap]:
        """The declaration of the BAR."""
        return self.bank.kind

    def read(self, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes of the BAR."""
        return self.bank.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Guest write of the BAR."""
        self.bank.write(offset, data)
