"""Which pages of its VMM's windows an mdev has written: VFIO's DMA logging.

Writes are noted where they end, in physical memory, and so by whatever address
and by whom they were done: the device, its engines, or the IOMMU for it.

Spec: Linux, VFIO_DEVICE_FEATURE_DMA_LOGGING_START; vfio-user, VFIO_USER_DEVICE_FEATURE
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from mdevemu.memory import Far, Logged, PhysicalMemory
from mdevemu.memory.backing import Backing
from mdevemu.memory.logged import MOST_PAGES
from mdevemu.units import PAGE, Hpa

Place = tuple[int, int, Hpa]
"""A window with a file: Iova, bytes, and where in physical memory it leads."""


class DirtyLog:
    """The pages that were written, while somebody wants to know.

    Whoever writes to more than ``MOST_PAGES`` between two reports has written to all.

    Attributes:
        on: somebody does; if not, this costs nothing.
    """

    def __init__(
        self, memory: PhysicalMemory, far: Far, places: Callable[[], Iterable[Place]]
    ) -> None:
        """``places`` tells every window that has a file."""
        self._memory = memory
        self._far = far
        self._places = places
        self._lent: dict[Hpa, Backing] = {}
        self._logged: dict[Hpa, Logged] = {}
        self._pages: set[int] = set()
        self.on = False
        self._too_many = False

    # What a VMM wants.

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> int:
        """Note writes from now on: to everything, which ``ranges`` are some of.

        Pages are 4 KiB, whatever ``page_size`` is liked; returns that.
        """
        self.on = True
        self._far.stored = self._note
        for base in self._lent:
            self._log(base)
        return PAGE

    def stop(self) -> None:
        """Note nothing, and forget what was noted; again does nothing."""
        for base, logged in self._logged.items():
            self._memory.replace(base, logged.behind)
        self._logged.clear()
        self._pages.clear()
        self._far.stored = None
        self.on = self._too_many = False

    def report(self, iova: int, length: int, page_size: int) -> bytes:
        """The pages that were written since they were reported last: bit i is page i.

        Little-endian, whole 64-bit words.
        """
        count = -(-length // page_size)
        bits = bytearray(-(-count // 64) * 8)
        pages = self._take(iova, length)
        if self._too_many:
            return ((1 << count) - 1).to_bytes(len(bits), "little")
        for page in pages:
            # What is reported as a page may be several of ours, or a part of one.
            first = max(page * PAGE - iova, 0) // page_size
            last = (min((page + 1) * PAGE - iova, length) - 1) // page_size
            for at in range(first, last + 1):
                bits[at // 8] |= 1 << at % 8
        return bytes(bits)

    # What becomes of windows.

    def lent(self, base: Hpa, backing: Backing) -> None:
        """A file came into physical memory."""
        self._lent[base] = backing
        if self.on:
            self._log(base)

    def returned(self, base: Hpa) -> None:
        """A file is about to leave it."""
        del self._lent[base]
        self._logged.pop(base, None)

    def unmapping(self) -> None:
        """Windows are about to go; what was written there can still be reported."""
        if self.on:
            self._gather()

    def _log(self, base: Hpa) -> None:
        logged = self._logged[base] = Logged(self._lent[base])
        self._memory.replace(base, logged)

    def _note(self, iova: int, length: int) -> None:
        self._pages.update(range(iova // PAGE, (iova + length - 1) // PAGE + 1))

    def _take(self, iova: int, length: int) -> set[int]:
        """The pages of a range that were written; those that lie in it whole are forgotten."""
        self._gather()
        end = iova + length
        first, last = iova // PAGE, (end - 1) // PAGE
        taken = {page for page in self._pages if first <= page <= last}
        self._pages -= {page for page in taken if iova <= page * PAGE and (page + 1) * PAGE <= end}
        return taken

    def _gather(self) -> None:
        """Say by Iova what was noted by physical address: for each window that leads there."""
        self._too_many |= any(logged.too_many for logged in self._logged.values())
        written = sorted(
            (base >> 12) + page for base, logged in self._logged.items() for page in logged.pages
        )
        for logged in self._logged.values():
            logged.pages.clear()
        if written:
            for iova, size, to in self._places():
                low, high = to >> 12, to + size >> 12
                for page in written[bisect_left(written, low) : bisect_left(written, high)]:
                    self._pages.add(page - low + (iova >> 12))
        self._too_many |= len(self._pages) > MOST_PAGES
        if self._too_many:
            self._pages.clear()
