"""Random machines for the IOMMU: tables that mostly make sense, and some that do not.

The low pages of memory are kept by kind, so that tables point at tables of the next level
and A and D bits are only ever set in page tables.
"""

from mdevemu.iommu import capabilities_of

PAGE = 4096
SIZE = 96 * PAGE
COMMANDS, FAULTS = 92 * PAGE, 93 * PAGE
DDT, PDT = range(1, 5), range(5, 10)
FIRST = {level: range(12 + 3 * level, 15 + 3 * level) for level in range(5)}
ROOTS = (28, 32, 36)
SECOND = {level: range(40 + 2 * level, 42 + 2 * level) for level in range(4)}
IDENTITY = 50
MSI = 51
PLACES = (0, 1, 2, 7, 256, 511)
V, R, W, X, U, G, A, D = (1 << n for n in range(8))
LEAVES = (R, R | W, R | W, R | W, R | W | X, R | W | X, R | X, X)
OPTIONAL = ("sv48", "sv57", "svrsw60t59b", "svpbmt", "sv39x4", "sv48x4", "sv57x4", "msi_flat")
OPTIONAL += ("amo_hwad", "ats", "t2gpa", "pd8", "pd17", "pd20")


class Tables:
    """Fills memory at random.

    Attributes:
        steady: nothing that leaves an IOMMU with caches a choice: each context has soft-context
            ids of its own, no Svnapot, no nonsense in directories.
        devices: ids that lead somewhere.
    """

    def __init__(self, chance, *, steady):
        self.chance = chance
        self.steady = steady
        self.memory = bytearray(SIZE)
        lacking = chance.sample(OPTIONAL, chance.choice((0, 0, 1, 3)))
        wide = chance.random() < 0.15  # RV32 and byte orders can be chosen
        self.can = capabilities_of(**dict.fromkeys(lacking, 0), sv32=wide, sv32x4=wide, end=wide)
        self.fctl = chance.choice((0, 0, 1, 4, 5)) if wide else 0
        self.big = bool(self.fctl & 1)
        self.mode = chance.choice((2, 3, 4))
        self.ddtp = self.mode | DDT[0] << 10
        self._ids = 0
        self.guests = set()  # GSCIDs in use
        self.places = {}  # where a device's context stands
        self.directory_modes = {}  # of the context at a place
        for level, pages in FIRST.items():
            for page in pages:
                self.table(page, level, FIRST)
        for level, pages in SECOND.items():
            for page in pages:
                self.table(page, level, SECOND)
        for root in ROOTS:
            self.root(root)
        self.identity()
        self.msi()
        low = 6 if self.can.msi_flat else 7
        self.devices = [at | high for at in (0, 5, 63) for high in self.highs(low)]
        self.directories(low)

    def odd(self, share=0.06):
        """Something should be wrong here."""
        return self.chance.random() < share

    def put(self, at, word, size=8, big=None):
        """Store a doubleword; structures of the host have its byte order."""
        order = "big" if (self.big if big is None else big) else "little"
        self.memory[at : at + size] = (word & (1 << 8 * size) - 1).to_bytes(size, order)

    # Page tables.

    def leaf(self, level):
        """An entry for a page of ``512 ** level`` pages."""
        chance = self.chance
        placed = sum(chance.choice(PLACES) << shift for shift in (0, 9, 18))
        low = chance.randrange(96) if chance.random() < 0.9 else chance.randrange(0x100, 0x104)
        pages = chance.choice((low, low, low, placed, placed & 0x1FFFF, chance.getrandbits(44)))
        if not self.odd(0.04):
            pages &= -(512**level)
        entry = V | chance.choice(LEAVES) | U | A | D | (pages & (1 << 44) - 1) << 10
        for bit, share in ((V, 0.04), (U, 0.06), (A, 0.1), (D, 0.2)):
            if chance.random() < share:
                entry &= ~bit
        entry |= chance.choice((0, 0, 0, G)) | chance.choice((0,) * 27 + (1, 1, 2, 2, 3)) << 61
        if self.odd(0.03):
            entry |= 1 << chance.randrange(54, 61)
        if not self.steady and self.odd(0.02 if level else 0.15):
            entry = entry & ~(0xF << 10) | 1 << 63 | chance.choice((8, 8, 8, 4, 0)) << 10
        return entry

    def entry(self, level, tables):
        """An entry of a table of a level: it points on, it is a leaf, or it is neither."""
        if self.odd(0.03) and not self.steady:
            return self.chance.getrandbits(64)
        if level and self.chance.random() < 0.75:
            entry = self.chance.choice(tables[level - 1]) << 10 | V
            return entry | 1 << self.chance.randrange(4, 64) if self.odd(0.04) else entry
        return self.leaf(level)

    def table(self, page, level, tables):
        """A page with some entries at the places that addresses are made of."""
        big = self.chance.random() < 0.5 if self.can.end else self.big
        for place in PLACES:
            self.put(page * PAGE + place * 8, self.entry(level, tables), big=big)
        if self.odd(0.02) and not self.steady:
            self.memory[page * PAGE : (page + 1) * PAGE] = self.chance.randbytes(PAGE)

    def root(self, page):
        """A second-stage root of 16 KiB, whose first entry leads to the low pages."""
        levels = ROOTS.index(page) + 2
        for place in (*PLACES, 1024, 2047):
            self.put(page * PAGE + place * 8, self.entry(min(levels, 4), {**SECOND, 4: SECOND[3]}))
        if not self.odd():
            below = SECOND[levels - 1][0]
            self.put(page * PAGE, below << 10 | V)

    def identity(self):
        """Guest pages 0 to 95 are where they are, with exceptions."""
        for level in (3, 2, 1):
            target = SECOND[level - 1][0] if level > 1 else IDENTITY
            self.put(SECOND[level][0] * PAGE, target << 10 | V)
        good = V | R | W | U | A | D
        for page in range(96):
            self.put(IDENTITY * PAGE + page * 8, page << 10 | good)
            if self.odd(0.03):
                gone = self.chance.choice((V, R | W, W, U, A, D, A | D))
                self.put(IDENTITY * PAGE + page * 8, page << 10 | good & ~gone)

    def msi(self):
        """An MSI page table, for a guest's pages 0x100 to 0x103."""
        for number in range(4):
            entry = self.chance.getrandbits(44) << 10 | V | 3 << 1
            if self.odd(0.3):
                entry ^= 1 << self.chance.randrange(64)
            self.put(MSI * PAGE + number * 16, entry)
            self.put(MSI * PAGE + number * 16 + 8, int(self.odd()))

    # Directories.

    def highs(self, low):
        """Upper parts of device ids that the directory's depth allows."""
        return (
            0,
            *((1 << low, 3 << low) if self.mode > 2 else ()),
            *((1 << low + 9,) if self.mode > 3 else ()),
        )

    def directories(self, low):
        """Every device has a context; the root is DDT[0], the contexts are in one page each."""
        chance = self.chance
        for device in self.devices:
            table = DDT[0]
            for level in range(self.mode - 2, 0, -1):
                index = device >> low + 9 * (level - 1) & 0x1FF
                if level == 1:
                    index = device >> low & 0x1FF
                entry = (DDT[1] if level == 2 else DDT[2 + (index & 1)]) << 10 | V
                if self.odd(0.02) and not self.steady:
                    entry ^= 1 << chance.randrange(64)
                self.put(table * PAGE + index * 8, entry)
                table = DDT[1] if level == 2 else DDT[2 + (index & 1)]
            at = table * PAGE + (device & (1 << low) - 1) * (1 << 12 - low)
            self.places[device] = at
            self.context(at)
        for page in PDT:
            self.processes(page)

    def bits(self, *shares):
        """A word from (bit, share of ones)."""
        return sum(1 << bit for bit, share in shares if self.chance.random() < share)

    def number(self, bits):
        """A soft-context id: one of its own, or any."""
        self._ids += 1
        return (
            self._ids if self.steady else self.chance.choice((1, 2, self.chance.getrandbits(bits)))
        )

    def context(self, at):
        """A device context."""
        chance, can = self.chance, self.can
        self.directory_modes.pop(at, None)  # another device may have been there
        tc = 1 | self.bits((4, 0.05), (5, 0.7))
        tc |= self.bits((7, 0.6), (8, 0.6)) if can.amo_hwad else 0
        tc |= self.bits((1, 0.6)) if can.ats else 0
        guests = [mode for mode in (8, 9, 10) if getattr(can, f"sv{9 * (mode - 4) + 3}x4")]
        guest = chance.choice((0, *guests))
        if self.fctl & 4:
            guest = chance.choice((0, 8))
            tc |= 1 << 11
        elif can.sv32:
            tc |= self.bits((11, 0.3))
        tc |= self.bits((10, 0.5)) if can.end else self.big << 10
        if tc & 2 and guest and can.t2gpa:
            tc |= self.bits((3, 0.5))
        gscid = self.number(16)
        iohgatp = guest << 60 | gscid << 44 | (ROOTS[guest - 8] if guest else 0)
        if guest:
            self.guests.add(gscid)
        if tc & 1 << 5:
            tc |= self.bits((9, 0.5))
            modes = [0, *(n for n, pd in enumerate((can.pd8, can.pd17, can.pd20), 1) if pd)]
            mode = chance.choice(modes[1:] or modes)
            self.directory_modes[at] = mode
            fsc = mode << 60 | PDT[max(mode - 1, 0)]
        else:
            fsc = self.first(tc)
        words = [tc, iohgatp, self.number(20) << 12, fsc]
        if can.msi_flat:
            flat = bool(guest) and chance.random() < 0.4
            words += [flat << 60 | MSI, 3, 0x100 | chance.randrange(4), 0]
        for place, word in enumerate(words):
            changed = (
                word ^ 1 << chance.randrange(64) if self.odd(0.015) and not self.steady else word
            )
            self.put(at + place * 8, changed)

    def first(self, tc):
        """An iosatp."""
        if tc >> 11 & 1:
            return self.chance.choice((0, 8 << 60 | self.chance.choice(FIRST[1])))
        mode = self.chance.choice((0, 8, 8, 9, 10))
        if mode > 8 and not (self.can.sv48 if mode == 9 else self.can.sv57):
            mode = 8
        return mode << 60 | self.chance.choice(FIRST[mode - 6]) if mode else 0

    def processes(self, page):
        """A page of process contexts, or a directory of such or of directories."""
        big = self.chance.random() < 0.5 if self.can.end else self.big
        following = {PDT[1]: (PDT[0], *PDT[3:]), PDT[2]: (PDT[1],)}.get(page)
        for index in range(8):
            if following:
                entry = self.chance.choice(following) << 10 | V
                if self.odd(0.04) and not self.steady:
                    entry ^= 1 << self.chance.randrange(64)
                self.put(page * PAGE + index * 8, entry, big=big)
                continue
            ta = 1 | self.bits((1, 0.7), (2, 0.5)) | self.number(20) << 12
            ta = 0 if self.odd(0.03) else ta
            if self.odd(0.03) and not self.steady:
                ta ^= 1 << self.chance.randrange(64)
            self.put(page * PAGE + index * 16, ta, big=big)
            self.put(page * PAGE + index * 16 + 8, self.first(0), big=big)

    # Requests.

    def address(self):
        """An Iova that is made of the places where tables have entries."""
        chance = self.chance
        kind = chance.random()
        if kind < 0.02:
            return chance.getrandbits(64)
        if kind < 0.06:
            return chance.randrange(0xFF, 0x105) << 12 | chance.randrange(PAGE)
        bits = chance.choice((32, *(39,) * 12, 48, 57))
        iova = chance.randrange(PAGE)
        for shift in range(12, bits, 9):
            iova |= chance.choice(PLACES if chance.random() < 0.7 else PLACES[:4]) << shift
        iova &= (1 << bits - chance.choice((0, 1))) - 1
        if iova >> bits - 1 and bits > 32 and chance.random() < 0.9:
            iova |= (1 << 64) - (1 << bits)
        return iova

    def process_id(self, device):
        """Mostly one that has a context, if the device has any."""
        chance = self.chance
        if chance.random() < 0.05:
            return chance.choice((None, chance.getrandbits(8), chance.getrandbits(20)))
        mode = self.directory_modes.get(self.places.get(device), 0)
        if not mode:
            return None
        high = (0, 1 << 8, 7 << 8) if mode > 1 else (0,)
        top = (0, 1 << 17, 7 << 17) if mode > 2 else (0,)
        return chance.randrange(8) | chance.choice(high) | chance.choice(top)
