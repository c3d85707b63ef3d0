"""What each operation must give, computed by the processor: one function per operation.

A case runs its operation once and says in a sentence what is wrong, or None.
"""

import hashlib
import random
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from guest import native
from guest.access import PAGE
from guest.bench import status_name
from guest.checks import aes_gcm
from guest.checks.crc32c import crc32c
from guest.checks.places import Output, Place, offset_for
from guest.native import Operation, Status
from guest.queue import Command, Completion, Queue

_KEYS = (16, 24, 32)  # bytes
_AAD_AT = 0x100  # offset of the associated data in the parameters' place
_BLOCK_AT = PAGE - 24  # offset of the AesGcm block: across a page


class Trial(NamedTuple):
    """One run of an operation: what it works on.

    Attributes:
        source: where the input lies; the operand lies somewhere in it.
        destination: where the output goes, likewise.
        parameters: memory for what an operand points to.
        length: bytes of input (of output, for fill).
        number: of the run; chooses the alignment.
    """

    chance: random.Random
    source: Place
    destination: Place
    parameters: Place
    length: int
    number: int

    def give(self, data: bytes) -> Place:
        """Put ``data`` where the operation reads."""
        part = self.source.part(offset_for(len(data), self.number), len(data))
        part.view[:] = data
        return part

    def take(self, length: int) -> Output:
        """A place for ``length`` bytes of output."""
        return Output(self.destination, offset_for(length, self.number + 1), length)

    def random(self) -> bytes:
        """``length`` bytes without pattern."""
        return self.chance.randbytes(self.length)

    def text(self) -> bytes:
        """``length`` bytes that can be compressed, with stretches that cannot."""
        words = [self.chance.randbytes(self.chance.randrange(1, 12)) for _ in range(40)]
        parts: list[bytes] = []
        left = self.length
        while left > 0:
            part = (
                self.chance.choice(words)
                if self.chance.random() < 0.98
                else self.chance.randbytes(64)
            )
            parts.append(part)
            left -= len(part)
        return b"".join(parts)[: self.length]


def _run(queue: Queue, trial: Trial, command: Command) -> Completion:
    cookie = trial.chance.getrandbits(64)
    completion = queue.run(command._replace(cookie=cookie))
    return completion if completion.cookie == cookie else completion._replace(status=0xFFFF)


def _ended(completion: Completion, expected: Status = Status.SUCCESS) -> str | None:
    if completion.status == 0xFFFF:
        return f"completion has the cookie {completion.cookie:#x} of another command"
    if completion.status != expected:
        return (
            f"status {status_name(completion.status)}, not {status_name(expected)} "
            f"(address {completion.address:#x}, cause {completion.cause})"
        )
    return None


def nop(trial: Trial, queue: Queue) -> str | None:
    """Completes."""
    return _ended(_run(queue, trial, Command(Operation.NOP)))


def copy(trial: Trial, queue: Queue) -> str | None:
    """Destination equals source, nothing around it changes."""
    data = trial.random()
    source, output = trial.give(data), trial.take(len(data))
    command = Command(
        Operation.COPY,
        length=len(data),
        source=source.address,
        destination=output.place.address,
        flags=source.source | output.place.destination,
    )
    return _ended(_run(queue, trial, command)) or output.differs(data)


def fill(trial: Trial, queue: Queue) -> str | None:
    """Destination repeats the 8-byte pattern from its first byte on."""
    pattern = trial.chance.randbytes(8)
    expected = (pattern * (trial.length // 8 + 1))[: trial.length]
    output = trial.take(trial.length)
    command = Command(
        Operation.FILL,
        length=trial.length,
        destination=output.place.address,
        operand=int.from_bytes(pattern, "little"),
        flags=output.place.destination,
    )
    return _ended(_run(queue, trial, command)) or output.differs(expected)


def compare(trial: Trial, queue: Queue) -> str | None:
    """Equal sources compare equal; after one byte changed, its offset is found."""
    data = trial.random()
    source, second = trial.give(data), trial.take(len(data)).place
    second.view[:] = data
    command = Command(
        Operation.COMPARE,
        length=len(data),
        source=source.address,
        operand=second.address,
        flags=source.source | second.operand,
    )
    wrong = _ended(_run(queue, trial, command))
    if wrong or not data:
        return wrong
    at = trial.chance.randrange(len(data))
    second.view[at] ^= 1 << trial.chance.randrange(8)
    completion = _run(queue, trial, command)
    wrong = _ended(completion, Status.MISMATCH)
    if wrong is None and completion.result != at:
        return f"first difference at {completion.result}, not {at}"
    return wrong


def checksum(trial: Trial, queue: Queue) -> str | None:
    """CRC-32C, going on from a seed."""
    data, seed = trial.random(), trial.chance.getrandbits(32)
    source = trial.give(data)
    command = Command(
        Operation.CRC32C,
        length=len(data),
        source=source.address,
        operand=seed,
        flags=source.source,
    )
    completion, expected = _run(queue, trial, command), crc32c(data, seed)
    wrong = _ended(completion)
    if wrong is None and completion.result != expected:
        return f"result {completion.result:#x}, not {expected:#x}"
    return wrong


def sha256(trial: Trial, queue: Queue) -> str | None:
    """The digest lies at the destination."""
    data = trial.random()
    source, output = trial.give(data), trial.take(native.DIGEST_BYTES)
    command = Command(
        Operation.SHA256,
        length=len(data),
        source=source.address,
        destination=output.place.address,
        capacity=native.DIGEST_BYTES,
        flags=source.source | output.place.destination,
    )
    wrong = _ended(_run(queue, trial, command))
    return wrong or output.differs(hashlib.sha256(data).digest())


def deflate(trial: Trial, queue: Queue) -> str | None:
    """The output inflates back to the source; other encoders may choose other bytes."""
    data = trial.text()
    capacity = len(data) + len(data) // 1000 + 64
    source, output = trial.give(data), trial.take(capacity)
    command = Command(
        Operation.DEFLATE,
        length=len(data),
        source=source.address,
        destination=output.place.address,
        capacity=capacity,
        flags=source.source | output.place.destination,
    )
    completion = _run(queue, trial, command)
    if wrong := _ended(completion):
        return wrong
    if completion.result > capacity:
        return f"result {completion.result} is more than the capacity {capacity}"
    made = bytes(output.place.view[: completion.result])
    back = zlib.decompressobj(-15)
    try:
        inflated = back.decompress(made)
    except zlib.error as error:
        return f"the output is no deflate stream: {error}"
    if inflated != data or not back.eof or back.unused_data:
        return f"the output inflates to {len(inflated)} bytes that are not the source's"
    return output.differs(made, completion.result)


def inflate(trial: Trial, queue: Queue) -> str | None:
    """What zlib deflated comes back."""
    data = trial.text()
    packer = zlib.compressobj(level=trial.number % 10, wbits=-15)
    source = trial.give(packer.compress(data) + packer.flush())
    output = trial.take(len(data))
    command = Command(
        Operation.INFLATE,
        length=len(source.view),
        source=source.address,
        destination=output.place.address,
        capacity=len(data),
        flags=source.source | output.place.destination,
    )
    completion = _run(queue, trial, command)
    wrong = _ended(completion)
    if wrong is None and completion.result != len(data):
        return f"result {completion.result}, not {len(data)}"
    return wrong or output.differs(data)


class Sealing(NamedTuple):
    """A key, a nonce and associated data, as the parameters' place holds them."""

    key: bytes
    nonce: bytes
    aad: bytes
    address: int


def sealing(trial: Trial) -> Sealing:
    """Random parameters of AES-GCM, written where the device finds them."""
    key = trial.chance.randbytes(_KEYS[trial.number % len(_KEYS)])
    nonce = trial.chance.randbytes(12)
    aad = trial.chance.randbytes(trial.chance.choice((0, 1, 16, 45)))
    place = trial.parameters
    place.view[_AAD_AT : _AAD_AT + len(aad)] = aad
    native.AES_GCM.pack_into(
        place.view, _BLOCK_AT, len(key), len(aad), nonce, 0, key, place.address + _AAD_AT
    )
    return Sealing(key, nonce, aad, place.address + _BLOCK_AT)


def _gcm(trial: Trial, queue: Queue, operation: Operation, data: bytes, expected: bytes,
         address: int) -> str | None:  # fmt: skip
    source, output = trial.give(data), trial.take(len(expected))
    command = Command(
        operation,
        length=len(data),
        source=source.address,
        destination=output.place.address,
        operand=address,
        capacity=len(expected),
        flags=source.source | output.place.destination,
    )
    completion = _run(queue, trial, command)
    wrong = _ended(completion)
    if wrong is None and completion.result != len(expected):
        return f"result {completion.result}, not {len(expected)}"
    return wrong or output.differs(expected)


def aes_gcm_encrypt(trial: Trial, queue: Queue) -> str | None:
    """Ciphertext and tag, byte for byte."""
    data, by = trial.random(), sealing(trial)
    expected = aes_gcm.encrypt(by.key, by.nonce, by.aad, data)
    return _gcm(trial, queue, Operation.AES_GCM_ENCRYPT, data, expected, by.address)


def aes_gcm_decrypt(trial: Trial, queue: Queue) -> str | None:
    """What the processor encrypted comes back."""
    data, by = trial.random(), sealing(trial)
    message = aes_gcm.encrypt(by.key, by.nonce, by.aad, data)
    return _gcm(trial, queue, Operation.AES_GCM_DECRYPT, message, data, by.address)


CASES: Mapping[str, Callable[[Trial, Queue], str | None]] = {
    "nop": nop,
    "copy": copy,
    "fill": fill,
    "compare": compare,
    "crc32c": checksum,
    "sha256": sha256,
    "deflate": deflate,
    "inflate": inflate,
    "aes-gcm-encrypt": aes_gcm_encrypt,
    "aes-gcm-decrypt": aes_gcm_decrypt,
}
