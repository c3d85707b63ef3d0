"""Interrupts that are messages, MSI or MSI-X, with the VMM's eventfds.

A VMM tells with SET_IRQS where each goes.  One that cannot be delivered waits.

Spec: PCI Express Base 5.0 §6.1.4, §7.7.1 (MSI)
"""

import enum
from collections.abc import Sequence

from mdevemu.fds import Fd
from mdevemu.pci.interrupts import Interrupts

MAX_MSI = 32
"""Most vectors that MSI has."""


class MessageKind(enum.StrEnum):
    """Which capability a function has for its messages."""

    MSIX = "msix"
    MSI = "msi"


class Messages(Interrupts):
    """The message interrupts of a function.

    Attributes:
        held: the function may not send messages at the moment.
    """

    def __init__(self, name: str, vectors: int) -> None:
        super().__init__(name, vectors)
        self.held = False
        self._masked: set[int] = set()
        self._waiting: set[int] = set()

    def reset(self) -> None:
        """Forget what is pending; eventfds and masks are the VMM's and stay."""
        self._waiting.clear()

    def interrupt(self, vector: int) -> None:
        """Send a vector's message, or keep it pending until it can be sent."""
        self._waiting.add(vector)
        self._deliver()

    def hold(self, held: bool) -> None:
        """Keep every message back, or let those that are pending go."""
        self.held = held
        self._deliver()

    def assign(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Vectors that were pending are signalled as soon as they have an eventfd."""
        super().assign(start, eventfds)
        self._deliver()

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
        self._deliver()

    def _deliver(self) -> None:
        """Send what is pending, in order, as far as it can be sent."""
        if self.held or not self._waiting:
            return
        for vector in sorted(self._waiting - self._masked):
            if self.has(vector):
                self._waiting.remove(vector)
                self.signal(vector)


class Msi(Messages):
    """MSI has a power of two of vectors, 1 to 32; a device with more shares them."""

    def __init__(self, vectors: int) -> None:
        """``vectors`` is how many the device would like."""
        super().__init__("MSI", min(MAX_MSI, 1 << (vectors - 1).bit_length()))
