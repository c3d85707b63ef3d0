"""The accelerator's own memory, cut into partitions that belong to one mdev each.

Every partition is a file of its own, so a VMM that maps it can never reach a
neighbour, and one that keeps an old mapping sees neither what was there nor
what comes after: a freed partition is scrubbed, its file is given up, and the
next owner of the same addresses gets a new one.
"""

import errno
import fcntl
import os
from dataclasses import dataclass

from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.memory.backing import MappedFile
from mdevemu.memory.physical import PhysicalMemory
from mdevemu.units import MIB, Hpa

GRANULE = 2 * MIB
"""Partitions start and end on multiples of this, in bytes."""


@dataclass(eq=False, frozen=True, slots=True)
class Partition:
    """A piece of HBM that one mdev owns.

    Attributes:
        offset, size: bytes, from the start of the HBM.
        base: where it is in the host's physical memory.
        file: its contents, for a VMM to map.
        backing: the same contents, in the host's physical memory.
    """

    offset: int
    size: int
    base: Hpa
    file: Fd
    backing: MappedFile


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
        self._partitions: list[Partition] = []  # lowest offset first

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody owns, adjacent or not."""
        return self.size - sum(partition.size for partition in self._partitions)

    def holes(self) -> list[tuple[int, int]]:
        """Free ranges, as (offset, bytes), lowest first."""
        found, end = [], 0
        for partition in self._partitions:
            if partition.offset > end:
                found.append((end, partition.offset - end))
            end = partition.offset + partition.size
        return [*found, (end, self.size - end)] if end < self.size else found

    def room_for(self, size: int) -> int:
        """How many partitions of ``size`` bytes could be created now."""
        return sum(count // size for _, count in self.holes())

    def create(self, size: int) -> Partition | None:
        """Take ``size`` bytes, a multiple of the granule, of the lowest hole; None if none fits.

        Raises:
            RequestError: the machine has no memory or descriptor for it; nothing was taken.
        """
        assert size > 0
        assert size % GRANULE == 0
        offset = next((at for at, count in self.holes() if count >= size), None)
        if offset is None:
            return None
        base = Hpa(self._base + offset)
        file = _fresh_file(size)
        try:
            backing = MappedFile(file, size, writable=True)
        except RequestError:
            file.close()
            raise
        partition = Partition(offset, size, base, file, backing)
        self._memory.add(base, partition.backing, size)
        self._partitions.append(partition)
        self._partitions.sort(key=lambda each: each.offset)
        return partition

    def remove(self, partition: Partition) -> None:
        """Scrub a partition and give its place back."""
        self._partitions.remove(partition)
        partition.backing.discard()
        self._memory.remove(partition.base)
        partition.backing.close()
        partition.file.close()


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
    return RequestError(error.errno or errno.ENOMEM, f"no file of {size} bytes for HBM")
