"""What is in an mdev's HBM, told in passes: all of it first, then what is different since.

A VMM may have mapped the HBM, and then nobody sees its writes.  So what counts is
not who wrote where, but whether a block still is what it was when it was told.
"""

import os
from collections.abc import Iterator
from hashlib import blake2b

from mdevemu.accel.hbm import Partition
from mdevemu.mdev.stream import BLOCK, block

LOOKED_AT_ONCE = 32
"""Blocks that are looked at in one step: 2 MiB, about two milliseconds."""


def _digest(contents: bytes) -> bytes:
    return blake2b(contents, digest_size=16).digest()


_EMPTY = _digest(bytes(BLOCK))


class Contents:
    """The HBM of one mdev, and what was told of it."""

    def __init__(self, partition: Partition, at_once: int = LOOKED_AT_ONCE) -> None:
        """``at_once``: blocks that one step looks at, at most."""
        self._partition = partition
        self._at_once = at_once
        self._told: dict[int, bytes] = {}

    def tell(self) -> Iterator[bytes]:
        """Records of each block that is not as it was told, or not empty if it never was.

        Each step is short: one that found nothing gives nothing.
        """
        looked = 0
        for offset in self._candidates():
            contents = self._partition.backing.read(offset, BLOCK)
            digest, looked = _digest(contents), looked + 1
            if digest != self._told.get(offset, _EMPTY):
                self._told[offset] = digest
                looked = 0
                yield block(offset, contents)
            elif looked == self._at_once:
                looked = 0
                yield b""

    def digest(self) -> bytes:
        """Tells all that was told from anything else."""
        found = blake2b(digest_size=16)
        for offset, digest in sorted(self._told.items()):
            if digest != _EMPTY:
                found.update(offset.to_bytes(8, "little") + digest)
        return found.digest()

    def _candidates(self) -> list[int]:
        """Offsets of all blocks that have something in them, or had."""
        found = set(self._told)
        number, at = self._partition.file.fileno(), 0
        while at < self._partition.size:
            try:
                start = os.lseek(number, at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole
                break
            at = os.lseek(number, start, os.SEEK_HOLE)
            found.update(range(start - start % BLOCK, at, BLOCK))
        return sorted(found)
