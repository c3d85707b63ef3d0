"""Commands of the native device, through descriptors: what they do, and how they are refused."""

import hashlib
import zlib

import crc32c
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.units import HBM_IOVA, MIB, PAGE
from tests.support.bench import ALL, BASE, Bench
from tests.support.native import (
    AES_GCM,
    AUTHENTICATION,
    CAPACITY,
    CODE,
    CORRUPT,
    DATA,
    DESTINATION_HBM,
    HBM_RANGE,
    INVALID_FIELD,
    LENGTH,
    MISMATCH,
    NO_INTERRUPT,
    OPERAND_HBM,
    OPERATIONS,
    READ_FAULT,
    READ_PAGE_FAULT,
    SOURCE_HBM,
    SUCCESS,
    UNKNOWN_OPERATION,
    WRITE_FAULT,
    WRITE_PAGE_FAULT,
    Driver,
    descriptor,
)

SOURCE, SECOND, DESTINATION, BLOCK, AAD = (DATA + n * 0x4_0000 for n in range(5))
END = 0x40_0000
"""Where the guest's memory ends."""
HBM = 4 * MIB
KEY, NONCE, EXTRA = bytes(range(32)), b"twelve bytes", b"additional data"
SIZES = [1, 31, PAGE, 64 * 1024 + 1]


def content(length, seed=1):
    return hashlib.shake_256(bytes([seed])).digest(length)


class Memory:
    """Guest memory and HBM under one way to name a place: (offset, in HBM)."""

    def __init__(self, driver):
        self.driver = driver

    def read(self, at, length, hbm):
        return self.driver.function.read(4, at, length) if hbm else self.driver.ram.read(at, length)

    def write(self, at, data, hbm):
        self.driver.function.write(4, at, data) if hbm else self.driver.ram.write(at, data)


@pytest.fixture(scope="module")
def driver():
    made = Driver()
    yield made
    made.close()


@pytest.fixture(params=range(8), ids=lambda bits: "".join("gh"[bits >> n & 1] for n in range(3)))
def flags(request):
    """Every choice of guest memory and HBM for source, destination and operand."""
    return request.param


def block(driver, hbm=False, **wanted):
    """Parameters of AES-GCM at BLOCK."""
    values = {"key_length": 32, "aad_length": len(EXTRA), "nonce": NONCE, "reserved": 0}
    values |= {"key": KEY, "aad": AAD} | wanted
    driver.ram.write(AAD, EXTRA)
    Memory(driver).write(BLOCK, AES_GCM.pack(*values.values()), hbm)


def do(driver, name, flags, before, length, capacity=0, operand=0):
    """Put ``before`` at the source, run, and give the completion and 128 KiB at the destination."""
    memory = Memory(driver)
    memory.write(SOURCE, before, bool(flags & SOURCE_HBM))
    memory.write(DESTINATION, b"\xee" * 0x2_0000, bool(flags & DESTINATION_HBM))
    done = driver.run(
        name,
        flags,
        source=SOURCE,
        destination=DESTINATION,
        operand=operand,
        length=length,
        capacity=capacity,
    )
    return done, memory.read(DESTINATION, 0x2_0000, bool(flags & DESTINATION_HBM))


def check(found, status, result, written):
    """A completion, and exactly these bytes written."""
    done, after = found
    assert (done.status, done.result, done.address, done.cause) == (status, result, 0, 0)
    assert after[: len(written)] == written
    assert after[len(written) :] == b"\xee" * (len(after) - len(written))


@pytest.fixture(autouse=True)
def hbm_is_large_enough():
    assert AAD + 0x4_0000 <= HBM, "the same offsets serve guest memory and HBM"


@pytest.mark.parametrize("length", SIZES)
def test_copy(driver, flags, length):
    data = content(length)
    check(do(driver, "copy", flags, data, length), SUCCESS, length, data)


@pytest.mark.parametrize("length", SIZES)
def test_fill(driver, flags, length):
    pattern = (b"8 bytes!" * (length // 8 + 1))[:length]
    operand = int.from_bytes(b"8 bytes!", "little")
    check(do(driver, "fill", flags, b"", length, operand=operand), SUCCESS, length, pattern)


@pytest.mark.parametrize("length", SIZES)
def test_compare_of_what_is_equal(driver, flags, length):
    data = content(length)
    Memory(driver).write(SECOND, data, bool(flags & OPERAND_HBM))
    check(do(driver, "compare", flags, data, length, operand=SECOND), SUCCESS, length, b"")


@pytest.mark.parametrize("at", [0, 1, 32767, 32768, 65536])
def test_compare_finds_the_first_difference(driver, flags, at):
    data = content(64 * 1024 + 1)
    other = data[:at] + bytes([data[at] ^ 1]) + bytes(64 * 1024 - at)
    Memory(driver).write(SECOND, other, bool(flags & OPERAND_HBM))
    check(do(driver, "compare", flags, data, len(data), operand=SECOND), MISMATCH, at, b"")


@pytest.mark.parametrize("length", SIZES)
def test_crc32c(driver, flags, length):
    data = content(length)
    crc = crc32c.crc32c(data)
    check(do(driver, "crc32c", flags, data, length), SUCCESS, crc, b"")
    head = crc32c.crc32c(data[: length // 2])
    found = do(driver, "crc32c", flags, data[length // 2 :], length - length // 2, operand=head)
    check(found, SUCCESS, crc, b"")


def test_crc32c_check_value(driver):
    """Spec: RFC 3720 appendix B.4: 32 bytes of zeros."""
    assert do(driver, "crc32c", 0, bytes(32), 32)[0].result == 0x8A91_36AA


@pytest.mark.parametrize("length", SIZES)
def test_sha256(driver, flags, length):
    data = content(length)
    digest = hashlib.sha256(data).digest()
    check(do(driver, "sha256", flags, data, length, capacity=32), SUCCESS, 32, digest)


@pytest.mark.parametrize("length", SIZES)
def test_deflate_and_inflate(driver, flags, length):
    data = (content(61) * (length // 61 + 1))[:length]
    done, after = do(driver, "deflate", flags, data, length, capacity=0x2_0000)
    assert done.status == SUCCESS
    stream = after[: done.result]
    assert zlib.decompress(stream, wbits=-15) == data
    found = do(driver, "inflate", flags, stream, len(stream), capacity=length)
    check(found, SUCCESS, length, data)


@pytest.mark.parametrize("key_length", [16, 24, 32])
def test_aes_gcm(driver, flags, key_length):
    data = content(70_001)
    sealed = AESGCM(KEY[:key_length]).encrypt(NONCE, data, EXTRA)
    block(driver, bool(flags & OPERAND_HBM), key_length=key_length)
    found = do(
        driver, "aes_gcm_encrypt", flags, data, len(data), capacity=len(sealed), operand=BLOCK
    )
    check(found, SUCCESS, len(sealed), sealed)
    found = do(
        driver, "aes_gcm_decrypt", flags, sealed, len(sealed), capacity=len(data), operand=BLOCK
    )
    check(found, SUCCESS, len(data), data)


def test_nop(driver, flags):
    check(do(driver, "nop", flags, b"", 5, capacity=7, operand=9), SUCCESS, 0, b"")


def test_no_interrupt_flag_is_accepted_by_every_operation(driver):
    for name in OPERATIONS:
        assert driver.run(name, NO_INTERRUPT, capacity=64).status not in (
            UNKNOWN_OPERATION,
            INVALID_FIELD,
        ) or name.startswith("aes")


@pytest.mark.parametrize("name", OPERATIONS)
def test_length_of_zero(driver, name):
    block(driver)
    expected = {"compare": (SUCCESS, 0), "sha256": (SUCCESS, 32), "inflate": (CORRUPT, 0)}
    expected |= {"aes_gcm_encrypt": (SUCCESS, 16), "aes_gcm_decrypt": (LENGTH, 0)}
    expected |= {"deflate": (SUCCESS, 2)}
    operand = BLOCK if name.startswith("aes") else 0
    done = driver.run(name, source=SOURCE, destination=DESTINATION, capacity=99, operand=operand)
    assert (done.status, done.result) == expected.get(name, (SUCCESS, 0))


# What is refused.


@pytest.mark.parametrize("code", [11, 128, 255])
def test_unknown_operation(driver, code):
    assert driver.run(code, flags=0xFF, reserved0=1).status == UNKNOWN_OPERATION


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_that_no_engine_does_is_unknown(name):
    spec = BASE | {"engine": [{"name": "rest", "operations": [n for n in ALL if n != name]}]}
    driver = Driver(Bench(spec))
    assert driver.run(name, source=SOURCE, destination=DESTINATION).status == UNKNOWN_OPERATION
    driver.close()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("field", ["reserved0", "reserved2", "reserved3"])
def test_each_bit_of_a_reserved_field_is_refused(driver, name, field):
    width = {"reserved0": 16}.get(field, 64)
    for bit in (0, width // 2, width - 1):
        done = driver.run(name, length=64, destination=DESTINATION, **{field: 1 << bit})
        assert (done.status, done.result) == (INVALID_FIELD, 0)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("bit", [4, 5, 6, 7])
def test_reserved_flag_is_refused(driver, name, bit):
    assert driver.run(name, 1 << bit, destination=DESTINATION).status == INVALID_FIELD


def test_refused_command_touches_nothing(driver):
    driver.ram.write(DESTINATION, b"\xee" * 64)
    driver.run("fill", destination=DESTINATION, length=64, reserved3=1)
    driver.run("fill", destination=DESTINATION, length=(16 << 20) + 1)
    assert driver.ram.read(DESTINATION, 64) == b"\xee" * 64


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("length", [(16 << 20) + 1, 2**32 - 1])
def test_length_beyond_the_largest_transfer_is_refused(driver, name, length):
    assert driver.run(name, 7, length=length).status == LENGTH


@pytest.mark.parametrize(
    ("name", "length", "capacity", "status"),
    [
        ("sha256", 10, 31, CAPACITY),
        ("deflate", 1000, 100, CAPACITY),
        ("aes_gcm_encrypt", 10, 25, CAPACITY),
        ("aes_gcm_decrypt", 26, 9, CAPACITY),
        ("aes_gcm_decrypt", 15, 100, LENGTH),
        ("aes_gcm_decrypt", 26, 10, AUTHENTICATION),
        ("inflate", 1000, 1000, CORRUPT),
    ],
)
def test_operation_that_does_not_fit_its_data(driver, name, length, capacity, status):
    block(driver)
    operand = BLOCK if name.startswith("aes") else 0
    data = b"\xff" + content(length - 1)
    found = do(driver, name, 0, data, length, capacity=capacity, operand=operand)
    check(found, status, 0, b"" if name != "deflate" else found[1][:capacity])


@pytest.mark.parametrize(
    "wrong",
    [
        {"key_length": 0},
        {"key_length": 31},
        {"key_length": 33},
        {"aad_length": 4097},
        {"reserved": 1 << 31},
    ],
)
def test_aes_gcm_block_with_a_wrong_field(driver, wrong):
    block(driver, **wrong)
    for name in ("aes_gcm_encrypt", "aes_gcm_decrypt"):
        assert do(driver, name, 0, b"", 64, 80, BLOCK)[0].status == INVALID_FIELD


def test_inflate_that_gives_more_than_there_is_room_for(driver):
    stream = zlib.compressobj(wbits=-15)
    bomb = stream.compress(bytes(1 << 20)) + stream.flush()
    found = do(driver, "inflate", 0, bomb, len(bomb), capacity=10_000)
    check(found, CAPACITY, 0, bytes(8192))


# HBM operands.


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (HBM, 1),
        (HBM - 1, 2),
        (HBM + 1, 0),
        (HBM + PAGE, PAGE),
        (0, HBM + 1),
        (2**64 - HBM_IOVA, 8),
        (2**64 - 64, 64),
        (2**64 - 1, 1),
        (2**63, 0),
    ],
)
def test_operand_beyond_the_hbm_is_refused_with_its_offset(driver, offset, length):
    for values, flags in (
        ({"name": "copy", "source": offset, "destination": DATA}, SOURCE_HBM),
        ({"name": "copy", "source": DATA, "destination": offset}, DESTINATION_HBM),
        ({"name": "fill", "destination": offset}, DESTINATION_HBM),
        ({"name": "compare", "source": DATA, "operand": offset}, OPERAND_HBM),
    ):
        done = driver.run(flags=flags, length=length, **values)
        assert (done.status, done.address) == (HBM_RANGE, offset)
        assert (done.result, done.cause) == (0, 0)
    assert driver.bench.faults() == [], "the IOMMU has no part in this"


def test_parameter_block_and_room_for_output_must_be_within_the_hbm(driver):
    done = driver.run("aes_gcm_encrypt", OPERAND_HBM, operand=HBM - 63, capacity=16)
    assert (done.status, done.address) == (HBM_RANGE, HBM - 63)
    done = driver.run("sha256", DESTINATION_HBM, destination=HBM - 32, capacity=33, source=DATA)
    assert (done.status, done.address) == (HBM_RANGE, HBM - 32)
    done = driver.run("sha256", DESTINATION_HBM, destination=HBM - 32, capacity=32, source=DATA)
    assert done.status == SUCCESS


@pytest.mark.parametrize("length", [0, 1, PAGE, HBM])
def test_operand_that_ends_with_the_hbm_is_accepted(driver, length):
    done = driver.run("fill", DESTINATION_HBM, destination=HBM - length, length=length)
    assert (done.status, done.result) == (SUCCESS, length)


def test_hbm_flag_of_an_operand_that_is_no_address_means_nothing(driver):
    assert (
        driver.run("fill", OPERAND_HBM, destination=DATA, length=8, operand=2**64 - 1).status == 0
    )
    assert driver.run("crc32c", OPERAND_HBM, source=DATA, length=8, operand=2**32 - 1).status == 0
    assert driver.run("nop", 7, source=HBM, destination=HBM, operand=HBM, length=64).status == 0


# Memory that cannot be reached.

HOLE = 1 << 40


@pytest.mark.parametrize("place", [END - 100, END - 1, END - PAGE, END - 64 * 1024 - 1])
def test_read_fault_has_the_first_byte_that_cannot_be_reached(driver, place):
    length = END - place + 20
    for name, operand in (
        ("copy", 0),
        ("crc32c", 0),
        ("sha256", 0),
        ("deflate", 0),
        ("compare", SOURCE),
        ("aes_gcm_encrypt", BLOCK),
        ("aes_gcm_decrypt", BLOCK),
    ):
        block(driver)
        driver.ram.write(SOURCE, driver.ram.read(place, END - place))
        done = driver.run(
            name, source=place, destination=DATA, length=length, capacity=MIB, operand=operand
        )
        found = (done.status, done.address, done.cause, done.result)
        assert found == (READ_FAULT, END, READ_PAGE_FAULT, 0), name


def test_write_fault_has_the_first_byte_that_cannot_be_reached(driver):
    block(driver)
    for name in ("copy", "fill", "sha256", "deflate", "aes_gcm_encrypt"):
        done = driver.run(
            name, source=SOURCE, destination=END - 1, length=100, capacity=200, operand=BLOCK
        )
        found = (done.status, done.address, done.cause, done.result)
        assert found == (WRITE_FAULT, END, WRITE_PAGE_FAULT, 0), name


def test_second_operand_faults_as_a_read(driver):
    done = driver.run("compare", source=DATA, operand=HOLE, length=8)
    assert (done.status, done.address) == (READ_FAULT, HOLE)
    done = driver.run("aes_gcm_encrypt", source=DATA, operand=END - 63, length=8, capacity=24)
    assert (done.status, done.address) == (READ_FAULT, END)
    block(driver, aad=HOLE)
    done = driver.run("aes_gcm_encrypt", source=DATA, operand=BLOCK, length=8, capacity=24)
    assert (done.status, done.address) == (READ_FAULT, HOLE)


@pytest.mark.parametrize(
    "place",
    [2**64 - 1, 2**64 - 16, 2**64 - PAGE, 2**63, 2**47 - 8, HBM_IOVA - 8, HBM_IOVA + HBM],
)
@pytest.mark.parametrize("name", OPERATIONS[1:])
def test_address_at_an_edge_faults_where_it_is(driver, place, name):
    block(driver)
    operand = {"compare": place}.get(name, BLOCK)
    values = {"source": place, "destination": place, "length": 32, "capacity": 64}
    done = driver.run(name, operand=operand, **values)
    assert done.status in (READ_FAULT, WRITE_FAULT)
    assert done.cause
    assert place <= done.address < place + 64
    assert done.address == place or place in (2**47 - 8, HBM_IOVA - 8)
    assert {fault.pasid for fault in driver.bench.faults()} == {driver.mdev.space.pasid}


@pytest.mark.parametrize("field", ["source", "operand", "destination"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_largest_address_of_each_operand_never_escapes(driver, name, field):
    block(driver)
    values = {"source": DATA, "destination": DATA, "operand": BLOCK} | {field: 2**64 - 1}
    done = driver.run(name, length=64, capacity=2**32 - 1, **values)
    assert done.status <= AUTHENTICATION


def test_aes_block_may_name_any_address(driver):
    for aad in (2**64 - 1, 2**64 - 15, 2**63):
        block(driver, aad=aad)
        done = driver.run("aes_gcm_decrypt", operand=BLOCK, source=DATA, length=16, capacity=0)
        assert (done.status, done.address) == (READ_FAULT, aad)
    driver.bench.faults()


def test_own_hbm_is_at_its_place_in_the_address_space(driver):
    driver.function.write(4, 8192, b"in the HBM")
    done = driver.run("copy", source=HBM_IOVA + 8192, destination=DATA, length=10)
    assert done.status == SUCCESS
    assert driver.ram.read(DATA, 10) == b"in the HBM"


def test_window_without_writing_refuses_writes_only(driver):
    driver.bench.lend(driver.mdev, driver.ram, iova=HOLE, size=MIB, writable=False)
    assert driver.run("copy", source=HOLE, destination=DATA, length=64).status == SUCCESS
    done = driver.run("copy", source=DATA, destination=HOLE + 5, length=64)
    assert (done.status, done.address, done.cause) == (WRITE_FAULT, HOLE + 5, WRITE_PAGE_FAULT)
    driver.mdev.space.unmap(HOLE, MIB)
    driver.bench.faults()


def test_failed_command_does_not_stop_its_queue(driver):
    queue = driver.queue(0)
    queue.submit(
        descriptor("copy", source=HOLE, destination=DATA, length=8, cookie=1),
        descriptor(200, cookie=2),
        descriptor("nop", cookie=3),
    )
    driver.bench.work()
    assert [(done.cookie, done.status) for done in queue.reap()] == [
        (1, READ_FAULT),
        (2, UNKNOWN_OPERATION),
        (3, SUCCESS),
    ]
    assert not driver.fault().valid
    queue.disable()
    driver.bench.faults()


def test_failure_leaves_whole_pieces(driver):
    """Docs: whole pieces of up to 64 KiB are written or not."""
    piece = 64 * 1024
    driver.ram.write(DATA, content(piece))
    driver.ram.write(END - 2 * piece, b"\xee" * 2 * piece)
    done = driver.run("fill", destination=END - piece - 8, length=2 * piece, operand=0)
    assert (done.status, done.address) == (WRITE_FAULT, END)
    assert driver.ram.read(END - piece - 8, piece) == bytes(piece)
    assert driver.ram.read(END - 8, 8) == b"\xee" * 8
    driver.bench.faults()


# Any descriptor at all.

addresses = st.one_of(
    st.integers(0, END + PAGE),
    st.integers(0, 2**64 - 1),
    st.integers(-PAGE, PAGE).map(lambda n: (HBM_IOVA + n) % 2**64),
    st.integers(-PAGE, 0).map(lambda n: n % 2**64),
)
sizes = st.integers(0, 2 * PAGE) | st.integers(0, 2**32 - 1)
descriptors = st.builds(
    descriptor,
    st.sampled_from(sorted(CODE)) | st.integers(0, 255),
    flags=st.integers(0, 255),
    reserved0=st.just(0) | st.integers(0, 2**16 - 1),
    length=sizes,
    source=addresses,
    destination=addresses.map(lambda at: at if at > DATA else at + DATA),
    operand=addresses,
    capacity=sizes,
    cookie=st.integers(0, 2**64 - 1),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(descriptors, min_size=1, max_size=16))
def test_any_descriptors_are_completed_once_each(driver, commands):
    queue = driver.queue(0)
    queue.submit(*commands)
    driver.bench.work()
    done = queue.reap()
    queue.disable()
    assert [each.index for each in done] == list(range(len(commands)))
    assert [each.cookie.to_bytes(8, "little") for each in done] == [raw[40:48] for raw in commands]
    assert all(each.status <= AUTHENTICATION for each in done)
    assert {fault.pasid for fault in driver.bench.faults()} <= {driver.mdev.space.pasid}
