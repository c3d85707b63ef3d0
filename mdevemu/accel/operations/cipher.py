"""AES-GCM, with its parameters in a block in memory.  Spec: NIST SP 800-38D."""

from collections.abc import Generator
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mdevemu.accel.operations.command import Command, Memory, Pieces, Status, chunks
from mdevemu.accel.scheduler import PIECE
from mdevemu.errors import CommandFault
from mdevemu.layout import Scalar, Struct, sizeof, u32, u64, unpack
from mdevemu.units import Iova

TAG_BYTES = 16
MAX_AAD = 4096
COST = 4
"""Copy-bytes that one byte costs."""


class AesGcm(Struct):
    """Parameters of one AES-GCM command, at the Iova in its ``operand``.

    ``key_length`` is 16, 24 or 32 bytes, ``aad`` the Iova of ``aad_length`` bytes (at most 4096).
    """

    key_length: u32
    aad_length: u32
    nonce: Annotated[bytes, Scalar("12s")]
    reserved: u32
    key: Annotated[bytes, Scalar("32s")]
    aad: u64


def encrypt(memory: Memory, command: Command) -> Pieces:
    """Ciphertext and 16 bytes of tag to ``destination``; returns the bytes written.

    Raises:
        CommandFault: INVALID_FIELD, CAPACITY.
    """
    if command.capacity < command.length + TAG_BYTES:
        raise CommandFault(Status.CAPACITY, f"{command.capacity} bytes of room with a tag of 16")
    cipher, nonce, aad = yield from _parameters(memory, command)
    stream = Cipher(cipher, modes.GCM(nonce)).encryptor()
    stream.authenticate_additional_data(aad)
    for at, count in chunks(command.source, command.length, PIECE // COST):
        sealed = stream.update((yield from memory.read(at, count)))
        yield from memory.write(Iova(command.destination + at - command.source), sealed)
        yield COST * count
    stream.finalize()
    yield from memory.write(Iova(command.destination + command.length), stream.tag)
    return command.length + TAG_BYTES


def decrypt(memory: Memory, command: Command) -> Pieces:
    """Plaintext of a source that ends in its tag; nothing is written unless the tag fits.

    Raises:
        CommandFault: LENGTH, INVALID_FIELD, CAPACITY, AUTHENTICATION.
    """
    length = command.length - TAG_BYTES
    if length < 0:
        raise CommandFault(Status.LENGTH, f"{command.length} bytes hold no tag of 16")
    if command.capacity < length:
        raise CommandFault(Status.CAPACITY, f"{command.capacity} bytes of room for {length}")
    cipher, nonce, aad = yield from _parameters(memory, command)
    stream = Cipher(cipher, modes.GCM(nonce)).decryptor()
    stream.authenticate_additional_data(aad)
    plain = bytearray()
    for at, count in chunks(command.source, length, PIECE // COST):
        plain += stream.update((yield from memory.read(at, count)))
        yield COST * count
    # Last, so that a source that leaves memory faults where it does.
    tag = yield from memory.read(Iova(command.source + length), TAG_BYTES)
    try:
        stream.finalize_with_tag(tag)
    except InvalidTag:
        raise CommandFault(Status.AUTHENTICATION, "the tag does not fit") from None
    for at, count in chunks(command.destination, length, PIECE):
        done = at - command.destination
        yield from memory.write(at, bytes(plain[done : done + count]))
        yield count
    return length


def _parameters(
    memory: Memory, command: Command
) -> Generator[int, None, tuple[algorithms.AES, bytes, bytes]]:
    """Key, nonce and additional data, from memory."""
    block = unpack(AesGcm, (yield from memory.read(Iova(command.operand), sizeof(AesGcm))))
    if block.key_length not in (16, 24, 32):
        raise CommandFault(Status.INVALID_FIELD, f"a key of {block.key_length} bytes")
    if block.aad_length > MAX_AAD or block.reserved:
        raise CommandFault(Status.INVALID_FIELD, f"{block.aad_length} bytes of additional data")
    aad = b""
    if block.aad_length:
        aad = yield from memory.read(Iova(block.aad), block.aad_length)
    return algorithms.AES(block.key[: block.key_length]), block.nonce, aad
