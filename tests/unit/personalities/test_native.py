"""The native device as a whole: bring-up, registers, counters, resets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.units import GIB, MIB
from tests.support.bench import ALL, BASE, CONFIG, MEMORY_AND_BUS_MASTER, Bench
from tests.support.native import (
    CAPABILITIES,
    CONTROL,
    CQ_TAIL,
    DATA,
    DISABLED,
    ENABLE,
    FAULT_STATUS,
    HBM_SIZE,
    OPERATION_BITS,
    QUEUE_CONFIG,
    QUEUE_CONTROL,
    QUEUE_DISABLED,
    QUEUES,
    RUNNING,
    SCRATCH,
    SQ_BASE,
    SQ_HEAD,
    STATUS,
    STRIDE,
    SUCCESS,
    Driver,
    descriptor,
)

DEVICE_CONTROL, FLR = 0x58, (1 << 15).to_bytes(2, "little")


@pytest.fixture
def driver():
    made = Driver(start=False)
    yield made
    made.close()


def accelerator(**wanted):
    """An accelerator with one type, changed as wanted."""
    kind = {"name": "native", "personality": "native", "hbm": "4MiB", "queues": 4} | wanted
    return Bench(BASE | {"type": [kind]})


def copies(count=1, length=64):
    return [descriptor("copy", length=length, source=DATA, destination=DATA + MIB)] * count


# Bring-up.


def test_device_says_what_it_is(driver):
    assert driver.function.read(0, 0, 4) == b"ACC1"
    assert driver.read(4, 4) == 0x0001_0002
    found = driver.read(CAPABILITIES)
    assert found & 0xFF == 4, "queues"
    assert found >> 8 & 0x1F == 12, "log2 of entries"
    assert found >> 13 & 0x1F == 24, "log2 of a transfer"
    assert found >> 18 & 7 == 0b111, "event index, HBM, monitoring"
    assert found >> 21 & 0xFF == 5, "vectors"
    assert found >> 29 == 1, "buffers in HBM"
    assert driver.read(OPERATION_BITS) == (1 << len(ALL) + 1) - 1, "and chains of them"
    assert driver.read(HBM_SIZE) == 4 * MIB
    assert driver.function.interrupts[2] == 5


@pytest.mark.parametrize("queues", [1, 16])
def test_slice_has_the_queues_of_its_type(queues):
    driver = Driver(accelerator(queues=queues))
    assert driver.read(CAPABILITIES) & 0xFF == queues
    last = driver.queue(queues - 1, log2=2)
    last.submit(*copies())
    driver.bench.work()
    assert [done.status for done in last.reap()] == [SUCCESS]
    if queues < 16:
        driver.write(QUEUES + queues * STRIDE + QUEUE_CONTROL, ENABLE, 4)
        assert driver.fault().code == QUEUE_CONFIG
        assert driver.fault().queue == queues
    driver.close()


def test_slice_without_hbm_says_so():
    driver = Driver(accelerator(hbm=0))
    assert driver.read(HBM_SIZE) == 0
    assert not driver.read(CAPABILITIES) >> 19 & 1
    assert driver.function.regions[4].size == 0
    assert driver.function.read(4, 0, 8) == bytes(8)
    assert driver.run("copy", 1, length=0, destination=DATA).status == SUCCESS
    driver.close()


@pytest.mark.parametrize(("size", "bar"), [(2, 2), (6, 8), (8, 8), (10, 16)])
def test_aperture_is_the_next_power_of_two_and_reads_zero_behind_the_hbm(size, bar):
    driver = Driver(accelerator(hbm=size * MIB))
    region = driver.function.regions[4]
    assert region.size == bar * MIB
    assert region.areas == [(0, size * MIB)]
    end = size * MIB
    driver.write(end - 4, 0xAAAA_AAAA_AAAA_AAAA, bar=4)
    assert driver.read(end - 4, bar=4) == 0xAAAA_AAAA
    if bar > size:
        assert driver.read(bar * MIB - 8, bar=4) == 0
    driver.close()


def test_operations_are_those_that_an_engine_does():
    engines = [{"name": "a", "operations": ["copy"]}, {"name": "b", "operations": ["crc32c"]}]
    driver = Driver(Bench(BASE | {"engine": engines}))
    assert driver.read(OPERATION_BITS) == 1 << 1 | 1 << 4 | 1 << 10
    driver.close()


def test_scratch_keeps_what_is_written_to_each_byte(driver):
    driver.write(SCRATCH, 0x0123_4567_89AB_CDEF)
    driver.write(SCRATCH + 3, 0xFF, 1)
    assert driver.read(SCRATCH) == 0x0123_4567_FFAB_CDEF
    assert driver.read(SCRATCH + 2, 4) == 0x4567_FFAB


def test_enable_and_disable_show_in_the_status(driver):
    assert driver.read(STATUS, 4) == 0
    driver.write(CONTROL, 1, 4)
    assert (driver.read(CONTROL, 4), driver.read(STATUS, 4)) == (1, 1)
    driver.write(CONTROL, 0, 4)
    assert (driver.read(CONTROL, 4), driver.read(STATUS, 4)) == (0, 0)


def test_queue_of_a_disabled_device_cannot_be_enabled(driver):
    queue = driver.queue(1)
    assert queue.state == DISABLED
    assert queue.get(QUEUE_CONTROL) & ENABLE == 0
    assert (driver.fault().code, driver.fault().queue) == (QUEUE_CONFIG, 1)


def test_disabling_the_device_disables_every_queue_and_drops_its_work():
    driver = Driver()
    running, failed = driver.queue(0), driver.queue(1)
    failed.put(QUEUE_CONTROL, 0)
    failed.put(SQ_BASE, 1 << 40, 8)
    failed.put(QUEUE_CONTROL, ENABLE)
    failed.submit(*copies())
    driver.bench.work()
    running.submit(*copies(3, MIB))
    for _ in range(20):
        driver.bench.parent.scheduler.step()
    begun = len(running.reap(tell=False))
    assert begun < 3
    driver.write(CONTROL, 0, 4)
    for queue in running, failed:
        assert (queue.state, queue.fault_code, queue.get(QUEUE_CONTROL) & 1) == (DISABLED, 0, 0)
    driver.bench.work()
    assert running.reap(tell=False) == []
    driver.write(CONTROL, 1, 4)
    assert running.state == DISABLED
    driver.close()


# Resets.


def by_register(driver):
    driver.write(CONTROL, 2, 4)


def by_message(driver):
    driver.function.reset()


def by_config(driver):
    driver.function.write(CONFIG, DEVICE_CONTROL, FLR)


each_reset = pytest.mark.parametrize("reset", [by_register, by_message, by_config])


def all_registers(driver):
    return driver.function.read(0, 0, 0x10000)


@each_reset
def test_reset_forgets_registers_and_queues_and_keeps_hbm(driver, reset):
    fresh = all_registers(driver)
    driver.write(CONTROL, 1, 4)
    driver.write(SCRATCH, 77)
    driver.write(0x100, 0x1234_5678, bar=4)
    queue = driver.queue(2, log2=3, interrupt=True, vector=1)
    queue.submit(*copies(5))
    driver.bench.work()
    queue.doorbell(1000)
    assert driver.fault().valid
    assert driver.counters()["completed"] == 5
    reset(driver)
    assert all_registers(driver) == fresh
    assert driver.read(0x100, bar=4) == 0x1234_5678
    queue.doorbell(1)
    assert driver.fault().code == QUEUE_DISABLED


@each_reset
def test_no_completion_comes_after_a_reset(driver, reset):
    driver.write(CONTROL, 1, 4)
    queue = driver.queue(0, interrupt=True)
    queue.submit(*copies(4, 256 * 1024))
    for _ in range(7):
        assert driver.bench.parent.scheduler.step()
    ring = driver.ram.read(queue.cq, 32 * queue.entries)
    data = driver.ram.read(DATA, 2 * MIB)
    reset(driver)
    driver.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)
    driver.bench.work()
    assert driver.ram.read(queue.cq, 32 * queue.entries) == ring
    assert driver.ram.read(DATA, 2 * MIB) == data
    assert driver.counters() | {"weight": 0} == dict.fromkeys(driver.counters(), 0) | {
        "hbm_bytes": 4 * MIB
    }


@each_reset
def test_device_works_after_a_reset_from_index_zero(driver, reset):
    for _ in range(3):
        driver.write(CONTROL, 1, 4)
        queue = driver.queue(0, log2=2)
        queue.submit(*copies(3))
        driver.bench.work()
        assert [done.index for done in queue.reap()] == [0, 1, 2]
        queue.submit(*copies(3, MIB))
        driver.bench.parent.scheduler.step()
        reset(driver)
        driver.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)


def test_reset_bit_clears_itself_and_wins_over_enable(driver):
    driver.write(CONTROL, 3, 4)
    assert (driver.read(CONTROL, 4), driver.read(STATUS, 4)) == (0, 0)


def test_queue_that_is_switched_off_and_on_starts_at_index_zero():
    driver = Driver()
    queue = driver.queue(0)
    queue.submit(*copies(3))
    driver.bench.work()
    assert (queue.get(SQ_HEAD), queue.get(CQ_TAIL)) == (3, 3)
    queue.disable()
    assert queue.state == DISABLED
    queue.start()
    queue.enable()
    assert queue.state == RUNNING
    assert (queue.get(SQ_HEAD), queue.get(CQ_TAIL)) == (0, 0)
    queue.submit(*copies(2))
    driver.bench.work()
    assert [done.index for done in queue.reap()] == [0, 1]
    driver.close()


def test_queue_registers_of_a_running_queue_count_when_it_is_next_enabled():
    driver = Driver()
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.put(SQ_BASE, 1 << 40, 8)
    queue.put(QUEUE_CONTROL, ENABLE)
    queue.submit(*copies())
    driver.bench.work()
    assert len(queue.reap()) == 1
    assert driver.counters()["interrupts"] == 1
    queue.put(QUEUE_CONTROL, 0)
    queue.put(QUEUE_CONTROL, ENABLE)
    queue.doorbell(1)
    driver.bench.work()
    assert driver.fault().address == 1 << 40
    driver.close()


# The monitoring page.


def test_counters_count():
    driver = Driver(weight=5)
    queue = driver.queue(0, interrupt=True)
    queue.submit(*copies(2, 100), descriptor("fill", destination=DATA, length=50), descriptor(99))
    driver.bench.work()
    driver.write(0x9000, 1, 4, bar=2)
    counters = driver.counters()
    assert counters.pop("busy_ns") > 0
    assert counters == {
        "completed": 4,
        "failed": 1,
        "bytes_read": 200,
        "bytes_written": 250,
        "interrupts": 5,
        "doorbells": 2,
        "faults": 1,
        "hbm_bytes": 4 * MIB,
        "weight": 5,
    }
    shown = driver.mdev.personality.counts()
    assert {name.replace("-", "_"): count for name, count in shown.items()}.items() <= (
        counters.items()
    )
    driver.close()


@settings(max_examples=30, deadline=None)
@given(offset=st.integers(0xFF8, 0x2000), data=st.binary(min_size=1, max_size=16))
def test_monitoring_page_cannot_be_written(offset, data):
    driver = Driver(start=False)
    before = all_registers(driver)
    driver.function.write(0, offset, data)
    assert all_registers(driver) == before
    driver.close()


def test_weight_that_the_operator_changes_is_seen_at_once(driver):
    assert driver.counters()["weight"] == 1
    driver.bench.parent.set_weight(driver.mdev, 9)
    assert driver.counters()["weight"] == 9
    driver.function.reset()
    assert driver.counters()["weight"] == 9


def test_busy_time_starts_anew_with_a_reset():
    driver = Driver()
    driver.queue(0).submit(*copies(2, MIB))
    driver.bench.work()
    assert driver.counters()["busy_ns"] >= 32
    by_register(driver)
    assert driver.counters()["busy_ns"] == 0
    driver.close()


# Access of any size.


def test_registers_have_the_reset_value_of_nothing_else(driver):
    seen = all_registers(driver)
    named = seen[:0x20] + seen[0x1040:0x1050]
    assert any(named)
    assert not any(seen[0x20:0x1040] + seen[0x1050:])


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, 0x10000), length=st.integers(1, 64))
def test_read_of_any_size_is_a_part_of_the_whole(offset, length):
    driver = Driver()
    driver.write(SCRATCH, 0x0123_4567_89AB_CDEF)
    driver.write(0x1_0000 - 1, 7, 1, bar=2)
    assert driver.function.read(0, offset, length).ljust(length, b"\0") == all_registers(driver)[
        offset : offset + length
    ].ljust(length, b"\0")
    assert driver.function.read(2, offset, length) == bytes(length), "doorbells cannot be read"
    driver.close()


def test_fault_bits_clear_only_where_ones_are_written(driver):
    driver.write(0, 1, 4, bar=2)
    driver.write(0, 1, 4, bar=2)
    assert driver.read(FAULT_STATUS, 4) & 3 == 3
    driver.write(FAULT_STATUS, 0, 4)
    assert driver.read(FAULT_STATUS, 4) & 3 == 3
    driver.write(FAULT_STATUS, 2, 1)
    assert driver.read(FAULT_STATUS, 4) & 3 == 1
    driver.write(FAULT_STATUS, 1, 4)
    assert driver.read(FAULT_STATUS, 4) & 3 == 0


def test_largest_hbm_fits_its_aperture():
    bench = Bench(BASE | {"accelerator": {"name": "x", "hbm": "64GiB"}, "type": BASE["type"]})
    assert bench.parent.hbm.size == 64 * GIB
