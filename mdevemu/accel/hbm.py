"""The accelerator's own memory, cut into partitions that belong to one mdev each.

Every partition is a file of its own, so a VMM that maps it can never reach a
neighbour, and one that keeps an old mapping sees neither what was there nor
what comes after: a freed partition is scrubbed, its file is given up, and the
next owner of the same addresses gets a new one.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mdevemu.accel.ranges import Ranges
from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.memory.backing import MappedFile
from mdevemu.memory.physical import PhysicalMemory
from mdevemu.units import MIB, Hpa

GRANULE = 2 * MIB
"""Partitions start and end on multiples of this, in bytes."""

MMU_AT, MMU_END = 1 << 40, 1 << 44
"""Addresses that a slice's own MMU translates, in bytes from the start of its HBM."""

Runs = Sequence[tuple[int, int]]
"""Pieces of a slice's HBM: (offset, bytes), whole pages."""


@dataclass(frozen=True, slots=True)
class HbmUse:
    """What a slice's allocator says of its HBM, in bytes.

    Attributes:
        used: in buffers.
        high_water: the most that ever was, since the reset.
        scrubbing: freed, and still to be scrubbed.
        imported: of other slices, reachable by this one.
    """

    used: int = 0
    high_water: int = 0
    scrubbing: int = 0
    imported: int = 0


@dataclass(eq=False, frozen=True, slots=True)
class Partition:
    """A piece of HBM that one mdev owns.

    Attributes:
        offset, size: bytes, from the start of the HBM.
        base: where it is in the host's physical memory.
        file: its contents, for a VMM to map.
        backing: the same contents, in the host's physical memory.
        observers: called with (offset, bytes) of what was scrubbed.
    """

    offset: int
    size: int
    base: Hpa
    file: Fd
    backing: MappedFile
    observers: list[Callable[[int, int], None]] = field(default_factory=list)

    def scrub(self, offset: int, length: int) -> None:
        """Make bytes zero, for everybody who reaches them; whole pages.  It cannot fail."""
        self.backing.discard(offset, length)
        for tell in tuple(self.observers):
            tell(offset, length)


class Hbm:
    """All HBM of one accelerator; partitions never overlap.

    Attributes:
        size: bytes.
    """

    def __init__(self, memory: PhysicalMemory, base: Hpa, size: int) -> None:
        """``size`` bytes, a multiple of the granule, at ``base`` of the host's memory."""
        assert size % GRANULE == 0
        self.size = size
        self._memory = memory
        self._base = base
        self._free = Ranges(size)

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody owns, adjacent or not."""
        return self._free.free_bytes

    def holes(self) -> list[tuple[int, int]]:
        """Free ranges, as (offset, bytes), lowest first."""
        return list(self._free)

    def create(self, offset: int, size: int) -> Partition:
        """Take ``size`` free bytes at ``offset``, both multiples of the granule.

        Raises:
            RequestError: the machine has no memory or descriptor for it; nothing was taken.
        """
        assert size > 0
        assert (offset | size) % GRANULE == 0
        assert self._free.free(offset, size)
        base = Hpa(self._base + offset)
        file = _fresh_file(size)
        try:
            backing = MappedFile(file, size, writable=True)
        except RequestError:
            file.close()
            raise
        partition = Partition(offset, size, base, file, backing)
        self._memory.add(base, partition.backing, size)
        self._free.take(offset, size)
        return partition

    def remove(self, partition: Partition) -> None:
        """Scrub a partition and give its place back."""
        partition.scrub(0, partition.size)
        self._memory.remove(partition.base)
        partition.backing.close()
        partition.file.close()
        self._free.give(partition.offset, partition.size)


def _fresh_file(size: int) -> Fd:
    """A file of ``size`` zero bytes that can neither grow nor shrink.

    Raises:
        RequestError: the machine refuses.
    """
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    try:
        file = Fd(os.memfd_create("hbm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        raise _refused(size, error) from error
    try:
        os.ftruncate(file.fileno(), size)
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        file.close()
        raise _refused(size, error) from error
    return file


def _refused(size: int, error: OSError) -> RequestError:
    number = error.errno or errno.ENOMEM
    return RequestError(number, f"no file of {size} bytes for HBM: {os.strerror(number)}")
