"""What is in an mdev's HBM, told in passes: all of it first, then what is different since.

A VMM may have mapped the HBM, and then nobody sees its writes.  So what counts is
not who wrote where, but whether a block still is what it was when it was told.
"""

import heapq
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


def _part(offset: int, digest: bytes) -> int:
    """What a block adds to the digest of all, 0 if it is empty: each can change by itself."""
    if digest == _EMPTY:
        return 0
    return int.from_bytes(_digest(offset.to_bytes(8, "little") + digest), "little")


class Contents:
    """The HBM of one mdev, and what was told of it."""

    def __init__(self, partition: Partition, at_once: int = LOOKED_AT_ONCE) -> None:
        """``at_once``: blocks that one step looks at, at most."""
        self._partition = partition
        self._at_once = at_once
        self._told: dict[int, bytes] = {}
        self._all = 0

    def tell(self) -> Iterator[bytes]:
        """Records of each block that is not as it was told, or not empty if it never was.

        Each step is short: one that found nothing gives nothing.
        """
        looked = 0
        for offset in self._candidates():
            contents = self._partition.backing.read(offset, BLOCK)
            digest, looked = _digest(contents), looked + 1
            before = self._told.get(offset, _EMPTY)
            if digest != before:
                self._told[offset] = digest
                self._all ^= _part(offset, before) ^ _part(offset, digest)
                looked = 0
                yield block(offset, contents)
            elif looked == self._at_once:
                looked = 0
                yield b""

    def digest(self) -> bytes:
        """Tells all that was told from anything else."""
        return self._all.to_bytes(16, "little")

    def _candidates(self) -> Iterator[int]:
        """Offsets of all blocks that have something in them, or had; the next as it is wanted."""
        last = None
        for offset in heapq.merge(sorted(self._told), self._written()):
            if offset != last:
                yield offset
            last = offset

    def _written(self) -> Iterator[int]:
        """Offsets of blocks that have something in them: of scattered pages there are many."""
        number, at = self._partition.file.fileno(), 0
        while at < self._partition.size:
            try:
                at = os.lseek(number, at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # ENXIO: nothing but a hole
                return
            yield at
            at += BLOCK
