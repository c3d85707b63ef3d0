"""Page table walks: first stage, second stage, and the one inside the other.

Spec: RISC-V Privileged, "Virtual Address Translation Process" and "Two-Stage
Address Translation"; RISC-V IOMMU 1.0, Process to translate an IOVA, step 17 on
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from mdevemu.iommu.caches import BARE, HOST, Line, tag_of
from mdevemu.iommu.causes import ACCESS_FAULT, GUEST_PAGE_FAULT, PAGE_FAULT, Access, Cause, Fault
from mdevemu.iommu.monitoring import Tally
from mdevemu.iommu.registers import Capabilities
from mdevemu.memory import Miss, PhysicalMemory

V, R, W, X, U, G, A, D = (1 << n for n in range(8))
PBMT = 3 << 61
N = 1 << 63
SVRSW60T59B = 3 << 59
RESERVED = 0x1F << 54
PPN_MASK = (1 << 44) - 1
SHIFT = 12


@dataclass(frozen=True, slots=True)
class Scheme:
    """A table format.

    Attributes:
        name: as the specification names it.
        levels: of tables.
        index_bits: that choose an entry of a table, unless it is the root.
        entry: bytes of an entry.
        bits: of the addresses that it translates.
        ways: from the root down: level, shift and mask of its index in an address.
    """

    name: str
    levels: int
    index_bits: int
    entry: int
    bits: int
    ways: tuple[tuple[int, int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        ways = []
        for level in range(self.levels - 1, -1, -1):
            shift = SHIFT + self.index_bits * level
            # The root takes all the bits that are left: a second stage's has two more.
            wide = self.bits - shift if level == self.levels - 1 else self.index_bits
            ways.append((level, shift, (1 << wide) - 1))
        object.__setattr__(self, "ways", tuple(ways))


FIRST_SCHEMES = {
    8: Scheme("Sv39", 3, 9, 8, 39),
    9: Scheme("Sv48", 4, 9, 8, 48),
    10: Scheme("Sv57", 5, 9, 8, 57),
}
SECOND_SCHEMES = {
    8: Scheme("Sv39x4", 3, 9, 8, 41),
    9: Scheme("Sv48x4", 4, 9, 8, 50),
    10: Scheme("Sv57x4", 5, 9, 8, 59),
}
SV32 = Scheme("Sv32", 2, 10, 4, 32)
SV32X4 = Scheme("Sv32x4", 2, 10, 4, 34)


@dataclass(frozen=True, slots=True)
class MsiTable:
    """Where a guest's interrupt files are, and the table that stands for them.

    Attributes:
        root: physical address of the MSI page table.
        mask, pattern: of guest page numbers.
    """

    root: int
    mask: int
    pattern: int


@dataclass(frozen=True, slots=True)
class Space:
    """An address space as a request finds it: what device and process context say together.

    Attributes:
        first, first_root: first-stage format and the (guest) physical address of its
            root; None is Bare.
        second, second_root: likewise for the second stage.
        pscid, gscid: soft-context ids; BARE and HOST without the stage.
        sade, gade: the IOMMU sets A and D in first- and second-stage entries.
        supervisor: requests with supervisor privilege are allowed (ENS).
        sum: those may reach user pages.
        big: first-stage entries are big-endian (SBE).
        rv32: addresses are those of RV32 (SXL).
        msi: the MSI page table, if there is one.
        tag: the name of the space in the IOTLB.
    """

    first: Scheme | None
    first_root: int
    second: Scheme | None
    second_root: int
    pscid: int
    gscid: int
    sade: bool
    gade: bool
    supervisor: bool
    sum: bool
    big: bool
    rv32: bool
    msi: MsiTable | None
    tag: int = field(init=False)

    def __post_init__(self) -> None:
        gscid = HOST if self.second is None else self.gscid
        pscid = BARE if self.first is None else self.pscid
        object.__setattr__(self, "tag", tag_of(gscid, pscid))


@dataclass(frozen=True, slots=True)
class Step:
    """One entry that a walk looked at.

    Attributes:
        table: DDT, DC, PDT, PC, first or second.
        level: of the table; 0 is the last.
        index: of the entry in its table.
        address: physical address of the entry.
        raw: the entry; of a context its first doubleword.
        flags: its bits by name, in order.
        leaf: the walk ends with it.
    """

    table: str
    level: int
    index: int
    address: int
    raw: int
    flags: tuple[str, ...]
    leaf: bool


class Leaf(NamedTuple):
    """A leaf entry: the page's (guest) physical base, log2 of its size, the entry, its G."""

    base: int
    shift: int
    entry: int
    everywhere: bool


def entry_flags(entry: int) -> tuple[str, ...]:
    """The bits of a page table entry by name."""
    low = tuple(name for at, name in enumerate("VRWXUGAD") if entry >> at & 1)
    high = ("NC",) if entry & PBMT == 1 << 61 else ("IO",) if entry & PBMT == 2 << 61 else ()
    return low + high + (("N",) if entry & N else ())


class Walker:
    """Reads tables in physical memory.

    Attributes:
        tally: how many entries were read or set, for the performance monitor.
    """

    def __init__(self, memory: PhysicalMemory, capabilities: Capabilities) -> None:
        self._memory = memory
        self._reserved = RESERVED  # bits of an entry that must be zero
        if not capabilities.svrsw60t59b:
            self._reserved |= SVRSW60T59B
        if not capabilities.svpbmt:
            self._reserved |= PBMT
        self._telling = V | R | W | X | U | A | D | PBMT | N | self._reserved
        self.big = False  # fctl.BE: second-stage entries are big-endian
        self.tally = Tally()

    def first(
        self,
        space: Space,
        iova: int,
        access: int,
        *,
        supervisor: bool = False,
        asks: bool = False,
        steps: list[Step] | None = None,
    ) -> Leaf:
        """Translate through the first stage; with ``steps``, look only.

        A request that ``asks`` wants to know what is granted: it does not fault for
        want of R, W or X, and makes a page dirty only if it may be written.

        Raises:
            Fault: page fault, access fault, or guest-page fault of an implicit access.
        """
        scheme = space.first
        assert scheme is not None
        refused = PAGE_FAULT[access]
        if scheme.entry == 4:
            # SXL is 1: no bit beyond 31 may be set.
            canonical = iova >> 32 == 0
        else:
            high = iova >> scheme.bits - 1
            canonical = high in (0, (1 << 65 - scheme.bits) - 1)
        if not canonical:
            raise Fault(refused)
        # 1. Let a be the root, and i = LEVELS - 1.
        table = space.first_root
        everywhere = False
        for level, shift, mask in scheme.ways:
            # 2. Let pte be the value at a + va.vpn[i] x PTESIZE.
            index = iova >> shift & mask
            place = table + index * scheme.entry
            at = place
            if space.second is not None:
                at = self.implicit(space, place, access, steps=steps)
            self.tally.first += 1
            entry = self._load(at, scheme.entry, space.big, ACCESS_FAULT[access])
            if steps is not None:
                leaf = bool(entry & (R | X))
                steps.append(Step("first", level, index, at, entry, entry_flags(entry), leaf))
            everywhere |= bool(entry & G)
            # 3. and 4.
            following = self._pointer(entry, level, refused)
            if following is not None:
                table = following
                continue
            # 5. A leaf: alignment, then permissions.
            base, size = self._page(entry, level, shift, iova, refused)
            if not asks and not entry >> 1 & access:
                raise Fault(refused)
            if supervisor:
                if entry & U and (not space.sum or (access == Access.EXECUTE and not asks)):
                    raise Fault(refused)
            elif not entry & U:
                raise Fault(refused)
            # 6. A, and D for a write, are set or must be.
            dirty = access == Access.WRITE and entry & W
            wanted = entry | A | (D if dirty else 0)
            if wanted != entry:
                if not space.sade:
                    raise Fault(refused)
                if space.second is not None:
                    at = self.implicit(space, place, access, write=True, steps=steps)
                if steps is None:
                    self.tally.first += 1
                    self._store(at, wanted, scheme.entry, space.big, ACCESS_FAULT[access])
                    entry = wanted
            return Leaf(base, size, entry, everywhere)
        raise AssertionError("a pointer at level 0 was let through")

    def implicit(
        self,
        space: Space,
        gpa: int,
        access: int,
        *,
        write: bool = False,
        miss: Cause | None = None,
        steps: list[Step] | None = None,
    ) -> int:
        """Physical address of a first-stage or PDT entry that stands in guest memory.

        ``access`` is the request's own, for the cause of a fault; ``miss`` replaces
        the cause of an access fault.
        """
        own = 2 if write else 1  # a write, or a read
        miss = miss or ACCESS_FAULT[access]
        value = gpa & ~3 | (3 if write else 1)
        leaf = self._second(space, gpa, own, GUEST_PAGE_FAULT[access], value, miss, steps)
        return leaf.base | gpa & (1 << leaf.shift) - 1

    def second(
        self,
        space: Space,
        gpa: int,
        access: int,
        *,
        asks: bool = False,
        steps: list[Step] | None = None,
    ) -> Leaf:
        """Translate the guest-physical address of the request itself; see ``first``.

        Raises:
            Fault: guest-page fault or access fault.
        """
        cause, miss = GUEST_PAGE_FAULT[access], ACCESS_FAULT[access]
        return self._second(space, gpa, access, cause, gpa & ~3, miss, steps, asks)

    def _second(
        self,
        space: Space,
        gpa: int,
        access: int,
        cause: Cause,
        value: int,
        miss: Cause,
        steps: list[Step] | None,
        asks: bool = False,
    ) -> Leaf:
        scheme = space.second
        assert scheme is not None
        if gpa >> scheme.bits or (space.rv32 and gpa >> SV32X4.bits):
            raise Fault(cause, value)
        table, size = space.second_root, scheme.entry
        big, tally = self.big, self.tally
        for level, shift, mask in scheme.ways:
            index = gpa >> shift & mask
            at = table + index * size
            tally.second += 1
            entry = self._load(at, size, big, miss)
            if steps is not None:
                leaf = bool(entry & (R | X))
                steps.append(Step("second", level, index, at, entry, entry_flags(entry), leaf))
            following = self._pointer(entry, level, cause, value)
            if following is not None:
                table = following
                continue
            base, width = self._page(entry, level, shift, gpa, cause, value)
            # Every access is checked as a user's.
            if not entry & U or not (asks or entry >> 1 & access):
                raise Fault(cause, value)
            dirty = access == Access.WRITE and entry & W
            wanted = entry | A | (D if dirty else 0)
            if wanted != entry:
                if not space.gade:
                    raise Fault(cause, value)
                if steps is None:
                    tally.second += 1
                    self._store(at, wanted, size, big, miss)
                    entry = wanted
            return Leaf(base, width, entry, False)
        raise AssertionError("a pointer at level 0 was let through")

    def _pointer(self, entry: int, level: int, cause: Cause, value: int = 0) -> int | None:
        """The next table's address, or None for a leaf; faults if the entry is neither."""
        if level and entry & self._telling == V:
            return (entry >> 10 & PPN_MASK) << SHIFT
        if not entry & V or entry & (R | W) == W or entry & self._reserved:
            raise Fault(cause, value)
        if entry & PBMT == PBMT:
            raise Fault(cause, value)
        if entry & (R | X):
            return None
        # What is left has a bit that a pointer may not have, or points from the last level.
        raise Fault(cause, value)

    def _page(
        self, entry: int, level: int, shift: int, address: int, cause: Cause, value: int = 0
    ) -> tuple[int, int]:
        """Base address and log2 size of a leaf's page; faults if it is not aligned to it."""
        page = entry >> 10 & PPN_MASK
        if entry & N:
            # Svnapot: 64 KiB is the only size there is.
            if level or page & 0xF != 8:
                raise Fault(cause, value)
            return (page & ~0xF) << SHIFT, SHIFT + 4
        if page & (1 << shift - SHIFT) - 1:
            raise Fault(cause, value)
        return page << SHIFT, shift

    def _load(self, at: int, size: int, big: bool, cause: Cause) -> int:
        try:
            if size == 8 and not big:
                return self._memory.read_u64(at)
            return int.from_bytes(self._memory.read(at, size), "big" if big else "little")
        except Miss:
            raise Fault(cause) from None

    def _store(self, at: int, entry: int, size: int, big: bool, cause: Cause) -> None:
        # One loop runs everything, so nothing can change the entry between load and store.
        try:
            self._memory.write(at, entry.to_bytes(size, "big" if big else "little"))
        except Miss:
            raise Fault(cause) from None


def grants_of(first: Leaf | None, second: Leaf | None) -> int:
    """What the leaves of both stages allow; see ``Line.grants``.

    A write is not granted before D is set: it must walk, to set it.
    """
    grants = 0o777
    if first is not None:
        allowed = _allowed(first.entry)
        if first.entry & U:
            grants = allowed | (allowed & ~int(Access.EXECUTE)) << 6
        else:
            grants = allowed << 3 | allowed << 6
    if second is not None:
        allowed = _allowed(second.entry)
        grants &= allowed | allowed << 3 | allowed << 6
    return grants


def _allowed(entry: int) -> int:
    allowed = entry >> 1 & 7
    return allowed if entry & D else allowed & ~int(Access.WRITE)


def line_of(iova: int, first: Leaf | None, second: Leaf | None) -> tuple[Line, int]:
    """The cacheable translation around ``iova``, and log2 of its size."""
    gpa = iova if first is None else first.base | iova & (1 << first.shift) - 1
    hpa = gpa if second is None else second.base | gpa & (1 << second.shift) - 1
    shift = min(leaf.shift for leaf in (first, second) if leaf is not None)
    size = 1 << shift
    low = iova & ~(size - 1)
    wide = size if first is None else 1 << first.shift
    kinds = [leaf.entry >> 61 & 3 for leaf in (first, second) if leaf is not None]
    line = Line(
        low=low,
        high=low + size,
        delta=hpa - iova,
        grants=grants_of(first, second),
        pbmt=next((kind for kind in kinds if kind), 0),
        everywhere=first is not None and first.everywhere,
        first_low=iova & ~(wide - 1),
        first_high=(iova & ~(wide - 1)) + wide,
        gpa=gpa - (iova - low),
    )
    return line, shift
