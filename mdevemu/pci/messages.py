"""Interrupts that are messages, MSI or MSI-X, with the VMM's eventfds.

A VMM tells with SET_IRQS where each goes.  One that cannot be delivered waits.

Spec: PCI Express Base 5.0 §6.1.4, §7.7.1 (MSI)
"""

import enum
from collections.abc import Sequence
from typing import Any

from mdevemu.fds import Fd
from mdevemu.layout import Access, Word, bits
from mdevemu.pci.interrupts import Interrupts
from mdevemu.registers import Array, Bank, RegisterMap

MAX_MSI = 32
"""Most vectors that MSI has."""


class MessageKind(enum.StrEnum):
    """Which capability a function has for its messages."""

    MSIX = "msix"
    MSI = "msi"


class Pending(Word, width=64):
    """One bit for each of 64 vectors."""

    vectors = bits(63, 0, Access.RO)


class MsiRegisters(RegisterMap, size=8):
    """What is pending of MSI: no register that a guest sees, but part of the state."""

    pending = Array(0, Pending, count=1)


class Messages(Interrupts):
    """The message interrupts of a function.

    Attributes:
        bank: registers with the ``pending`` bits among them.
        held: the function may not send messages at the moment.
    """

    def __init__(self, name: str, vectors: int, bank: Bank[Any]) -> None:
        super().__init__(name, vectors)
        self.bank = bank
        self.held = False
        self._masked: set[int] = set()

    def reset(self) -> None:
        """Forget the registers and what is pending; eventfds and masks are the VMM's and stay."""
        self.bank.reset()

    def interrupt(self, vector: int) -> None:
        """Send a vector's message, or keep it pending until it can be sent."""
        self._set(vector, True)
        self._deliver(vector)

    def hold(self, held: bool) -> None:
        """Keep every message back, or let those that are pending go."""
        released = self.held and not held
        self.held = held
        if released:
            self.deliver()

    def pending(self, vector: int) -> bool:
        """The vector waits to be sent."""
        return bool(self.bank.regs.pending[vector // 64].vectors >> vector % 64 & 1)

    def assign(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Vectors that were pending are signalled as soon as they have an eventfd."""
        super().assign(start, eventfds)
        self.deliver()

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
        self.deliver()

    def deliver(self) -> None:
        """Send what is pending, in order, as far as it can be sent."""
        for vector in range(self.count):
            if self.pending(vector):
                self._deliver(vector)

    def _deliver(self, vector: int) -> None:
        if not self.held and vector not in self._masked and self.has(vector):
            self._set(vector, False)
            self.signal(vector)

    def _set(self, vector: int, pending: bool) -> None:
        word, one = self.bank.regs.pending[vector // 64], 1 << vector % 64
        word.vectors = word.vectors & ~one | (one if pending else 0)


class Msi(Messages):
    """MSI has a power of two of vectors, 1 to 32; a device with more shares them."""

    def __init__(self, vectors: int) -> None:
        """``vectors`` is how many the device would like."""
        count = min(MAX_MSI, 1 << (vectors - 1).bit_length())
        super().__init__("MSI", count, Bank(MsiRegisters))
