"""A command in the engine's words, and what an operation is made of."""

import enum
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from mdevemu.accel.reach import Reading, Writing
from mdevemu.units import Iova


class Operation(enum.IntEnum):
    """Codes of operations, as descriptors and the capability bits have them.

    CHAIN is no work of an engine, but of several, one after the other.
    """

    NOP = 0
    COPY = 1
    FILL = 2
    COMPARE = 3
    CRC32C = 4
    SHA256 = 5
    DEFLATE = 6
    INFLATE = 7
    AES_GCM_ENCRYPT = 8
    AES_GCM_DECRYPT = 9
    CHAIN = 10


class Status(enum.IntEnum):
    """How a command ended."""

    SUCCESS = 0
    UNKNOWN_OPERATION = 1
    INVALID_FIELD = 2
    LENGTH = 3
    READ_FAULT = 4
    WRITE_FAULT = 5
    HBM_RANGE = 6
    MISMATCH = 7
    CAPACITY = 8
    CORRUPT = 9
    AUTHENTICATION = 10
    REJECTED = 11
    ABORTED = 12
    UNLINKED = 13
    HBM_UNMAPPED = 14


@dataclass(frozen=True, slots=True)
class Command:
    """What to do; all addresses are Iovas of the mdev that asks.

    Attributes:
        length: bytes at ``source`` (``fill``: at ``destination``).
        operand: the operation's third value: an Iova, a pattern or a seed.
        capacity: bytes of room at ``destination``.
    """

    source: Iova
    destination: Iova
    length: int
    operand: int
    capacity: int


class Memory(Protocol):
    """What an operation works on: each access may have to wait, which is part of the work."""

    def read(self, iova: Iova, length: int) -> Reading:
        """Bytes at an address."""

    def write(self, iova: Iova, data: bytes) -> Writing:
        """Put bytes at an address."""

    def copy(self, source: Iova, destination: Iova, length: int) -> Writing:
        """Move bytes from one address to another."""


Pieces = Generator[int, None, int]
"""Yields the cost of each piece in copy-bytes; returns the command's result.

An operation raises CommandFault with a ``Status``, and lets DmaFault through.
"""


def chunks(start: Iova, length: int, step: int) -> Iterator[tuple[Iova, int]]:
    """Cut a range into (address, bytes) of at most ``step`` bytes each."""
    for done in range(0, length, step):
        yield Iova(start + done), min(step, length - done)
