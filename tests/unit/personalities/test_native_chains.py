"""Chains: stages that leave their data in HBM, and complete once."""

import random
import zlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.accel.engine import Policy, Program, coded
from tests.support.bench import BASE, Bench
from tests.support.native import (
    ABORTED,
    AES_GCM,
    CAPACITY,
    CORRUPT,
    DATA,
    DESTINATION_HBM,
    HBM_RANGE,
    HBM_UNMAPPED,
    INVALID_FIELD,
    LENGTH,
    NO_INTERRUPT,
    NO_STAGE,
    OPERAND_HBM,
    READ_FAULT,
    SOURCE_HBM,
    SUCCESS,
    UNKNOWN_OPERATION,
    UNLINKED,
    WRITE_FAULT,
    Driver,
    descriptor,
)

LIST, PARAMETERS, SOURCE, TARGET = (DATA + 0x1_0000 * n for n in range(1, 5))
HBM_SIZE = 4 << 20
OUTSIDE = 1 << 40
KEY, NONCE = bytes(range(32)), b"twelve bytes"
TEXT = b"a chain is as long as its links are many; " * 200

APART = {
    **BASE,
    "engine": [
        {"name": "dma0", "operations": ["copy", "fill"]},
        {"name": "press0", "operations": ["deflate", "inflate"]},
        {"name": "press1", "operations": ["deflate"]},
        {"name": "seal0", "operations": ["aes_gcm_encrypt", "crc32c"]},
    ],
    "link": [{"from": "press0", "to": "seal0"}, {"from": "dma0", "to": "press1"}],
}


@pytest.fixture
def driver():
    made = Driver()
    yield made
    made.close()


@pytest.fixture
def apart():
    made = Driver(Bench(APART))
    yield made
    made.close()


def hbm(offset, capacity=1 << 20, **more):
    return {"destination": offset, "capacity": capacity, **more}


def chain(driver, *stages, flags=0, **more):
    """Run a chain of those stages; its completion."""
    driver.ram.write(LIST, b"".join(stages))
    return driver.run("chain", flags, source=LIST, length=64 * len(stages), **more)


def failed(done):
    """(stage, status) of a chain."""
    return done.result >> 32, done.status


def seal(driver):
    """Parameters of AES in memory."""
    driver.ram.write(PARAMETERS, AES_GCM.pack(len(KEY), 0, NONCE, 0, KEY, 0))


def packed(target=TARGET, flags=0):
    return [
        descriptor("deflate", DESTINATION_HBM, source=SOURCE, length=len(TEXT), **hbm(0x1000)),
        descriptor(
            "aes_gcm_encrypt", flags, operand=PARAMETERS, destination=target, capacity=1 << 16
        ),
    ]


def opened(sealed):
    return zlib.decompress(AESGCM(KEY).decrypt(NONCE, sealed, b""), wbits=-15)


def test_data_goes_through_all_stages_and_completes_once(driver):
    seal(driver)
    driver.ram.write(SOURCE, TEXT)
    done = chain(driver, *packed(), cookie=7)
    assert (done.status, done.cookie) == (SUCCESS, 7)
    assert opened(driver.ram.read(TARGET, done.result)) == TEXT
    assert driver.counters()["completed"] == 1


def test_list_and_result_may_be_in_hbm(driver):
    driver.write(0x3000, 0x1122_3344_5566_7788, 8, bar=4)
    stages = (
        descriptor("copy", SOURCE_HBM | DESTINATION_HBM, source=0x3000, length=8, destination=64),
        descriptor("copy", DESTINATION_HBM, destination=128),
    )
    for at, byte in enumerate(b"".join(stages)):
        driver.write(0x4000 + at, byte, 1, bar=4)
    done = driver.run("chain", SOURCE_HBM | NO_INTERRUPT, source=0x4000, length=128)
    assert (done.status, done.result) == (SUCCESS, 8)
    assert driver.read(128, 8, bar=4) == 0x1122_3344_5566_7788


def test_each_stage_counts_for_its_engine(apart):
    seal(apart)
    apart.ram.write(SOURCE, TEXT)
    assert chain(apart, *packed()).status == SUCCESS
    engines = {each.name: each for each in apart.bench.parent.engines.all}
    # Only press0 is linked to what seals.
    assert {name: each.commands for name, each in engines.items()} == {
        "dma0": 0,
        "press0": 1,
        "press1": 0,
        "seal0": 1,
    }
    assert engines["press0"].busy_ns > 0
    assert engines["seal0"].busy_ns > 0


@pytest.mark.parametrize(
    ("names", "stage", "status"),
    [
        (["copy", "deflate", "deflate"], None, SUCCESS),
        (["copy", "inflate"], 1, UNLINKED),
        (["copy", "deflate", "crc32c"], 2, UNLINKED),
        (["copy", "sha256", "crc32c"], 1, UNKNOWN_OPERATION),
    ],
)
def test_stages_run_only_where_engines_are_linked(apart, names, stage, status):
    first = descriptor(names[0], DESTINATION_HBM, source=SOURCE, length=64, **hbm(0))
    rest = [
        descriptor(name, DESTINATION_HBM, **hbm(0x1000 * n)) for n, name in enumerate(names[1:], 1)
    ]
    done = chain(apart, first, *rest)
    assert done.status == status
    if stage is not None:
        assert failed(done) == (stage, status)
        assert sum(each.commands for each in apart.bench.parent.engines.all) == 0


COPY = descriptor("copy", DESTINATION_HBM, source=SOURCE, length=64, destination=0)


@pytest.mark.parametrize(
    ("stages", "stage", "status"),
    [
        ([COPY, descriptor("copy", destination=OUTSIDE)], 1, WRITE_FAULT),
        ([COPY, descriptor("inflate", destination=TARGET, capacity=64)], 1, CORRUPT),
        ([COPY, descriptor("sha256", destination=TARGET, capacity=31)], 1, CAPACITY),
        ([COPY, descriptor("copy", DESTINATION_HBM, destination=HBM_SIZE - 63)], 1, HBM_RANGE),
        ([COPY, COPY], 1, INVALID_FIELD),
        ([COPY, descriptor("fill", destination=TARGET)], 1, INVALID_FIELD),
        ([COPY, descriptor("nop")], 1, INVALID_FIELD),
        ([COPY, descriptor("copy", NO_INTERRUPT, destination=TARGET)], 1, INVALID_FIELD),
        ([COPY, descriptor("copy", destination=TARGET, cookie=1)], 1, INVALID_FIELD),
        ([COPY, descriptor("copy", destination=TARGET, pasid=1)], 1, INVALID_FIELD),
        ([COPY, descriptor("copy", SOURCE_HBM, destination=TARGET)], 1, INVALID_FIELD),
        ([COPY, descriptor("crc32c"), descriptor("crc32c")], 1, INVALID_FIELD),
        ([COPY, descriptor("copy", destination=8), descriptor("crc32c")], 1, INVALID_FIELD),
        ([descriptor("chain", DESTINATION_HBM), COPY], 0, UNKNOWN_OPERATION),
        ([descriptor(99, DESTINATION_HBM), COPY], 0, UNKNOWN_OPERATION),
        ([COPY, descriptor("copy", destination=TARGET, reserved2=1)], 1, INVALID_FIELD),
        ([COPY], NO_STAGE, LENGTH),
        ([COPY] * 17, NO_STAGE, LENGTH),
    ],
)
def test_error_names_the_stage(driver, stages, stage, status):
    driver.ram.write(SOURCE, bytes(range(64)))
    assert failed(chain(driver, *stages)) == (stage, status)
    assert driver.counters()["failed"] == 1


@pytest.mark.parametrize(
    ("flags", "wanted", "status"),
    [
        (0, {"source": OUTSIDE, "length": 128}, READ_FAULT),
        (0, {"source": LIST, "length": 130}, LENGTH),
        (SOURCE_HBM, {"source": HBM_SIZE - 127, "length": 128}, HBM_RANGE),
        (DESTINATION_HBM, {"source": LIST, "length": 128}, INVALID_FIELD),
        (OPERAND_HBM, {"source": LIST, "length": 128}, INVALID_FIELD),
        (0, {"source": LIST, "length": 128, "operand": 1}, INVALID_FIELD),
        (0, {"source": LIST, "length": 128, "pasid": 1 << 31}, INVALID_FIELD),
    ],
)
def test_chain_that_is_wrong_itself_has_no_stage(driver, flags, wanted, status):
    assert failed(driver.run("chain", flags, **wanted)) == (NO_STAGE, status)


def test_wrong_stage_is_found_before_any_is_begun(driver):
    driver.ram.write(SOURCE, b"x" * 64)
    chain(driver, COPY, descriptor("nop"))
    assert driver.read(0, 8, bar=4) == 0
    assert driver.bench.parent.engines.all[0].commands == 0


def test_failed_stage_ends_the_chain(driver):
    driver.ram.write(TARGET, b"untouched")
    stages = (
        COPY,
        descriptor("inflate", DESTINATION_HBM, **hbm(0x1000)),
        descriptor("copy", destination=TARGET),
    )
    assert failed(chain(driver, *stages)) == (1, CORRUPT)
    assert driver.ram.read(TARGET, 9) == b"untouched"


def test_chain_of_an_engine_that_is_killed_is_aborted_once_with_its_stage(driver):
    size = 1 << 19
    driver.ram.write(SOURCE, bytes(size))
    queue = driver.queue(0)
    driver.ram.write(
        LIST,
        descriptor("copy", DESTINATION_HBM, source=SOURCE, length=64, destination=0)
        + descriptor("deflate", DESTINATION_HBM, **hbm(0x1000)),
    )
    stages = (
        descriptor("copy", DESTINATION_HBM, source=SOURCE, length=size, destination=0),
        descriptor("copy", DESTINATION_HBM, destination=1 << 20),
    )
    driver.ram.write(LIST, b"".join(stages))
    queue.submit(descriptor("chain", source=LIST, length=128))
    engine = driver.bench.parent.engines.all[0]
    while engine.commands < 2:
        driver.bench.parent.step()
    engine.reprogram(Program(coded(["copy"]), Policy.KILL, lambda: None))
    driver.work()
    (done,) = queue.reap()
    assert failed(done) == (1, ABORTED)


def test_chain_is_put_back_only_while_it_has_written_nothing(driver):
    seal(driver)
    driver.ram.write(SOURCE, TEXT)
    queue = driver.queue(0)
    driver.ram.write(LIST, b"".join(packed()))
    queue.submit(descriptor("chain", source=LIST, length=128))
    personality = driver.mdev.personality
    lane, written, put_back = personality.lanes[0], False, 0
    for turn in range(200):
        if queue.peek():
            break
        if turn == 1:
            personality.rest.stop("test", lambda _: None)
            lane.put_back()
            assert not lane.busy, "it has only read"
            assert driver.counters()["bytes_read"] == 0
            put_back += 1
            personality.rest.run("test")
        driver.bench.parent.step()
        written = written or driver.counters()["bytes_written"] > 0
    driver.work()
    (done,) = queue.reap()
    assert (done.status, put_back, written) == (SUCCESS, 1, True)
    assert opened(driver.ram.read(TARGET, done.result)) == TEXT
    assert driver.counters()["completed"] == 1


def test_chain_under_way_that_has_written_is_not_put_back(driver):
    size = 1 << 19
    queue = driver.queue(0)
    stages = (
        descriptor("copy", DESTINATION_HBM, source=SOURCE, length=size, destination=0),
        descriptor("copy", DESTINATION_HBM, destination=1 << 20),
    )
    driver.ram.write(LIST, b"".join(stages))
    queue.submit(descriptor("chain", source=LIST, length=128))
    for _ in range(4):
        driver.bench.parent.step()
    lane = driver.mdev.personality.lanes[0]
    driver.mdev.personality.rest.stop("test", lambda _: None)
    lane.put_back()
    assert lane.busy
    driver.work()
    (done,) = queue.reap()
    assert (done.status, done.result) == (SUCCESS, size)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.binary(min_size=128, max_size=256))
def test_no_list_of_stages_reaches_what_is_not_the_guests(seed, noise):
    """Whatever the stages say, the chain completes once, and a neighbour's bytes stay."""
    bench = Bench()
    driver, neighbour = Driver(bench), Driver(bench)
    try:
        chance = random.Random(seed)
        neighbour.ram.write(0, b"mine" * 64)
        for at in range(0, 64, 8):
            neighbour.write(at, 0x6E69_6D65, 8, bar=4)
        names = ["copy", "fill", "deflate", "inflate", "sha256", "crc32c", "compare", 11]
        addresses = [0, SOURCE, 64, HBM_SIZE, HBM_SIZE - 64, OUTSIDE, (1 << 64) - 64]
        stages = [
            descriptor(
                chance.choice(names),
                chance.choice([0, DESTINATION_HBM, DESTINATION_HBM | OPERAND_HBM]),
                source=0 if n else chance.choice(addresses),
                length=0 if n else chance.choice([0, 64, 4096, 1 << 24]),
                destination=chance.choice(addresses),
                operand=chance.choice(addresses),
                capacity=chance.choice([0, 64, 1 << 16]),
            )
            for n in range(chance.randint(2, 5))
        ]
        if chance.random() < 0.2:
            stages = [noise[:64], noise[64:128]]
        done = chain(driver, *stages)
        assert done.status <= HBM_UNMAPPED
        assert driver.counters()["completed"] == 1
        assert neighbour.ram.read(0, 256) == b"mine" * 64
        assert all(neighbour.read(at, 8, bar=4) == 0x6E69_6D65 for at in range(0, 64, 8))
    finally:
        driver.close()
        neighbour.close()
