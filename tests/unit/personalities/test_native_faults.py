"""What goes wrong outside of a command: the fault record, queues that fail and come back."""

import pytest

from mdevemu.units import GIB, HBM_IOVA, PAGE
from tests.support.bench import CONFIG
from tests.support.native import (
    COMPLETION_WRITE,
    CQ_BASE,
    DATA,
    DISABLED,
    DOORBELL_RANGE,
    ENABLE,
    EVENT_INDEX,
    FAILED,
    INTERRUPT,
    NONE,
    QUEUE_CONFIG,
    QUEUE_CONTROL,
    QUEUE_DISABLED,
    READ_PAGE_FAULT,
    RING_READ,
    RUNNING,
    SHADOW,
    SHADOW_ACCESS,
    SIZE,
    SQ_BASE,
    SUCCESS,
    WRITE_PAGE_FAULT,
    Driver,
    FaultRecord,
    descriptor,
)

HOLE = 1 << 40
NOT_ALLOWED = 0
ALL_CLEAR = FaultRecord(False, False, NONE, 0, 0, 0, 0)


@pytest.fixture
def driver():
    made = Driver()
    yield made
    made.close()


def nop(cookie=0):
    return descriptor("nop", cookie=cookie)


def moved(driver, place, at, number=2, **wanted):
    """A queue, one of whose addresses is somewhere else."""
    queue = driver.queue(number, **wanted)
    queue.disable()
    queue.put(place, at, 8)
    queue.put(QUEUE_CONTROL, queue.control)
    return queue


def check_failed(driver, queue, record):
    """The queue failed, the record says this, and the queue works again once it is put right."""
    assert driver.fault() == record
    assert (queue.state, queue.fault_code) == (FAILED, record.code)
    assert queue.get(QUEUE_CONTROL) & ENABLE == 0
    counted = driver.counters()["faults"]
    queue.doorbell(3)
    assert driver.counters()["faults"] == counted + 1, "a doorbell of a failed queue"
    assert driver.fault().overflow
    driver.clear_fault()
    assert (queue.state, queue.fault_code) == (FAILED, record.code)
    queue.disable()
    assert (queue.state, queue.fault_code) == (DISABLED, NONE)
    queue.start()
    queue.enable()
    assert queue.state == RUNNING
    queue.submit(nop(1), nop(2))
    driver.bench.work()
    assert [(done.cookie, done.status) for done in queue.reap()] == [(1, SUCCESS), (2, SUCCESS)]
    assert not driver.fault().valid


# Each code.


@pytest.mark.parametrize("base", [HOLE, 2**64 - 1024, 2**64 - 64, 2**63, HBM_IOVA + GIB])
def test_descriptor_that_cannot_be_read(driver, base):
    queue = moved(driver, SQ_BASE, base)
    queue.doorbell(1)
    driver.bench.work()
    expected = FaultRecord(True, False, RING_READ, 2, READ_PAGE_FAULT, base, 0)
    check_failed(driver, queue, expected)


def test_descriptor_behind_the_last_that_can_be_read(driver):
    end = driver.ram.size
    queue = moved(driver, SQ_BASE, end - 5 * 64)
    queue.doorbell(7)
    driver.bench.work()
    assert [done.index for done in queue.reap(tell=False)] == [0, 1, 2, 3, 4]
    expected = FaultRecord(True, False, RING_READ, 2, READ_PAGE_FAULT, end, 5)
    check_failed(driver, queue, expected)


@pytest.mark.parametrize("base", [HOLE, 2**64 - 512, 2**64 - 32, 2**63])
def test_completion_that_cannot_be_written(driver, base):
    queue = moved(driver, CQ_BASE, base)
    queue.submit(nop())
    driver.bench.work()
    expected = FaultRecord(True, False, COMPLETION_WRITE, 2, WRITE_PAGE_FAULT, base, 0)
    check_failed(driver, queue, expected)
    assert driver.counters()["completed"] == 2


def test_completion_that_cannot_be_written_names_its_descriptor(driver):
    queue = moved(driver, CQ_BASE, driver.ram.size - 3 * 32)
    queue.submit(*[nop()] * 6)
    driver.bench.work()
    end = driver.ram.size
    expected = FaultRecord(True, False, COMPLETION_WRITE, 2, WRITE_PAGE_FAULT, end, 3)
    check_failed(driver, queue, expected)


def test_completion_ring_that_can_only_be_read(driver):
    driver.bench.lend(driver.mdev, driver.ram, iova=HOLE, size=PAGE, writable=False)
    queue = moved(driver, CQ_BASE, HOLE)
    before = driver.ram.read(0, PAGE)
    queue.submit(nop())
    driver.bench.work()
    assert driver.fault().cause == WRITE_PAGE_FAULT
    assert driver.ram.read(0, PAGE) == before
    assert queue.state == FAILED


@pytest.mark.parametrize("base", [HOLE, 2**64 - 16])
def test_shadow_area_that_cannot_be_reached(driver, base):
    queue = moved(driver, SHADOW, base, event_index=True)
    queue.doorbell(0)
    driver.bench.work()
    address = (base + 4) % 2**64
    expected = FaultRecord(True, False, SHADOW_ACCESS, 2, WRITE_PAGE_FAULT, address, 0)
    check_failed(driver, queue, expected)


def test_shadow_area_that_cannot_be_reached_when_the_ring_is_full(driver):
    driver.bench.lend(driver.mdev, driver.ram, iova=HOLE, size=PAGE, offset=DATA)
    queue = moved(driver, SHADOW, HOLE, event_index=True, log2=1)
    queue.shadow = DATA
    queue.submit(nop(0), nop(1))
    driver.bench.work()
    queue.write(nop(2))
    driver.ram.write(DATA, b"\3")
    driver.mdev.space.unmap(HOLE, PAGE)
    queue.doorbell(3)
    driver.bench.work()
    fault = driver.fault()
    assert (fault.code, fault.address, fault.cause) == (SHADOW_ACCESS, HOLE, READ_PAGE_FAULT)
    assert fault.index == 2


@pytest.mark.parametrize("tail", [17, 18, 1000, 2**32 - 1, 2**31])
def test_tail_beyond_the_ring(driver, tail):
    queue = driver.queue(1)
    queue.write(nop(5))
    queue.doorbell(tail)
    driver.bench.work()
    assert driver.fault() == FaultRecord(True, False, DOORBELL_RANGE, 1, 0, tail, 0)
    assert (queue.state, queue.peek()) == (RUNNING, None)
    queue.doorbell(1)
    driver.bench.work()
    assert [done.cookie for done in queue.reap()] == [5]


def test_tail_of_exactly_the_ring_is_accepted(driver):
    queue = driver.queue(1)
    queue.submit(*(nop(n) for n in range(16)))
    driver.bench.work()
    assert len(queue.reap()) == 16
    assert driver.fault() == ALL_CLEAR


@pytest.mark.parametrize("head", [4, 100, 2**32 - 1])
def test_completions_taken_that_were_never_written(driver, head):
    queue = driver.queue(1)
    queue.submit(*[nop()] * 3)
    driver.bench.work()
    queue.took(head)
    assert driver.fault() == FaultRecord(True, False, DOORBELL_RANGE, 1, 0, head, 3)
    assert queue.state == RUNNING
    queue.submit(nop())
    driver.bench.work()
    assert len(queue.reap()) == 4


def test_completions_cannot_be_given_back(driver):
    queue = driver.queue(1)
    queue.submit(*[nop()] * 3)
    driver.bench.work()
    queue.took(3)
    queue.took(2)
    assert driver.fault().code == DOORBELL_RANGE


def test_shadow_tail_beyond_the_ring(driver):
    queue = driver.queue(1, event_index=True)
    driver.ram.write(queue.shadow, (100).to_bytes(4, "little"))
    queue.write(nop(3))
    queue.doorbell(1)
    driver.bench.work()
    assert [done.cookie for done in queue.reap(tell=False)] == [3]
    assert driver.fault() == FaultRecord(True, False, DOORBELL_RANGE, 1, 0, 100, 1)
    assert queue.state == RUNNING
    driver.ram.write(queue.shadow, b"\1\0\0\0")
    queue.submit(nop(4))
    driver.bench.work()
    assert [done.cookie for done in queue.reap()] == [4]


def test_shadow_head_beyond_the_ring(driver):
    queue = driver.queue(1, log2=1, event_index=True)
    queue.submit(nop(), nop())
    driver.bench.work()
    driver.ram.write(queue.shadow + 8, (9).to_bytes(4, "little"))
    queue.submit(nop())
    driver.bench.work()
    fault = driver.fault()
    assert (fault.code, fault.address, fault.index) == (DOORBELL_RANGE, 9, 2)
    driver.ram.write(queue.shadow + 8, (2).to_bytes(4, "little"))
    queue.doorbell(3)
    driver.bench.work()
    queue.head = 2
    assert queue.peek()


@pytest.mark.parametrize("log2", [0, 13, 31])
def test_size_that_cannot_be_used(driver, log2):
    queue = driver.queue(3)
    queue.disable()
    queue.put(SIZE, log2)
    queue.put(QUEUE_CONTROL, ENABLE)
    assert driver.fault() == FaultRecord(True, False, QUEUE_CONFIG, 3, 0, log2, 0)
    assert (queue.state, queue.get(QUEUE_CONTROL) & ENABLE) == (DISABLED, 0)


@pytest.mark.parametrize(
    ("place", "at", "control"),
    [
        (SQ_BASE, 32, ENABLE),
        (SQ_BASE, 0x1_0000_0001, ENABLE),
        (CQ_BASE, 16, ENABLE),
        (CQ_BASE, 2**64 - 1, ENABLE),
        (SHADOW, 8, ENABLE | EVENT_INDEX),
    ],
)
def test_address_that_is_not_aligned(driver, place, at, control):
    queue = driver.queue(3)
    queue.disable()
    queue.put(place, at, 8)
    queue.put(QUEUE_CONTROL, control)
    assert driver.fault() == FaultRecord(True, False, QUEUE_CONFIG, 3, 0, at, 0)
    assert (queue.state, queue.get(QUEUE_CONTROL) & ENABLE) == (DISABLED, 0)
    queue.enable()
    assert queue.state == RUNNING


def test_shadow_address_that_is_not_used_may_be_anything(driver):
    queue = moved(driver, SHADOW, 7)
    assert queue.state == RUNNING
    assert driver.fault() == ALL_CLEAR


@pytest.mark.parametrize("vector", [5, 6, 64, 0xFFFF])
def test_vector_that_does_not_exist(driver, vector):
    queue = driver.queue(1, interrupt=True, vector=vector)
    assert queue.state == DISABLED
    assert driver.fault().code == QUEUE_CONFIG
    assert queue.get(QUEUE_CONTROL) == INTERRUPT | vector << 16


@pytest.mark.parametrize("number", [4, 9, 15])
def test_queue_that_the_slice_does_not_have(driver, number):
    queue = driver.queue(number)
    assert queue.state == DISABLED
    assert (driver.fault().code, driver.fault().queue) == (QUEUE_CONFIG, number)
    driver.clear_fault()
    queue.doorbell(1)
    assert (driver.fault().code, driver.fault().queue) == (QUEUE_DISABLED, number)


@pytest.mark.parametrize(("offset", "value"), [(0, 7), (4, 9)])
def test_doorbell_of_a_disabled_queue(driver, offset, value):
    driver.write(2 * PAGE + offset, value, 4, bar=2)
    assert driver.fault() == FaultRecord(True, False, QUEUE_DISABLED, 2, 0, value, 0)
    driver.bench.work()
    assert driver.bench.faults() == []


# The record.


def test_first_fault_is_kept_and_the_next_sets_overflow(driver):
    driver.write(3 * PAGE, 11, 4, bar=2)
    first = driver.fault()
    driver.write(1 * PAGE, 22, 4, bar=2)
    driver.queue(1).doorbell(1000)
    assert driver.fault() == FaultRecord(True, True, first.code, 3, 0, 11, 0)
    assert driver.counters()["faults"] == 3
    driver.clear_fault()
    assert not driver.fault().valid
    driver.queue(1).doorbell(1000)
    assert driver.fault() == FaultRecord(True, False, DOORBELL_RANGE, 1, 0, 1000, 0)


def test_overflow_alone_can_be_cleared(driver):
    driver.write(0, 1, 4, bar=2)
    driver.write(0, 1, 4, bar=2)
    driver.write(0x40, 2, 4)
    assert (driver.fault().valid, driver.fault().overflow) == (True, False)


def test_every_fault_raises_vector_zero(driver):
    for count in range(1, 4):
        driver.write(0, 1, 4, bar=2)
        assert driver.counters()["interrupts"] == count
    assert driver.read(0x30) == 1


def test_fault_of_a_command_is_no_fault_of_the_device(driver):
    driver.run("copy", source=HOLE, destination=DATA, length=8)
    assert driver.fault() == ALL_CLEAR


def test_operator_hears_of_every_fault(driver):
    driver.write(0, 1, 4, bar=2)
    (event,) = [e for e in driver.bench.trace.events if e.name == "device.fault"]
    assert event.facts["mdev"] == driver.mdev.name
    assert "QUEUE_DISABLED" in str(event.facts["reason"])


# Bus mastering.


def bus_master(driver, on):
    driver.function.write(CONFIG, 4, b"\x06\x00" if on else b"\x02\x00")


def test_device_that_may_not_master_the_bus_fails_its_queue(driver):
    queue = driver.queue(2)
    bus_master(driver, False)
    queue.submit(nop())
    driver.bench.work()
    assert queue.peek() is None
    assert driver.bench.faults() == [], "nothing left the device"
    bus_master(driver, True)
    check_failed(driver, queue, FaultRecord(True, False, RING_READ, 2, NOT_ALLOWED, queue.sq, 0))


def test_bus_master_taken_away_in_the_middle_stops_at_once(driver):
    queue = driver.queue(2)
    length = 1 << 20
    driver.ram.write(DATA, b"\x11" * length)
    queue.submit(descriptor("copy", source=DATA, destination=DATA + length, length=length))
    for _ in range(6):
        assert driver.bench.parent.scheduler.step()
    bus_master(driver, False)
    before = driver.ram.read(0, driver.ram.size)
    written = before[DATA + length :].count(0x11)
    assert 0 < written < length
    driver.bench.work()
    assert driver.ram.read(0, driver.ram.size) == before
    fault = driver.fault()
    assert (fault.code, fault.cause, fault.address) == (COMPLETION_WRITE, NOT_ALLOWED, queue.cq)
    assert fault.index == 0
    bus_master(driver, True)
    driver.bench.work()
    assert driver.ram.read(0, driver.ram.size) == before, "what failed does not go on"


def test_memory_is_back_with_the_bus_master_bit(driver):
    bus_master(driver, False)
    bus_master(driver, True)
    assert driver.run("nop").status == SUCCESS
