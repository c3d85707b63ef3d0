"""HBM that one mdev lets another reach: with both sides' consent, and until revoked.

Who wants to import joins, and gets a number; who exports names the one that may import by
it; that one takes the handle, or does not.
Its MMU then leads to the very same memory, and revoking is taking translations away.
"""

import secrets
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from mdevemu.accel.hbm import Runs
from mdevemu.iommu import Port
from mdevemu.mdev.mmu import Mmu, Places

MAX_IMPORTS = 64
"""What one mdev imports at the same time, at most."""
MAX_EXPORTS = 64
"""What one mdev exports at the same time, at most."""
BITS = 63
"""Width of numbers and handles."""


def _by_lot() -> int:
    return secrets.randbits(BITS)


@dataclass(eq=False, slots=True)
class _Export:
    """A buffer that one mdev may import.

    Attributes:
        buffer: by which address its owner knows it.
        peer: the mdev that may.
        size: bytes.
        at: where that has it, None if it has not imported it.
    """

    owner: "Party"
    buffer: int
    peer: "Party"
    places: Places
    size: int
    writable: bool
    at: int | None = None


@dataclass(eq=False)
class Exchange:
    """What mdevs of one accelerator share.

    Numbers and handles are drawn by lot, so none comes back: not after a reset, and not in
    an accelerator that was started again and knows nothing of those before.

    Attributes:
        draw: gives a random number of ``BITS`` bits.
        parties: those who joined, by their numbers.
    """

    draw: Callable[[], int] = _by_lot
    parties: dict[int, "Party"] = field(default_factory=dict)

    def fresh(self, *taken: Container[int]) -> int:
        """A number that is none of these, and not 0."""
        while not (number := self.draw()) or any(number in each for each in taken):
            pass
        return number


class Party:
    """One mdev among those that may share."""

    changed: Callable[[], None] | None = None
    """Nobody, unless somebody wants to know who has imported from us."""

    def __init__(self, exchange: Exchange, mmu: Mmu, port: Port) -> None:
        """``port`` reaches what ``mmu`` leads to."""
        self._exchange = exchange
        self._port = port
        self._mmu = mmu
        self._exports: dict[int, _Export] = {}  # ours, by handle
        self._offers: dict[int, _Export] = {}  # others' that are for us, by handle
        self._imports: dict[int, _Export] = {}  # those that we took, by address
        self._number: int | None = None

    def join(self) -> int:
        """Let others export to us: by this number, until the next reset."""
        if self._number is None:
            parties = self._exchange.parties
            self._number = self._exchange.fresh(parties)
            parties[self._number] = self
        return self._number

    def export(self, buffer: int, runs: Runs, peer: int, *, writable: bool) -> int | None:
        """Let another mdev import a buffer, which is these pieces of our HBM.

        Returns its handle; None if there is no such mdev, or we export too much.
        """
        other = self._exchange.parties.get(peer)
        if other is None or other is self or len(self._exports) >= MAX_EXPORTS:
            return None
        handle = self._exchange.fresh(self._exports, other._offers)
        places, size = self._mmu.places(runs), sum(count for _, count in runs)
        export = _Export(self, buffer, other, places, size, writable)
        self._exports[handle] = other._offers[handle] = export
        return handle

    def revoke(self, handle: int) -> bool:
        """Take an export back; nobody reaches it any more on return.  False if it is not ours."""
        export = self._exports.pop(handle, None)
        if export is None:
            return False
        del export.peer._offers[handle]
        if export.at is not None:
            export.peer.release(export.at)
        return True

    def withdraw(self, buffer: int) -> None:
        """Revoke every export of a buffer."""
        for handle in [at for at, each in self._exports.items() if each.buffer == buffer]:
            self.revoke(handle)

    def take(self, handle: int) -> tuple[int, int] | None:
        """Import: (where it is from the start of our HBM, bytes).

        It is there once, however often it is asked for.  None if it is not for us, or if we
        import too much.
        """
        export = self._offers.get(handle)
        if export is None:
            return None
        if export.at is None:
            if len(self._imports) >= MAX_IMPORTS:
                return None
            at = self._mmu.lead(export.places, writable=export.writable)
            if at is None:
                return None
            export.at = at
            self._imports[at] = export
            export.owner._tell()
        return export.at, export.size

    def release(self, at: int) -> bool:
        """Give up what we imported; it can be imported again.  False if nothing is there."""
        export = self._imports.pop(at, None)
        if export is None:
            return False
        export.at = None
        self._mmu.unmap(at)
        export.owner._tell()
        return True

    @property
    def importers(self) -> set[Port]:
        """By what others reach our HBM now."""
        return {each.peer._port for each in self._exports.values() if each.at is not None}

    @property
    def imported_bytes(self) -> int:
        """All that we have imported."""
        return sum(export.size for export in self._imports.values())

    def reset(self) -> None:
        """Share nothing any more, in either direction, and be nobody to the others."""
        for handle in list(self._exports):
            self.revoke(handle)
        for handle, export in list(self._offers.items()):
            export.owner.revoke(handle)
        if self._number is not None:
            del self._exchange.parties[self._number]
            self._number = None

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()
