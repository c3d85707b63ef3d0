"""Operations, against other implementations of the same arithmetic."""

import hashlib
import zlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.accel.operations import BY_CODE, OPERATIONS, Command, Operation, Status
from mdevemu.accel.operations.cipher import AesGcm
from mdevemu.accel.scheduler import PIECE
from mdevemu.errors import CommandFault, DmaFault
from mdevemu.layout import pack
from mdevemu.units import Iova
from tests.support.plain import PlainMemory, Waiting

SIZE = 1 << 20
SOURCE, SECOND, DESTINATION = 0x1000, 0x50000, 0xA0000
LENGTHS = [0, 1, 7, 8, 4095, 4096, 4097, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]


def content(length, seed=1):
    return hashlib.shake_256(bytes([seed])).digest(length)


def run(
    name, memory, length, *, operand=0, capacity=0x60000, source=SOURCE, destination=DESTINATION
):
    """Result of an operation, and the cost of each of its pieces."""
    command = Command(Iova(source), Iova(destination), length, operand, capacity)
    costs, work = [], OPERATIONS[name].run(Waiting(memory), command)
    while True:
        try:
            costs.append(next(work))
        except StopIteration as end:
            return end.value, costs


@pytest.fixture
def memory():
    return PlainMemory(SIZE)


def test_table_holds_every_operation_once():
    assert set(BY_CODE) == {*Operation} - {Operation.CHAIN}
    assert all(OPERATIONS[entry.code.name.lower()] is entry for entry in BY_CODE.values())


def test_nop_does_nothing(memory):
    before = bytes(memory.bytes)
    assert run("nop", memory, 100) == (0, [])
    assert memory.bytes == before


@pytest.mark.parametrize("length", LENGTHS)
def test_copy(memory, length):
    memory.write(SOURCE, content(length))
    before = bytes(memory.bytes)
    result, costs = run("copy", memory, length)
    assert result == length == sum(costs)
    assert memory.bytes[DESTINATION : DESTINATION + length] == content(length)
    assert memory.bytes[:DESTINATION] == before[:DESTINATION]
    assert memory.bytes[DESTINATION + length :] == before[DESTINATION + length :]


@pytest.mark.parametrize("length", LENGTHS)
def test_fill(memory, length):
    pattern = 0x1122334455667788
    assert run("fill", memory, length, operand=pattern)[0] == length
    want = (pattern.to_bytes(8, "little") * (length // 8 + 1))[:length]
    assert memory.bytes[DESTINATION : DESTINATION + length] == want
    assert memory.bytes[DESTINATION + length] == 0


@pytest.mark.parametrize("length", LENGTHS)
def test_compare_of_equal_contents(memory, length):
    memory.write(SOURCE, content(length))
    memory.write(SECOND, content(length))
    assert run("compare", memory, length, operand=SECOND)[0] == length


@pytest.mark.parametrize("at", [0, 1, PIECE // 2 - 1, PIECE // 2, PIECE, 2 * PIECE + 4])
def test_compare_tells_where_the_first_difference_is(memory, at):
    memory.write(SOURCE, content(3 * PIECE))
    memory.write(SECOND, content(3 * PIECE))
    memory.bytes[SECOND + at] ^= 1
    memory.bytes[SECOND + 3 * PIECE - 1] ^= 1
    with pytest.raises(CommandFault) as found:
        run("compare", memory, 3 * PIECE, operand=SECOND)
    assert (found.value.code, found.value.result) == (Status.MISMATCH, at)


def bitwise_crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("length", [0, 1, 9, 4097, PIECE // 2 + 1])
def test_crc32c(memory, length):
    memory.write(SOURCE, content(length))
    assert run("crc32c", memory, length)[0] == bitwise_crc32c(content(length))


def test_crc32c_of_the_check_string(memory):
    memory.write(SOURCE, b"123456789")
    assert run("crc32c", memory, 9)[0] == 0xE3069283


def test_crc32c_goes_on_from_a_seed(memory):
    memory.write(SOURCE, content(100))
    first = run("crc32c", memory, 40)[0]
    assert run("crc32c", memory, 60, source=SOURCE + 40, operand=first)[0] == bitwise_crc32c(
        content(100)
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_sha256(memory, length):
    memory.write(SOURCE, content(length))
    assert run("sha256", memory, length)[0] == 32
    assert memory.bytes[DESTINATION : DESTINATION + 32] == hashlib.sha256(content(length)).digest()


def test_sha256_without_room(memory):
    with pytest.raises(CommandFault) as found:
        run("sha256", memory, 1, capacity=31)
    assert found.value.code == Status.CAPACITY


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=20000) | st.integers(0, 200000).map(bytes))
def test_deflate_can_be_inflated(data):
    memory = PlainMemory(SIZE)
    memory.write(SOURCE, data)
    packed, costs = run("deflate", memory, len(data))
    stream = bytes(memory.bytes[DESTINATION : DESTINATION + packed])
    assert zlib.decompress(stream, wbits=-15) == data
    assert all(cost <= PIECE for cost in costs)
    memory.write(SECOND, stream)
    length, costs = run("inflate", memory, packed, source=SECOND)
    assert memory.bytes[DESTINATION : DESTINATION + length] == data
    assert all(cost <= PIECE for cost in costs)


def deflated(data):
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("stream", "capacity", "status"),
    [
        (b"\xff" * 20, 1000, Status.CORRUPT),
        (b"", 1000, Status.CORRUPT),
        (deflated(b"x" * 100)[:-1], 1000, Status.CORRUPT),
        (deflated(b"x" * 100) + b"more", 1000, Status.CORRUPT),
        (deflated(b"x" * 100) + bytes(5000), 1000, Status.CORRUPT),
        (deflated(bytes(100000)), 99999, Status.CAPACITY),
    ],
)
def test_inflate_of_what_is_no_stream_or_too_large(memory, stream, capacity, status):
    memory.write(SOURCE, stream)
    with pytest.raises(CommandFault) as found:
        run("inflate", memory, len(stream), capacity=capacity)
    assert found.value.code == status


def test_deflate_without_room_writes_nothing_beyond_its_capacity(memory):
    memory.write(SOURCE, content(50000))
    with pytest.raises(CommandFault) as found:
        run("deflate", memory, 50000, capacity=100)
    assert found.value.code == Status.CAPACITY
    assert not any(memory.bytes[DESTINATION + 100 : DESTINATION + 60000])


NONCE, KEY, AAD = content(12, 2), content(32, 3), content(33, 4)
BLOCK = 0x100


def block(memory, key_length=32, aad=AAD, **changes):
    memory.write(0x400, aad)
    values = {"key_length": key_length, "aad_length": len(aad), "nonce": NONCE, "reserved": 0}
    values |= {"key": KEY[:key_length].ljust(32, b"\0"), "aad": 0x400} | changes
    memory.write(BLOCK, pack(AesGcm(**values)))


@pytest.mark.parametrize("key_length", [16, 24, 32])
@pytest.mark.parametrize("length", [0, 1, 16, 4097, PIECE + 3])
def test_aes_gcm_seals_and_opens(memory, key_length, length):
    block(memory, key_length)
    memory.write(SOURCE, content(length))
    sealed = AESGCM(KEY[:key_length]).encrypt(NONCE, content(length), AAD)
    assert run("aes_gcm_encrypt", memory, length, operand=BLOCK)[0] == length + 16
    assert memory.bytes[DESTINATION : DESTINATION + length + 16] == sealed
    memory.write(SECOND, sealed)
    assert run("aes_gcm_decrypt", memory, length + 16, operand=BLOCK, source=SECOND)[0] == length
    assert memory.bytes[DESTINATION : DESTINATION + length] == content(length)


@pytest.mark.parametrize("at", [0, 99, 100, 115])
def test_aes_gcm_with_one_bit_wrong_writes_nothing(memory, at):
    block(memory)
    sealed = bytearray(AESGCM(KEY).encrypt(NONCE, content(100), AAD))
    sealed[at] ^= 1
    memory.write(SOURCE, sealed)
    with pytest.raises(CommandFault) as found:
        run("aes_gcm_decrypt", memory, 116, operand=BLOCK)
    assert found.value.code == Status.AUTHENTICATION
    assert not any(memory.bytes[DESTINATION:])


@pytest.mark.parametrize(
    ("name", "length", "changes", "capacity", "status"),
    [
        ("aes_gcm_encrypt", 10, {"key_length": 17}, 100, Status.INVALID_FIELD),
        ("aes_gcm_encrypt", 10, {"aad_length": 4097}, 100, Status.INVALID_FIELD),
        ("aes_gcm_encrypt", 10, {"reserved": 1}, 100, Status.INVALID_FIELD),
        ("aes_gcm_encrypt", 10, {}, 25, Status.CAPACITY),
        ("aes_gcm_decrypt", 15, {}, 100, Status.LENGTH),
        ("aes_gcm_decrypt", 26, {}, 9, Status.CAPACITY),
    ],
)
def test_aes_gcm_with_wrong_parameters(memory, name, length, changes, capacity, status):
    block(memory)
    values = {"key_length": 32, "aad_length": 0, "nonce": NONCE, "reserved": 0}
    memory.write(BLOCK, pack(AesGcm(**(values | {"key": KEY, "aad": 0x400} | changes))))
    with pytest.raises(CommandFault) as found:
        run(name, memory, length, operand=BLOCK, capacity=capacity)
    assert found.value.code == status
    assert not any(memory.bytes[DESTINATION:])


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_source_beyond_memory_faults_with_its_address(memory, name):
    if name in ("nop", "fill"):
        pytest.skip("has no source")
    block(memory)
    with pytest.raises(DmaFault) as found:
        run(name, memory, 64, source=SIZE - 10, operand=BLOCK)
    assert found.value.address in range(SIZE - 10, SIZE + 64)
    assert not found.value.write
