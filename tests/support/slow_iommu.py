"""A second IOMMU, written from the text of the specification alone: slow, and without a cache.

It answers one request from registers and memory, sets A and D, and is judged by eye: each
stage is as long as its list of steps.  No queues, commands, ATS or MRIFs.

Spec: RISC-V IOMMU 1.0; RISC-V Privileged, Supervisor-Level ISA and Hypervisor Extension
"""

from dataclasses import dataclass

PAGE_FAULT = {"x": 12, "r": 13, "w": 15}
GUEST_PAGE_FAULT = {"x": 20, "r": 21, "w": 23}
ACCESS_FAULT = {"x": 1, "r": 5, "w": 7}
REPORTED_ANYWAY = {256, 257, 258, 259, 268, 272, 273}
R, W, X, U, A, D = 2, 4, 8, 16, 64, 128
RIGHT = {"r": R, "w": W, "x": X}


def f(word, high, low):
    """Bits ``high`` to ``low``."""
    return word >> low & (1 << high - low + 1) - 1


class Stop(Exception):
    """The process stops and reports a cause."""

    def __init__(self, cause, iotval2=0):
        super().__init__(cause)
        self.cause, self.iotval2 = cause, iotval2


@dataclass
class Ask:
    """A request; ``op`` is r, w or x, ``pid`` None without a process id."""

    did: int
    pid: int | None
    iova: int
    op: str
    priv: bool = False
    translated: bool = False

    def record(self, stop):
        """The fault record of it: cause, DID, PV, PID, PRIV, TTYP, iotval, iotval2."""
        tagged = self.pid is not None
        ttyp = {"x": 1, "r": 2, "w": 3}[self.op] + (4 if self.translated else 0)
        tag = int(tagged), self.pid or 0, int(tagged and self.priv)
        return stop.cause, self.did, *tag, ttyp, self.iova, stop.iotval2


class Slow:
    """Registers are numbers; ``load(at, size)`` and ``store(at, bytes)`` raise LookupError."""

    def __init__(self, capabilities, fctl, ddtp, load, store):
        self.can = lambda bit: capabilities >> bit & 1
        self.be, self.gxl = fctl & 1, fctl >> 2 & 1
        self.ddtp, self._load, self._store = ddtp, load, store

    def load(self, at, size, big, cause):
        try:
            return int.from_bytes(self._load(at, size), "big" if big else "little")
        except LookupError:
            raise Stop(cause) from None

    def store(self, at, value, size, big, cause):
        try:
            self._store(at, value.to_bytes(size, "big" if big else "little"))
        except LookupError:
            raise Stop(cause) from None

    def answer(self, ask):
        """(address, memory type), or (None, fault record or None)."""
        self.dtf = False
        try:
            return self.translate(ask)
        except Stop as stop:
            silent = self.dtf and stop.cause not in REPORTED_ANYWAY
            return None, None if silent else ask.record(stop)

    def translate(self, ask):
        """Process to translate an IOVA."""
        mode = f(self.ddtp, 3, 0)
        if mode == 0:
            raise Stop(256)
        if mode == 1:
            if ask.translated:
                raise Stop(260)
            return ask.iova, 0
        ddi0 = 6 if self.can(22) else 7
        ddi = f(ask.did, ddi0 - 1, 0), f(ask.did, ddi0 + 8, ddi0), ask.did >> ddi0 + 9
        if (mode == 3 and ddi[2]) or (mode == 2 and (ddi[2] or ddi[1])):
            raise Stop(260)
        tc, iohgatp, _, fsc, msi = self.device_context(mode - 2, ddi)
        self.dtf = bool(f(tc, 4, 4))
        pdtv, pdt_mode, pid = f(tc, 5, 5), f(fsc, 63, 60), ask.pid
        if ask.translated and not f(tc, 1, 1):
            raise Stop(260)
        if pid is not None and not pdtv:
            raise Stop(260)
        if pid is not None and pdt_mode and pid >> {1: 8, 2: 17, 3: 20}[pdt_mode]:
            raise Stop(260)
        if ask.translated and not f(tc, 3, 3):
            return ask.iova, 0
        iosatp, user_memory = 0, False
        if ask.translated:
            pass
        elif not pdtv:
            iosatp = fsc
        else:
            if pid is None and f(tc, 9, 9):
                pid = 0
            if pid is not None and pdt_mode:
                pc_ta, iosatp = self.process_context(tc, iohgatp, fsc, pid, ask.op)
                user_memory = bool(f(pc_ta, 2, 2))
                if ask.priv and ask.pid is not None and not f(pc_ta, 1, 1):
                    raise Stop(260)
        priv = ask.priv and ask.pid is not None
        gpa, memory_type = self.first_stage(tc, iohgatp, iosatp, ask, priv, user_memory)
        if msi and (gpa >> 12) & ~msi[1] == msi[2] & ~msi[1]:
            return self.interrupt_file(msi, gpa, ask.op), memory_type
        if not iohgatp >> 60:
            return gpa, memory_type
        spa, other = self.second_stage(tc, iohgatp, gpa, ask.op, ask.op, 0, ACCESS_FAULT[ask.op])
        return spa, memory_type or other

    def device_context(self, level, ddi):
        """Process to locate the Device-context."""
        a = f(self.ddtp, 53, 10) << 12
        while level:
            ddte = self.load(a + ddi[level] * 8, 8, self.be, 257)
            if not ddte & 1:
                raise Stop(258)
            if f(ddte, 9, 1) or f(ddte, 63, 54):
                raise Stop(259)
            a, level = f(ddte, 53, 10) << 12, level - 1
        size = 64 if self.can(22) else 32
        a += ddi[0] * size
        dc = [self.load(a + at, 8, self.be, 257) for at in range(0, size, 8)]
        if not dc[0] & 1:
            raise Stop(258)
        if self.device_misconfigured(dc):
            raise Stop(259)
        flat = len(dc) == 8 and f(dc[4], 63, 60) == 1
        return *dc[:4], (f(dc[4], 43, 0) << 12, dc[5], dc[6]) if flat else None

    def device_misconfigured(self, dc):
        """Device-context configuration checks; custom encodings are not there."""
        tc, iohgatp, ta, fsc = dc[:4]
        ats, pri, t2gpa, prpr = f(tc, 1, 1), f(tc, 2, 2), f(tc, 3, 3), f(tc, 6, 6)
        pdtv, sxl, guest, mode = f(tc, 5, 5), f(tc, 11, 11), iohgatp >> 60, fsc >> 60
        can32 = self.can(8) or self.can(16)
        widths = (59, 19), (50, 18), (41, 17), (34, 16)
        wide = next((bits for bits, bit in widths if self.can(bit)), 0)
        wide = wide or sum(self.can(32 + bit) << bit for bit in range(6))
        return any(
            (
                f(tc, 23, 12) or f(tc, 63, 32) or f(ta, 11, 0) or f(ta, 63, 32) or f(fsc, 59, 44),
                not self.can(25) and (ats or pri or prpr),
                not ats and (t2gpa or pri),
                not pri and prpr,
                t2gpa and (not self.can(26) or not guest),
                pdtv and not (mode == 0 or (mode <= 3 and self.can(37 + mode))),
                not pdtv and not self.first_modes(mode, sxl),
                not pdtv and f(tc, 9, 9),
                guest and not self.gxl and not (8 <= guest <= 10 and self.can(9 + guest)),
                guest and self.gxl and not (guest == 8 and self.can(16)),
                guest and f(iohgatp, 1, 0),
                not self.can(24) and (f(tc, 7, 7) or f(tc, 8, 8)),
                not self.can(27) and self.be != f(tc, 10, 10),
                self.gxl and not sxl,
                sxl and not can32,
                len(dc) == 8
                and (
                    f(dc[4], 59, 44)
                    or dc[4] >> 60 > 1
                    or (dc[4] >> 60 and not guest)
                    or dc[5] >> wide - 12
                    or dc[6] >> wide - 12
                    or dc[7]
                ),
            )
        )

    def first_modes(self, mode, sxl):
        """Encodings of iosatp.MODE."""
        if sxl:
            return mode == 0 or (mode == 8 and self.can(8))
        return mode == 0 or (8 <= mode <= 10 and self.can(1 + mode))

    def process_context(self, tc, iohgatp, pdtp, pid, op):
        """Process to locate the Process-context."""
        a, i, big = f(pdtp, 43, 0) << 12, (pdtp >> 60) - 1, f(tc, 10, 10)
        pdi = f(pid, 7, 0), f(pid, 16, 8), f(pid, 19, 17)
        while True:
            a += pdi[i] * 8 if i else pdi[0] * 16
            if iohgatp >> 60:
                a, _ = self.second_stage(tc, iohgatp, a, "r", op, 1, 265)
            if not i:
                break
            pdte = self.load(a, 8, big, 265)
            if not pdte & 1:
                raise Stop(266)
            if f(pdte, 9, 1) or f(pdte, 63, 54):
                raise Stop(267)
            i, a = i - 1, f(pdte, 53, 10) << 12
        ta, fsc = self.load(a, 8, big, 265), self.load(a + 8, 8, big, 265)
        if not ta & 1:
            raise Stop(266)
        if f(ta, 11, 3) or ta >> 32 or f(fsc, 59, 44):
            raise Stop(267)
        if not self.first_modes(fsc >> 60, f(tc, 11, 11)):
            raise Stop(267)
        return ta, fsc

    def first_stage(self, tc, iohgatp, iosatp, ask, priv, user_memory):
        """Virtual Address Translation Process: (GPA, memory type)."""
        mode, va, op = iosatp >> 60, ask.iova, ask.op
        if not mode:
            return va, 0
        rv32, big = f(tc, 11, 11), f(tc, 10, 10)
        levels, bits, size = (2, 10, 4) if rv32 else (mode - 5, 9, 8)
        top = va >> 12 + bits * levels - (0 if rv32 else 1)
        if top and (rv32 or top != (1 << 65 - 12 - bits * levels) - 1):
            raise Stop(PAGE_FAULT[op])
        a, i = f(iosatp, 43, 0) << 12, levels - 1
        while True:
            at = place = a + f(va, 11 + bits * (i + 1), 12 + bits * i) * size
            if iohgatp >> 60:
                at, _ = self.second_stage(tc, iohgatp, place, "r", op, 1, ACCESS_FAULT[op])
            pte = self.load(at, size, big, ACCESS_FAULT[op])
            kind = self.kind(pte, i)
            if kind == "pointer":
                a, i = f(pte, 53, 10) << 12, i - 1
                continue
            page, shift = self.page(pte, i, bits)
            if kind != "leaf" or page is None or not pte & RIGHT[op]:
                raise Stop(PAGE_FAULT[op])
            if priv and pte & U and (op == "x" or not user_memory):
                raise Stop(PAGE_FAULT[op])
            if not priv and not pte & U:
                raise Stop(PAGE_FAULT[op])
            new = pte | A | (D if op == "w" else 0)
            if new != pte:
                if not f(tc, 8, 8):
                    raise Stop(PAGE_FAULT[op])
                if iohgatp >> 60:
                    at, _ = self.second_stage(tc, iohgatp, place, "w", op, 3, ACCESS_FAULT[op])
                self.store(at, new, size, big, ACCESS_FAULT[op])
            return page | f(va, shift - 1, 0), f(pte, 62, 61)

    def second_stage(self, tc, iohgatp, gpa, own, op, implicit, missing):
        """The same for guest-physical addresses: (SPA, memory type).

        ``own`` is what this access does, ``op`` what the request does; ``implicit`` are
        the low bits of iotval2.
        """
        refused = Stop(GUEST_PAGE_FAULT[op], gpa & ~3 | implicit)
        mode = iohgatp >> 60
        levels, bits, size = (2, 10, 4) if self.gxl else (mode - 5, 9, 8)
        if gpa >> 14 + bits * levels or (f(tc, 11, 11) and gpa >> 34):
            raise refused
        a, i = f(iohgatp, 43, 0) << 12, levels - 1
        while True:
            top = 2 if i == levels - 1 else 0
            at = a + f(gpa, 11 + bits * (i + 1) + top, 12 + bits * i) * size
            pte = self.load(at, size, self.be, missing)
            kind = self.kind(pte, i)
            if kind == "pointer":
                a, i = f(pte, 53, 10) << 12, i - 1
                continue
            page, shift = self.page(pte, i, bits)
            if kind != "leaf" or page is None or not pte & RIGHT[own] or not pte & U:
                raise refused
            new = pte | A | (D if own == "w" else 0)
            if new != pte:
                if not f(tc, 7, 7):
                    raise refused
                self.store(at, new, size, self.be, missing)
            return page | f(gpa, shift - 1, 0), f(pte, 62, 61)

    def kind(self, pte, i):
        """Steps 3 and 4: an entry of level ``i`` is a leaf, a pointer, or None of both."""
        reserved = f(pte, 58, 54) or f(pte, 62, 61) == 3
        reserved = reserved or (f(pte, 60, 59) and not self.can(14))
        reserved = reserved or (f(pte, 62, 61) and not self.can(15))
        if not pte & 1 or (pte & W and not pte & R) or reserved:
            return None
        if pte & (R | X):
            return "leaf"
        # D, A and U are reserved in a non-leaf entry, and so are PBMT and N.
        return None if i == 0 or pte & (U | A | D) or f(pte, 63, 61) else "pointer"

    def page(self, pte, i, bits):
        """Base and log2 of the size of a leaf's page; None if it is not aligned to it."""
        page = f(pte, 53, 10) << 12
        if f(pte, 63, 63):
            return (page & ~0xFFFF, 16) if i == 0 and f(pte, 13, 10) == 8 else (None, 0)
        shift = 12 + bits * i
        return (page, shift) if f(page, shift - 1, 0) == 0 else (None, 0)

    def interrupt_file(self, msi, gpa, op):
        """Process to translate addresses of MSIs, basic mode."""
        root, mask, _ = msi
        kept = [f(gpa >> 12, bit, bit) for bit in range(52) if mask >> bit & 1]
        number = sum(bit << at for at, bit in enumerate(kept))
        at = root | number * 16
        pte, high = self.load(at, 8, self.be, 261), self.load(at + 8, 8, self.be, 261)
        if not pte & 1:
            raise Stop(262)
        if f(pte, 63, 63) or f(pte, 2, 1) != 3 or f(pte, 9, 3) or f(pte, 62, 54) or high:
            raise Stop(263)
        if op == "x":
            raise Stop(1)
        return f(pte, 53, 10) << 12 | f(gpa, 11, 0)
