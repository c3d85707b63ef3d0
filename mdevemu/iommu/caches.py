"""The address translation caches: real, bounded state that only commands keep honest.

Nothing here watches memory.  A translation that was cached stays until an
invalidation command takes it away or another one needs its place, so a driver
that forgets an invalidation sees what it would see on hardware.

Spec: RISC-V IOMMU 1.0, Caching in-memory data structures
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")

HOST = -1
"""The guest id of address spaces without a second stage."""
BARE = -1
"""The process soft-context id of address spaces without a first stage."""


def tag_of(gscid: int, pscid: int) -> int:
    """The name of an address space in the IOTLB; HOST and BARE are allowed."""
    return gscid + 1 << 21 | pscid + 1


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """How much the caches hold; whatever was filled in first gives way first.

    Attributes:
        pages: of each requester's own cache, for each kind of access; at least a batch
            of addresses fits in any case.
        spaces: address spaces in the IOTLB.
        lines: translations of each of them.
        devices: device contexts.
        processes: process contexts.
    """

    pages: int = 4096
    spaces: int = 256
    lines: int = 1024
    devices: int = 64
    processes: int = 256


@dataclass(slots=True)
class Line:
    """One cached translation: a run of Iovas that lies in one run of physical memory.

    Attributes:
        low, high: first Iova, and the first one past the run.
        delta: physical address less Iova.
        grants: accesses allowed; R, W, X for user requests in bits 2:0, for supervisor
            requests in bits 5:3, for those with SUM in bits 8:6.
        pbmt: memory type: 0 PMA, 1 NC, 2 IO.
        everywhere: the first-stage entry is global (G).
        first_low, first_high: Iovas that the first-stage entry covers; wider than the
            run if the second stage has smaller pages.
        gpa: guest-physical address at ``low``.
    """

    low: int
    high: int
    delta: int
    grants: int
    pbmt: int
    everywhere: bool
    first_low: int
    first_high: int
    gpa: int


class Lines:
    """The cached translations of one address space, found by page number for each page size.

    Attributes:
        shifts: log2 of the page sizes present, smallest first.
        by_page: ``iova >> shift << 6 | shift`` to line.
    """

    __slots__ = ("by_page", "shifts")

    def __init__(self) -> None:
        self.shifts: list[int] = []
        self.by_page: dict[int, Line] = {}


class Iotlb:
    """Translations by address space; the oldest give way."""

    def __init__(self, spaces: int = 256, lines: int = 1024) -> None:
        """Room for ``spaces`` address spaces with ``lines`` translations each."""
        self._spaces = spaces
        self._lines = lines
        self.by_tag: dict[int, Lines] = {}

    def __len__(self) -> int:
        return sum(len(lines.by_page) for lines in self.by_tag.values())

    @property
    def room(self) -> int:
        """How many translations there can be at most."""
        return self._spaces * self._lines

    def fill(self, tag: int, shift: int, line: Line) -> None:
        """Remember a translation of ``1 << shift`` bytes."""
        lines = self.by_tag.get(tag)
        if lines is None:
            if len(self.by_tag) >= self._spaces:
                del self.by_tag[next(iter(self.by_tag))]
            lines = self.by_tag[tag] = Lines()
        key = line.low >> shift << 6 | shift
        if key not in lines.by_page and len(lines.by_page) >= self._lines:
            del lines.by_page[next(iter(lines.by_page))]
        if shift not in lines.shifts:
            lines.shifts.append(shift)
            lines.shifts.sort()
        lines.by_page[key] = line

    def invalidate_first(self, gscid: int, pscid: int | None, low: int, high: int) -> None:
        """IOTINVAL.VMA: forget translations of Iovas ``low`` to ``high`` - 1.

        ``gscid`` is HOST or a guest; ``pscid`` None is every process of it.  A
        global entry stays if a process is named.
        """
        every = (low, high) == (0, 1 << 64)
        for tag in self._tags(gscid, pscid):
            lines = self.by_tag[tag]
            if every and pscid is None:
                del self.by_tag[tag]
            elif high - low == 4096 and gscid == HOST:
                self._drop_page(lines, low, pscid)
            else:
                gone = [
                    key
                    for key, line in lines.by_page.items()
                    if (every or (line.first_low < high and low < line.first_high))
                    and not (line.everywhere and pscid is not None)
                ]
                for key in gone:
                    del lines.by_page[key]

    def invalidate_second(self, gscid: int | None) -> None:
        """IOTINVAL.GVMA: forget every translation of a guest, or of all guests.

        A line holds both stages at once and is not tagged with its guest-physical
        address, so an invalidation of one such address takes the whole guest.
        """
        for tag in list(self.by_tag):
            guest = (tag >> 21) - 1
            if guest != HOST and gscid in (None, guest):
                del self.by_tag[tag]

    @staticmethod
    def _drop_page(lines: Lines, iova: int, pscid: int | None) -> None:
        """Forget whatever translates one page, of any size; the stages are not mixed."""
        for shift in lines.shifts:
            key = iova >> shift << 6 | shift
            line = lines.by_page.get(key)
            if line is not None and not (line.everywhere and pscid is not None):
                del lines.by_page[key]

    def _tags(self, gscid: int, pscid: int | None) -> list[int]:
        if pscid is None:
            return [tag for tag in self.by_tag if tag >> 21 == gscid + 1]
        tag = tag_of(gscid, pscid)
        return [tag] if tag in self.by_tag else []


class DirectoryCache(Generic[V]):
    """Contexts by device id, or by ``device id << 20 | process id``; the oldest give way."""

    def __init__(self, room: int) -> None:
        """At most ``room`` contexts."""
        self._room = room
        self.entries: dict[int, V] = {}

    @property
    def room(self) -> int:
        """How many contexts there can be at most."""
        return self._room

    def fill(self, key: int, context: V) -> None:
        """Remember a context."""
        if key not in self.entries and len(self.entries) >= self._room:
            del self.entries[next(iter(self.entries))]
        self.entries[key] = context

    def drop(self, matches: Callable[[int], bool] | None = None) -> None:
        """Forget every context whose key matches, or all of them."""
        if matches is None:
            self.entries.clear()
        else:
            for key in [key for key in self.entries if matches(key)]:
                del self.entries[key]
