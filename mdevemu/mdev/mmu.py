"""A slice's own MMU: what it reaches of HBM by other addresses than its aperture's.

Its addresses are above the aperture, so its translations are entries of the tables that the
IOMMU walks for the slice anyway: what is unmapped is reached by nobody and in no cache.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence

from mdevemu.accel.hbm import GRANULE, MMU_AT, MMU_END, Partition, Runs
from mdevemu.accel.ranges import Ranges
from mdevemu.errors import RequestError
from mdevemu.mdev.address_space import AddressSpace
from mdevemu.units import PAGE, Hpa

Places = Sequence[tuple[Hpa, int]]
"""Runs of physical memory: (first address, bytes), whole pages."""


class Mmu:
    """Mappings of one slice, in bytes from the start of its HBM.

    Behind each is a page that is never mapped, so that what runs over its end is noticed.
    """

    def __init__(self, space: AddressSpace, partition: Partition | None) -> None:
        self._space = space
        self._partition = partition
        self._free = Ranges(MMU_END - MMU_AT)
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}

    def places(self, runs: Runs) -> Places:
        """Where pieces of the slice's own HBM are in physical memory."""
        assert self._partition is not None
        base, size = self._partition.base, self._partition.size
        assert all(0 <= offset <= offset + count <= size for offset, count in runs)
        return [(Hpa(base + offset), count) for offset, count in runs]

    def map(self, runs: Runs, at: int | None = None) -> int | None:
        """Have pieces of the slice's own HBM side by side; see ``lead``."""
        return self.lead(self.places(runs), writable=True, at=at)

    def lead(self, places: Places, *, writable: bool, at: int | None = None) -> int | None:
        """Have these, one after the other, at an address, or at the lowest that has room.

        Returns the address; None, and nothing is mapped, if there is no room or no memory
        for tables.
        """
        size = sum(count for _, count in places)
        if at is None:
            at = self._room(places, size)
        if at is None or at < MMU_AT or at % PAGE or not self._free.free(at - MMU_AT, size + PAGE):
            return None
        try:
            self._space.map_runs(at, places, writable=writable)
        except RequestError:
            return None
        self._free.take(at - MMU_AT, size + PAGE)
        insort(self._starts, at)
        self._sizes[at] = size
        return at

    def unmap(self, at: int) -> None:
        """Take a mapping away; nothing of it is reachable or cached on return."""
        size = self._sizes.pop(at)
        del self._starts[bisect_right(self._starts, at) - 1]
        self._free.give(at - MMU_AT, size + PAGE)
        self._space.unmap_runs([(at, size)])

    def clear(self) -> None:
        """Map nothing any more; see ``unmap``."""
        for at, size in self._sizes.items():
            self._free.give(at - MMU_AT, size + PAGE)
        gone, self._sizes = self._sizes, {}
        self._starts.clear()
        self._space.unmap_runs(gone.items())

    def missing(self, at: int, size: int) -> int | None:
        """The first of these bytes that is not mapped; None if all are."""
        index = bisect_right(self._starts, at) - 1
        end = self._starts[index] + self._sizes[self._starts[index]] if index >= 0 else 0
        return None if at + size <= end else max(at, end)

    def _room(self, places: Places, size: int) -> int | None:
        """The lowest address with room: such that the largest of them can have large pages."""
        align = GRANULE if size >= GRANULE else PAGE
        start = self._free.find(size + align)
        if start is None:
            return None
        largest = wanted = before = 0
        for hpa, count in places:
            if count > largest:
                largest, wanted = count, hpa - before
            before += count
        return MMU_AT + start + (wanted - MMU_AT - start) % align
