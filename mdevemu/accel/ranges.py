"""Free ranges of an address space: what is taken splits them, what is given back joins them."""

from bisect import bisect_right
from collections.abc import Iterator


class Ranges:
    """What is free of so many bytes; neighbours that are free are one range.

    Attributes:
        free_bytes: all of it together, adjacent or not.
    """

    def __init__(self, total: int) -> None:
        """``total`` bytes, all free."""
        self.free_bytes = total
        self._starts = [0] if total else []
        self._sizes = [total] if total else []

    def copy(self) -> "Ranges":
        """The same, for changes of its own."""
        other = Ranges(0)
        other.free_bytes = self.free_bytes
        other._starts, other._sizes = self._starts.copy(), self._sizes.copy()
        return other

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(start, bytes), lowest first."""
        return iter(list(zip(self._starts, self._sizes, strict=True)))

    def free(self, start: int, size: int) -> bool:
        """All of these bytes are free."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and start + size <= self._starts[at] + self._sizes[at]

    def find(self, size: int) -> int | None:
        """Where the lowest range of at least ``size`` bytes starts; None if there is none."""
        for start, count in zip(self._starts, self._sizes, strict=True):
            if count >= size:
                return start
        return None

    def gather(self, size: int) -> list[tuple[int, int]]:
        """The fewest ranges that have ``size`` bytes together, lowest first; one may be cut.

        There are that many.
        """
        assert size <= self.free_bytes
        found = []
        for start, count in sorted(self, key=lambda each: -each[1]):
            if not size:
                break
            found.append((start, min(count, size)))
            size -= found[-1][1]
        return sorted(found)

    def take(self, start: int, size: int) -> None:
        """Have these bytes, which are free, be so no more."""
        assert size > 0
        assert self.free(start, size), f"{start:#x}+{size:#x} is not free"
        at = bisect_right(self._starts, start) - 1
        low, high, end = self._starts[at], self._starts[at] + self._sizes[at], start + size
        left = [(low, start - low)] if start > low else []
        right = [(end, high - end)] if high > end else []
        self._replace(at, at + 1, [*left, *right])
        self.free_bytes -= size

    def give(self, start: int, size: int) -> None:
        """Have these bytes, none of which is free, be so again."""
        assert size > 0
        end, at = start + size, bisect_right(self._starts, start)
        first, last, low, high = at, at, start, end
        if at and self._starts[at - 1] + self._sizes[at - 1] >= start:
            first, low = at - 1, self._starts[at - 1]
            assert low + self._sizes[at - 1] == start, f"{start:#x}+{size:#x} is free already"
        if at < len(self._starts) and self._starts[at] <= end:
            last, high = at + 1, self._starts[at] + self._sizes[at]
            assert self._starts[at] == end, f"{start:#x}+{size:#x} is free already"
        self._replace(first, last, [(low, high - low)])
        self.free_bytes += size

    def _replace(self, first: int, last: int, ranges: list[tuple[int, int]]) -> None:
        self._starts[first:last] = [start for start, _ in ranges]
        self._sizes[first:last] = [size for _, size in ranges]
