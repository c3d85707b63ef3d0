"""A backing that notes which of its pages were written."""

from mdevemu.memory.backing import Backing
from mdevemu.units import PAGE

MOST_PAGES = 1 << 20
"""So many written pages are noted, and no more: 4 GiB of them."""


class Logged:
    """Another backing, and the pages of it that were written since somebody looked.

    See ``Backing``.  It takes the other's place for as long as writes are to be noted,
    so that they cost nothing otherwise.

    Attributes:
        behind: the other.
        pages: numbers of 4 KiB pages.
        too_many: these were more than ``MOST_PAGES``, and are not all there.
    """

    def __init__(self, behind: Backing) -> None:
        self.behind = behind
        self.size = behind.size
        self.pages: set[int] = set()
        self.too_many = False
        self.read = behind.read
        self.read_u64 = behind.read_u64
        self.present = behind.present
        self.close = behind.close

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.behind.write(offset, data)
        self._note(offset, len(data))

    def view(self, offset: int, length: int, *, write: bool) -> memoryview | None:
        view = self.behind.view(offset, length, write=write)
        if write and view is not None:
            self._note(offset, length)
        return view

    def _note(self, offset: int, length: int) -> None:
        if len(self.pages) > MOST_PAGES:
            self.too_many = True
        else:
            self.pages.update(range(offset // PAGE, (offset + length - 1) // PAGE + 1))
