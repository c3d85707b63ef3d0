"""Tables as a guest builds them in its own memory: a process directory and Sv39 first stages.

Written from the specification: RISC-V IOMMU 1.0, Process-directory table and
Process-context; RISC-V Privileged, Sv39.
"""

PAGE = 4096
V, R, W, X, U, G, A, D = (1 << n for n in range(8))
USER = V | R | W | U | A | D
SV39 = 8


class GuestTables:
    """A one-level process directory (PD8) at ``base`` of a guest's RAM, and its page tables."""

    def __init__(self, ram, base):
        self.ram = ram
        self.base = base
        self._next = base + PAGE

    def frame(self):
        """The guest-physical address of a fresh, zeroed page."""
        at, self._next = self._next, self._next + PAGE
        self.ram.write(at, bytes(PAGE))
        return at

    def process(self, pasid, pscid=None):
        """Give a PASID an empty address space; the root of its first stage."""
        root = self.frame()
        context = (1 | (pasid if pscid is None else pscid) << 12) | (SV39 << 60 | root >> 12) << 64
        self.ram.write(self.base + pasid * 16, context.to_bytes(16, "little"))
        return root

    def forget(self, pasid):
        """Make the context of a PASID invalid."""
        self.ram.write(self.base + pasid * 16, bytes(16))

    def map(self, root, virtual, physical, flags=USER):
        """Map one 4 KiB page."""
        self._put(self._entry(root, virtual), physical >> 2 | flags)

    def unmap(self, root, virtual):
        """Clear the entry of a page."""
        self._put(self._entry(root, virtual), 0)

    def flags(self, root, virtual):
        """The low eight bits of a page's entry."""
        return self._get(self._entry(root, virtual)) & 0xFF

    def _entry(self, root, virtual):
        """Where the last entry stands; tables on the way are made."""
        table = root
        for level in (2, 1):
            at = table + (virtual >> 12 + 9 * level & 511) * 8
            if not self._get(at):
                self._put(at, self.frame() >> 2 | V)
            table = self._get(at) >> 10 << 12
        return table + (virtual >> 12 & 511) * 8

    def _get(self, at):
        return int.from_bytes(self.ram.read(at, 8), "little")

    def _put(self, at, entry):
        self.ram.write(at, entry.to_bytes(8, "little"))
