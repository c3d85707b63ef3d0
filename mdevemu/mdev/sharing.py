"""Pieces of HBM that one mdev lets another reach: with both sides' consent, and until revoked.

Who exports names the one mdev that may import; that one takes the handle, or does not.
The IOMMU then leads it to the very same memory, and revoking is taking entries away.
"""

from dataclasses import dataclass, field
from itertools import count

from mdevemu.accel.hbm import SHARED_AT, Partition
from mdevemu.errors import RequestError
from mdevemu.mdev.address_space import AddressSpace
from mdevemu.units import GIB, Hpa

PLACE = 128 * GIB
"""Each place has room for any buffer."""
PLACES = 64
"""What one mdev imports at the same time, at most."""
MAX_EXPORTS = 64
"""What one mdev exports at the same time, at most."""


@dataclass(eq=False, slots=True)
class _Export:
    """A buffer that one mdev may import.

    Attributes:
        offset, size: bytes of the owner's HBM.
        peer: number of the mdev that may.
        place: where that has it, None if it has not imported it.
    """

    owner: "Party"
    offset: int
    size: int
    peer: int
    writable: bool
    place: int | None = None


@dataclass(eq=False)
class Exchange:
    """Everything that mdevs of one accelerator share.

    Neither a number nor a handle is ever used again, so that nobody comes by what was
    meant for somebody before him.

    Attributes:
        parties: mdevs by their numbers.
        exports: by their handles.
    """

    parties: dict[int, "Party"] = field(default_factory=dict)
    exports: dict[int, _Export] = field(default_factory=dict)
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    handles: "count[int]" = field(default_factory=lambda: count(1))

    def join(self, space: AddressSpace, partition: Partition | None) -> "Party":
        """A new mdev."""
        party = Party(self, next(self.numbers), space, partition)
        self.parties[party.number] = party
        return party


class Party:
    """One mdev among those that share.

    Attributes:
        number: by which others know it.
    """

    def __init__(
        self, exchange: Exchange, number: int, space: AddressSpace, partition: Partition | None
    ) -> None:
        self.number = number
        self._exchange = exchange
        self._space = space
        self._partition = partition
        self._imports: dict[int, _Export] = {}  # by place

    def export(self, offset: int, size: int, peer: int, *, writable: bool) -> int | None:
        """Let another mdev import a piece of our HBM: its handle, None if there is no such mdev."""
        assert self._partition is not None
        assert offset + size <= self._partition.size
        exports = self._exchange.exports
        ours = sum(each.owner is self for each in exports.values())
        if peer == self.number or peer not in self._exchange.parties or ours >= MAX_EXPORTS:
            return None
        handle = next(self._exchange.handles)
        exports[handle] = _Export(self, offset, size, peer, writable)
        return handle

    def revoke(self, handle: int) -> bool:
        """Take an export back; nobody reaches it any more on return.  False if it is not ours."""
        export = self._exchange.exports.get(handle)
        if export is None or export.owner is not self:
            return False
        del self._exchange.exports[handle]
        if export.place is not None:
            self._exchange.parties[export.peer].drop(export.place)
        return True

    def take(self, handle: int) -> tuple[int, int] | None:
        """Import: (where it is from the start of our HBM, bytes); None if it is not for us.

        It is there once, however often it is asked for.
        """
        export = self._exchange.exports.get(handle)
        if export is None or export.peer != self.number:
            return None
        if export.place is None:
            place = next((at for at in range(PLACES) if at not in self._imports), None)
            if place is None or not self._map(export, place):
                return None
            export.place = place
            self._imports[place] = export
        return SHARED_AT + export.place * PLACE, export.size

    def release(self, at: int) -> bool:
        """Give up what we imported at a place; it can be imported again.  False if nothing is."""
        place, rest = divmod(at - SHARED_AT, PLACE)
        if rest or place not in self._imports:
            return False
        self.drop(place)
        return True

    def drop(self, place: int) -> None:
        """Reach what is at a place no more."""
        export = self._imports.pop(place)
        export.place = None
        self._space.unmap_shared(SHARED_AT + place * PLACE, export.size)

    def reaches(self, at: int, size: int) -> bool:
        """All of these bytes, counted from the start of our HBM, are of one import."""
        export = self._imports.get((at - SHARED_AT) // PLACE)
        return export is not None and (at - SHARED_AT) % PLACE + size <= export.size

    @property
    def imported_bytes(self) -> int:
        """All that we have imported."""
        return sum(export.size for export in self._imports.values())

    def reset(self) -> None:
        """Share nothing any more, in either direction."""
        for place in list(self._imports):
            self.drop(place)
        exports = self._exchange.exports
        for handle in [at for at, each in exports.items() if each.owner is self]:
            self.revoke(handle)

    def close(self) -> None:
        """Be gone; what others meant for us is nobody's."""
        self.reset()
        del self._exchange.parties[self.number]
        for handle, export in list(self._exchange.exports.items()):
            if export.peer == self.number:
                del self._exchange.exports[handle]

    def _map(self, export: _Export, place: int) -> bool:
        """Have the IOMMU lead us there; False if there is no memory for tables."""
        partition = export.owner._partition
        assert partition is not None
        hpa = Hpa(partition.base + export.offset)
        try:
            self._space.map_shared(
                SHARED_AT + place * PLACE, hpa, export.size, writable=export.writable
            )
        except RequestError:
            return False
        return True
