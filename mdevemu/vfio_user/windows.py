"""Which DMA windows a client has lent, in order, without overlap."""

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol

from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.lender import Lender


class DirtyLog(Protocol):
    """Which pages the device wrote to, in its own addresses.  Spec: DMA_LOGGING_*.

    The session has seen to it that it is started before it is stopped or asked, and
    that page sizes are powers of two: of at least 4 KiB to start, of any to report.
    """

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> int:
        """Note writes into these (address, bytes), or everywhere if there are none.

        ``page_size`` is what the client would like; returned is what it gets, in bytes.

        Raises:
            RequestError: it cannot be; nothing is noted.
        """

    def stop(self) -> None:
        """Note nothing more, and forget."""

    def report(self, iova: int, length: int, page_size: int) -> bytes:
        """A bit for each page from ``iova`` on, the first in bit 0, in whole 64-bit words.

        A bit is set if something of its page was written to since it was last
        reported, be the window still there or not; what is reported is forgotten.
        """


class Windows(Protocol):
    """The address space that a client's windows go to.

    The session has seen to it that windows are page-aligned, do not wrap, do
    not overlap and are at most ``wire.MAX_MAPS``.  Who derives from this class and
    writes nothing has a device that does no DMA.
    """

    @property
    def dirty(self) -> DirtyLog | None:
        """Which pages the device wrote to; None if nobody can say."""
        return None

    def attach(self, client: Lender | None) -> None:
        """Whom to ask for the bytes of windows without a file; None: nobody is there."""
        return

    def map(
        self, iova: int, size: int, file: Fd | None, offset: int, *, readable: bool, writable: bool
    ) -> None:
        """Lend ``size`` bytes of ``file`` from ``offset`` on; takes ``file`` even if it raises.

        Without a file its bytes are only had by asking the client that is attached.

        Raises:
            RequestError: it cannot be mapped, and nothing was.
        """
        close_all([file])

    def unmap(self, iova: int, size: int) -> None:
        """Take back what an earlier ``map`` lent; no access reaches it any more."""
        return

    def clear(self) -> None:
        """Take everything back."""
        return


class Lent:
    """The windows of one session."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def check(self, iova: int, size: int) -> None:
        """Whether there is room for one more window, there.

        Raises:
            RequestError: EEXIST on overlap, ENOSPC if there are too many.
        """
        before = bisect_left(self._starts, iova + size) - 1
        if before >= 0:
            start = self._starts[before]
            if start + self._sizes[start] > iova:
                raise RequestError(errno.EEXIST, f"DMA_MAP over the window at {start:#x}")
        if len(self._starts) >= wire.MAX_MAPS:
            raise RequestError(errno.ENOSPC, f"more than {wire.MAX_MAPS} DMA windows")

    def add(self, iova: int, size: int) -> None:
        """Remember a window that ``check`` allowed."""
        self._starts.insert(bisect_right(self._starts, iova), iova)
        self._sizes[iova] = size

    def find(self, iova: int, size: int) -> list[tuple[int, int]]:
        """The windows of a range: (address, bytes), in order.

        A range that holds several windows takes them all, as VFIO's does: a VMM with a
        virtual IOMMU drops a whole domain in a few large ranges.

        Raises:
            RequestError: ENOENT, no window is there; EINVAL, it would cut one in two.
        """
        first, last = bisect_left(self._starts, iova), bisect_left(self._starts, iova + size)
        found = [(start, self._sizes[start]) for start in self._starts[first:last]]
        before = self._starts[first - 1] if first else None
        if before is not None and before + self._sizes[before] > iova:
            raise RequestError(errno.EINVAL, f"DMA_UNMAP cuts the window at {before:#x}")
        if not found:
            raise RequestError(errno.ENOENT, f"DMA_UNMAP of {iova:#x}+{size:#x}, never mapped")
        if sum(found[-1]) > iova + size:
            raise RequestError(errno.EINVAL, f"DMA_UNMAP cuts the window at {found[-1][0]:#x}")
        return found

    def remove(self, iova: int, size: int) -> list[tuple[int, int]]:
        """Forget the windows of a range, and tell which; raises like ``find``."""
        found = self.find(iova, size)
        first = bisect_left(self._starts, iova)
        del self._starts[first : first + len(found)]
        for start, _ in found:
            del self._sizes[start]
        return found

    def clear(self) -> None:
        """Forget every window."""
        self._starts.clear()
        self._sizes.clear()
