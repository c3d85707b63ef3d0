"""What engines can do, one file per kind of work; ``OPERATIONS`` is the table of all."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from mdevemu.accel.operations import cipher, compress, digest, move
from mdevemu.accel.operations.command import Command, Memory, Operation, Pieces, Status
from mdevemu.layout import sizeof

__all__ = [
    "BY_CODE",
    "OPERATIONS",
    "Command",
    "Entry",
    "Extent",
    "Memory",
    "Operation",
    "Pieces",
    "Status",
    "extent",
]


class Extent(enum.Enum):
    """What an address of a command stands for, in bytes."""

    NONE = "no address"
    LENGTH = "the command's length"
    CAPACITY = "the command's capacity"
    BLOCK = "a parameter block"


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation.

    Attributes:
        code: its number in a descriptor.
        run: the generator that does it.
        source, destination, operand: how many bytes of memory it may reach there.
        repeatable: done in part and then from its beginning, it is as if done once, unless
            its destination overlaps what it reads; False for one that reads more than
            its source and operand.
    """

    code: Operation
    run: Callable[[Memory, Command], Pieces]
    source: Extent = Extent.LENGTH
    destination: Extent = Extent.CAPACITY
    operand: Extent = Extent.NONE
    repeatable: bool = True


OPERATIONS: dict[str, Entry] = {
    entry.code.name.lower(): entry
    for entry in (
        Entry(Operation.NOP, move.nop, source=Extent.NONE, destination=Extent.NONE),
        Entry(Operation.COPY, move.copy, destination=Extent.LENGTH),
        Entry(Operation.FILL, move.fill, source=Extent.NONE, destination=Extent.LENGTH),
        Entry(Operation.COMPARE, move.compare, destination=Extent.NONE, operand=Extent.LENGTH),
        Entry(Operation.CRC32C, digest.crc32c, destination=Extent.NONE),
        Entry(Operation.SHA256, digest.sha256),
        Entry(Operation.DEFLATE, compress.deflate),
        Entry(Operation.INFLATE, compress.inflate),
        Entry(Operation.AES_GCM_ENCRYPT, cipher.encrypt, operand=Extent.BLOCK, repeatable=False),
        Entry(Operation.AES_GCM_DECRYPT, cipher.decrypt, operand=Extent.BLOCK, repeatable=False),
    )
}

BY_CODE: dict[int, Entry] = {int(entry.code): entry for entry in OPERATIONS.values()}


def extent(kind: Extent, length: int, capacity: int) -> int:
    """How many bytes an address of this kind stands for, given a command's two sizes in bytes."""
    match kind:
        case Extent.NONE:
            return 0
        case Extent.LENGTH:
            return length
        case Extent.CAPACITY:
            return capacity
        case Extent.BLOCK:
            return sizeof(cipher.AesGcm)
