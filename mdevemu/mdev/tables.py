"""Page tables in the host's memory, and the frames that they are made of.

Spec: RISC-V Privileged, Sv48, Sv48x4
"""

from array import array
from itertools import islice

from mdevemu.memory import Ram
from mdevemu.units import PAGE, Hpa

LEVELS = 4
_TOP = 12 + 9 * (LEVELS - 1)
ENTRIES = 512
LOWER = 256
"""Entries of a root that windows are below; what the others lead to stays for ever."""
WIDE = 4
"""Frames of the root of a second stage: its addresses have two bits more."""
# V, R, U, A and D: what every page of ours has; the host sets A and D itself.
VALID = 1 << 0
WRITABLE = 1 << 2
_PAGE_BITS = VALID | 1 << 1 | 1 << 4 | 1 << 6 | 1 << 7
_LEAF = 0xE
_ZEROS = memoryview(array("Q", bytes(PAGE)))


class Exhausted(Exception):
    """No frame is left."""


class Frames:
    """4 KiB frames of one range of RAM, given out zeroed.

    Attributes:
        base: physical address of the range.
        words: the range as 64-bit words, as the host's processor sees them.
        used: frames given out.
    """

    def __init__(self, base: Hpa, ram: Ram) -> None:
        view = ram.view(0, ram.size, write=True)
        assert view is not None
        self.base = base
        self.words = view.cast("Q")
        self.used = 0
        self._next = 0
        self._count = ram.size // PAGE
        self._free: list[Hpa] = []
        self._runs: list[Hpa] = []  # of WIDE frames, which are kept together

    def allocate(self) -> Hpa:
        """One frame, zeroed.

        Raises:
            Exhausted: there is none.
        """
        if self._free:
            at = self._free.pop()
        elif self._next < self._count:
            at = Hpa(self.base + self._next * PAGE)
            self._next += 1
        else:
            raise Exhausted
        self.used += 1
        return at

    def allocate_run(self, count: int) -> Hpa:
        """``count`` adjacent frames, zeroed and naturally aligned; ``count`` is a power of two.

        Raises:
            Exhausted: there are not that many.
        """
        if count == WIDE and self._runs:
            self.used += count
            return self._runs.pop()
        if self._next + 2 * count > self._count:
            raise Exhausted
        while self._next % count:
            self._free.append(Hpa(self.base + self._next * PAGE))
            self._next += 1
        at = Hpa(self.base + self._next * PAGE)
        self._next += count
        self.used += count
        return at

    def release(self, at: Hpa, count: int = 1) -> None:
        """Take a frame, or a run of WIDE, back; it is zeroed at once."""
        for frame in range(count):
            first = self.word(at) + frame * ENTRIES
            self.words[first : first + ENTRIES] = _ZEROS
        self.used -= count
        (self._free if count == 1 else self._runs).append(at)

    def word(self, at: Hpa) -> int:
        """Index of a physical address in ``words``."""
        return at - self.base >> 3


class PageTable:
    """One Sv48 or Sv48x4 table: what it maps, in the largest pages that fit.

    It has two roots, of which one is in use: so it can start anew without a frame.

    Attributes:
        root: physical address of the root table.
    """

    def __init__(self, frames: Frames, limit: int, *, second: bool = False) -> None:
        """At most ``limit`` frames, so that one tenant leaves some to the others.

        ``second`` makes it a second-stage table, whose root is four frames.

        Raises:
            Exhausted: there are no frames for the roots.
        """
        self._frames = frames
        self._limit = limit
        self._wide = WIDE if second else 1
        self.root = self._allocate_root()
        try:
            self._spare: Hpa | None = self._allocate_root()
        except Exhausted:
            frames.release(self.root, self._wide)
            raise
        self._roots = self.root, self._spare
        self._valid: dict[Hpa, int] = {self.root: 0}  # table to its number of valid entries
        self._lasting: set[Hpa] = set()  # tables above the windows

    def _allocate_root(self) -> Hpa:
        frames = self._frames
        return frames.allocate() if self._wide == 1 else frames.allocate_run(self._wide)

    def map(self, iova: int, hpa: int, size: int, *, writable: bool) -> None:
        """Map ``size`` bytes that were not mapped; addresses and size are page aligned.

        Raises:
            Exhausted: no frame is left; some of it may be mapped now, and is to be unmapped.
        """
        bits = _PAGE_BITS | (WRITABLE if writable else 0)
        before = len(self._valid)
        try:
            self._fill(self.root, LEVELS - 1, iova, hpa, size, bits)
        finally:
            if iova >> _TOP & self._entries(LEVELS - 1) - 1 >= LOWER:
                new = len(self._valid) - before
                self._lasting.update(islice(reversed(self._valid), new))

    def unmap(self, iova: int, size: int) -> list[Hpa]:
        """Clear entries; the tables that became empty, unlinked and still to be released.

        They are released after the IOMMU forgot them, not before.
        """
        emptied: list[Hpa] = []
        self._clear(self.root, LEVELS - 1, iova, size, emptied)
        return emptied

    def renew(self) -> list[Hpa]:
        """Unmap everything below the middle at once; the tables that are then to be released.

        There is another root, with the upper half of the one before: whoever uses the
        old one sees all that was mapped, until it turns to the new one and sees none of it.
        With the old root of the last time not yet released there is no other, and this
        one's lower half is cleared.
        """
        words, count = self._frames.words, self._entries(LEVELS - 1)
        used = self._lasting | {self.root}
        gone = [table for table in self._valid if table not in used]
        old = self._frames.word(self.root)
        if self._spare is None:
            words[old : old + LOWER] = _ZEROS[:LOWER]
        else:
            new = self._frames.word(self._spare)
            words[new + LOWER : new + count] = words[old + LOWER : old + count]
            gone.append(self.root)
            self.root, self._spare = self._spare, None
        for table in gone:
            del self._valid[table]
        upper = words[self._frames.word(self.root) + LOWER :][: count - LOWER].tolist()
        self._valid[self.root] = len(upper) - upper.count(0)
        return gone

    def release(self, tables: list[Hpa]) -> None:
        """Give tables back that nothing refers to any more; an old root becomes the spare one."""
        for table in tables:
            if table in self._roots:
                first = self._frames.word(table)
                for at in range(first, first + self._wide * ENTRIES, ENTRIES):
                    self._frames.words[at : at + ENTRIES] = _ZEROS
                self._spare = table
            else:
                self._frames.release(table)

    def close(self) -> None:
        """Give every frame back; the IOMMU has forgotten all of them."""
        for table in self._valid.keys() - self._roots:
            self._frames.release(table)
        for root in self._roots:
            self._frames.release(root, self._wide)
        self._valid.clear()

    def _entries(self, level: int) -> int:
        return ENTRIES * (self._wide if level == LEVELS - 1 else 1)

    def _fill(self, table: Hpa, level: int, iova: int, hpa: int, size: int, bits: int) -> None:
        shift = 12 + 9 * level
        span = 1 << shift
        words, start = self._frames.words, self._frames.word(table)
        while size:
            index = iova >> shift & self._entries(level) - 1
            if size >= span and not (iova | hpa) & span - 1:
                count = min(size >> shift, self._entries(level) - index)
                first = hpa >> 2 | bits
                step = span >> 2
                pages = array("Q", range(first, first + count * step, step))
                words[start + index : start + index + count] = memoryview(pages)
                self._valid[table] += count
                done = count << shift
            else:
                entry = words[start + index]
                if entry:
                    child = Hpa(entry >> 10 << 12)
                else:
                    if len(self._valid) >= self._limit:
                        raise Exhausted
                    child = self._frames.allocate()
                    self._valid[child] = 0
                    words[start + index] = child >> 2 | VALID
                    self._valid[table] += 1
                done = min(size, span - (iova & span - 1))
                self._fill(child, level - 1, iova, hpa, done, bits)
            iova, hpa, size = iova + done, hpa + done, size - done

    def _clear(self, table: Hpa, level: int, iova: int, size: int, emptied: list[Hpa]) -> None:
        shift = 12 + 9 * level
        span = 1 << shift
        words, start = self._frames.words, self._frames.word(table)
        while size:
            index = iova >> shift & self._entries(level) - 1
            at = start + index
            if level == 0:
                count = min(size >> shift, ENTRIES - index)
                gone = words[at : at + count].tolist()
                self._valid[table] -= count - gone.count(0)
                words[at : at + count] = _ZEROS[:count]
                done = count << shift
            else:
                entry = words[at]
                done = min(size, span - (iova & span - 1))
                if entry & _LEAF:
                    assert done == span, "half of a page is to be unmapped"
                    words[at] = 0
                    self._valid[table] -= 1
                elif entry:
                    child = Hpa(entry >> 10 << 12)
                    self._clear(child, level - 1, iova, done, emptied)
                    if not self._valid[child]:
                        words[at] = 0
                        self._valid[table] -= 1
                        del self._valid[child]
                        self._lasting.discard(child)
                        emptied.append(child)
            iova, size = iova + done, size - done
