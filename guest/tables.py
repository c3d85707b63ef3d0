"""Tables of guest processes, in memory that the device reaches: a directory, and first stages.

What the device takes for a guest-physical address is what VFIO mapped: the Iova of a buffer.

Spec: RISC-V IOMMU 1.0, Process-directory table, Process-context; RISC-V Privileged, Sv39
"""

from guest.access import PAGE, Buffer
from guest.errors import AgentError
from guest.native import PasidMode

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
READ_ONLY = V | R | U | A | D
READ_WRITE = READ_ONLY | W
PASID_BITS = {PasidMode.PD8: 8, PasidMode.PD17: 17, PasidMode.PD20: 20}
_INDEX_BITS = {PasidMode.PD8: (8,), PasidMode.PD17: (9, 8), PasidMode.PD20: (3, 9, 8)}
_SV39 = 8
_LEVELS = 3
_WORD = 8  # bytes of an entry
_CONTEXT_WORDS = 2


class Frames:
    """Zeroed pages for tables.

    Entries are stored whole: the device may read them at any moment.
    """

    def __init__(self, memory: Buffer) -> None:
        """``memory`` stays its owner's; ``close`` before it is released."""
        self._memory = memory
        self._words = memory.view.cast("Q")
        self._used = 0

    def take(self) -> int:
        """The Iova of a zeroed page.

        Raises:
            AgentError: none is left.
        """
        if self._used + PAGE > self._memory.size:
            raise AgentError(f"{self._memory.size} bytes are too few for the process tables")
        at = self._used
        self._used += PAGE
        self._memory.view[at : at + PAGE] = bytes(PAGE)
        return self._memory.iova + at

    def get(self, at: int) -> int:
        """The entry at an Iova."""
        return self._words[(at - self._memory.iova) // _WORD]

    def put(self, at: int, entry: int) -> None:
        """Store an entry at an Iova."""
        self._words[(at - self._memory.iova) // _WORD] = entry

    def close(self) -> None:
        """Let go of the memory, which keeps what is in it."""
        self._words.release()


class Process:
    """An address space: a first stage in Sv39.

    Attributes:
        pasid: which process it is; its soft-context id (PSCID) is the same number.
        root: Iova of its root table.
    """

    def __init__(self, frames: Frames, pasid: int) -> None:
        """Nothing is mapped."""
        self._frames = frames
        self.pasid = pasid
        self.root = frames.take()

    def map(self, address: int, iova: int, flags: int = READ_WRITE) -> None:
        """Map the page at a virtual address; the device must be told if it knew another one."""
        self._frames.put(self._place(address), iova >> 2 | flags)

    def unmap(self, address: int) -> None:
        """Clear the entry of a page; the device may use what it knows until it is told."""
        self._frames.put(self._place(address), 0)

    def entry(self, address: int) -> int:
        """The leaf entry of a virtual address; 0 if nothing is mapped."""
        return self._frames.get(self._place(address))

    def _place(self, address: int) -> int:
        """Where the last entry stands; tables on the way are made."""
        table = self.root
        for level in range(_LEVELS - 1, 0, -1):
            at = table + (address >> 12 + 9 * level & 511) * _WORD
            entry = self._frames.get(at)
            if not entry:
                entry = self._frames.take() >> 2 | V
                self._frames.put(at, entry)
            table = entry >> 10 << 12
        return table + (address >> 12 & 511) * _WORD


class Directory:
    """The process directory of a device.

    Attributes:
        mode: how many levels it has.
        base: Iova of its root.
    """

    def __init__(self, frames: Frames, mode: PasidMode) -> None:
        """No process is in it."""
        self._frames = frames
        self.mode = mode
        self.base = frames.take()

    def enter(self, pasid: int) -> Process:
        """Give a PASID an address space of its own."""
        process = Process(self._frames, pasid)
        at = self._place(pasid)
        # The valid bit goes last: the device may look between the two.
        self._frames.put(at + _WORD, _SV39 << 60 | process.root >> 12)
        self._frames.put(at, V | pasid << 12)
        return process

    def remove(self, pasid: int) -> None:
        """Make the context of a PASID invalid."""
        self._frames.put(self._place(pasid), 0)

    def _place(self, pasid: int) -> int:
        """Where a process context stands; tables on the way are made."""
        table, left = self.base, sum(_INDEX_BITS[self.mode])
        for width in _INDEX_BITS[self.mode][:-1]:
            left -= width
            at = table + (pasid >> left & (1 << width) - 1) * _WORD
            entry = self._frames.get(at)
            if not entry:
                entry = self._frames.take() >> 2 | V
                self._frames.put(at, entry)
            table = entry >> 10 << 12
        return table + (pasid & (1 << left) - 1) * _WORD * _CONTEXT_WORDS
