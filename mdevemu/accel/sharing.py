"""What a slice can do about HBM besides reaching its own: its MMU, and what it shares.

Addresses and offsets are bytes from the start of the slice's HBM.
"""

from typing import Protocol

from mdevemu.accel.hbm import Runs


class Mmu(Protocol):
    """The slice's own translations, of addresses from ``MMU_AT`` to ``MMU_END``."""

    def map(self, runs: Runs, at: int | None = None) -> int | None:
        """Have pieces of our HBM side by side, at an address or wherever there is room.

        Returns the address; None, and nothing is mapped, if that cannot be.
        """

    def unmap(self, at: int) -> None:
        """Take a mapping away; nothing of it is reachable or cached on return."""

    def clear(self) -> None:
        """Map nothing any more."""

    def missing(self, at: int, size: int) -> int | None:
        """The first of these bytes that is not mapped; None if all are."""


class Sharing(Protocol):
    """What a slice lets others reach, and they it."""

    def join(self) -> int:
        """Let others export to us: by this number, until the next reset."""

    def export(self, buffer: int, runs: Runs, peer: int, *, writable: bool) -> int | None:
        """Let another import a buffer, which is these pieces of our HBM.

        Returns its handle, None if that cannot be.
        """

    def revoke(self, handle: int) -> bool:
        """Take an export of ours back; nobody reaches it any more on return."""

    def withdraw(self, buffer: int) -> None:
        """Take every export of a buffer back."""

    def take(self, handle: int) -> tuple[int, int] | None:
        """Import what was exported to us: (address, bytes), None if that cannot be."""

    def release(self, at: int) -> bool:
        """Give up what was imported at an address; False if nothing was."""

    @property
    def imported_bytes(self) -> int:
        """All that was imported."""

    def reset(self) -> None:
        """Share nothing any more, in either direction, and be nobody to the others."""
