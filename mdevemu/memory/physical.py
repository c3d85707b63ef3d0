"""The emulated host's physical address space: ranges, and what is behind each.

Tables and queues of the IOMMU, HBM and the files that VMMs lend are ranges
side by side; whoever holds an ``Hpa`` can reach any of them, so nothing but
the IOMMU and the host's own driver holds this.
"""

from bisect import bisect_right

from mdevemu.memory.backing import Backing, Miss
from mdevemu.memory.far import Far, Lender
from mdevemu.units import Hpa


class PhysicalMemory:
    """Disjoint ranges of physical memory; an access lies in one of them or misses."""

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._ranges: list[tuple[int, int, Backing]] = []
        # The range of the last access: most accesses go where the one before went.
        self._low, self._high, self._last = 0, -1, None  # type: tuple[int, int, Backing | None]

    def add(self, base: Hpa, backing: Backing, size: int) -> None:
        """Put ``size`` bytes of ``backing`` at ``base``; the backing stays the caller's."""
        at = bisect_right(self._bases, base)
        assert 0 < size <= backing.size
        assert at == 0 or self._ranges[at - 1][1] <= base, f"{base:#x} is taken"
        assert at == len(self._bases) or base + size <= self._bases[at], f"{base:#x} overlaps"
        self._bases.insert(at, base)
        self._ranges.insert(at, (base, base + size, backing))

    def remove(self, base: Hpa) -> None:
        """Take away the range that starts at ``base``."""
        at = self._bases.index(base)
        del self._bases[at], self._ranges[at]
        self._low, self._high, self._last = 0, -1, None

    def replace(self, base: Hpa, backing: Backing) -> None:
        """Have another backing, of the same size, behind the range that starts at ``base``."""
        at = self._bases.index(base)
        low, high, _ = self._ranges[at]
        self._ranges[at] = low, high, backing
        self._low, self._high, self._last = 0, -1, None

    def read(self, at: int, length: int) -> bytes:
        """Read ``length`` bytes.

        Raises:
            Miss: not all of them are there.
        """
        if self._low <= at and at + length <= self._high:
            return self._last.read(at - self._low, length)  # type: ignore[union-attr]
        return self._find(at, length).read(at - self._low, length)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data``.

        Raises:
            Miss: not all of it fits there; nothing was written.
        """
        if self._low <= at and at + len(data) <= self._high:
            self._last.write(at - self._low, data)  # type: ignore[union-attr]
        else:
            self._find(at, len(data)).write(at - self._low, data)

    def view(self, at: int, length: int, *, write: bool) -> memoryview | None:
        """The bytes themselves, to ``write`` or not, or None if their backing cannot be viewed.

        A view must not outlive the piece of work that asked for it: the range
        may be taken away between two pieces.

        Raises:
            Miss: not all of them are there.
        """
        backing = self._find(at, length)
        return backing.view(at - self._low, length, write=write)

    def present(self, at: int, length: int, *, write: bool) -> bool:
        """An access to these bytes would find them all."""
        try:
            backing = self._find(at, length)
        except Miss:
            return False
        return backing.present(at - self._low, length, write=write)

    def lender(self, at: int) -> tuple[Lender, int] | None:
        """Who keeps the byte at ``at``, and its Iova there; None if it is here, or nowhere."""
        try:
            backing = self._find(at, 1)
        except Miss:
            return None
        if not isinstance(backing, Far) or backing.client is None:
            return None
        return backing, at - self._low

    def read_u64(self, at: int) -> int:
        """The little-endian eight bytes at ``at``.

        Raises:
            Miss: they are not there.
        """
        if self._low <= at and at + 8 <= self._high:
            return self._last.read_u64(at - self._low)  # type: ignore[union-attr]
        return self._find(at, 8).read_u64(at - self._low)

    def write_u64(self, at: int, value: int) -> None:
        """Store eight bytes, little-endian.

        Raises:
            Miss: there is nothing to store to.
        """
        self.write(at, value.to_bytes(8, "little"))

    def _find(self, at: int, length: int) -> Backing:
        """The backing of an access; ``_low`` is then its range's base."""
        index = bisect_right(self._bases, at) - 1
        if index >= 0:
            low, high, backing = self._ranges[index]
            if at + length <= high:
                self._low, self._high, self._last = low, high, backing
                return backing
        raise Miss
