"""Operations that reduce bytes to a number: crc32c, sha256."""

import hashlib

import crc32c as library

from mdevemu.accel.operations.command import Command, Memory, Pieces, Status, chunks
from mdevemu.accel.scheduler import PIECE
from mdevemu.errors import CommandFault

SHA256_BYTES = 32
SHA256_COST = 4
"""Copy-bytes that hashing one byte costs."""


def crc32c(memory: Memory, command: Command) -> Pieces:
    """CRC-32C of ``source``, continued from the one in ``operand``; returns it.

    Spec: RFC 3720 §12.1 (polynomial 0x1edc6f41).
    """
    crc = command.operand & 0xFFFF_FFFF
    for at, count in chunks(command.source, command.length, PIECE // 2):
        crc = library.crc32c((yield from memory.read(at, count)), crc)
        yield 2 * count
    return crc


def sha256(memory: Memory, command: Command) -> Pieces:
    """SHA-256 of ``source``, its 32 bytes to ``destination``; returns 32.

    Raises:
        CommandFault: CAPACITY.

    Spec: FIPS 180-4.
    """
    if command.capacity < SHA256_BYTES:
        raise CommandFault(Status.CAPACITY, f"{command.capacity} bytes of room for a digest of 32")
    digest = hashlib.sha256()
    for at, count in chunks(command.source, command.length, PIECE // SHA256_COST):
        digest.update((yield from memory.read(at, count)))
        yield SHA256_COST * count
    yield from memory.write(command.destination, digest.digest())
    return SHA256_BYTES
