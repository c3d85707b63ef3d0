"""Native devices side by side, and a VMM that takes memory back while they work."""

import pytest

from mdevemu.errors import RequestError
from mdevemu.units import MIB, PAGE
from tests.support.bench import BASE, Bench
from tests.support.native import (
    DATA,
    DESTINATION_HBM,
    HBM_RANGE,
    READ_FAULT,
    READ_PAGE_FAULT,
    SOURCE_HBM,
    SUCCESS,
    WRITE_FAULT,
    WRITE_PAGE_FAULT,
    Driver,
    descriptor,
)

FAR = 1 << 32
LENGTH = 16 * MIB


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def pair(bench):
    made = [Driver(bench, name=name) for name in ("red", "blue")]
    yield made
    for driver in made:
        driver.close()


# Memory that goes away in the middle of a copy.


@pytest.fixture
def large():
    """A driver with 16 MiB more at FAR, and a queue with one copy of all of that."""
    driver = Driver(size=DATA + 2 * LENGTH)
    driver.bench.lend(driver.mdev, driver.ram, iova=FAR, offset=DATA, size=2 * LENGTH)
    yield driver
    driver.close()


@pytest.mark.parametrize("steps", [1, 7, 100, 200])
def test_destination_unmapped_in_the_middle_is_not_written_any_more(large, steps):
    queue = large.queue(0)
    large.ram.write(DATA, b"\x11" * LENGTH)
    queue.submit(descriptor("copy", source=DATA, destination=FAR + LENGTH, length=LENGTH))
    for _ in range(steps):
        assert large.bench.parent.scheduler.step()
    large.mdev.space.unmap(FAR, 2 * LENGTH)
    before = large.ram.read(DATA + LENGTH, LENGTH)
    moved = before.count(0x11)
    assert 0 < moved < LENGTH
    large.bench.work()
    (done,) = queue.reap()
    assert (done.status, done.cause) == (WRITE_FAULT, WRITE_PAGE_FAULT)
    assert done.address == FAR + LENGTH + moved
    assert large.ram.read(DATA + LENGTH, LENGTH) == before
    assert large.counters()["bytes_written"] == moved


def test_source_unmapped_in_the_middle_is_not_read_any_more(large):
    queue = large.queue(0)
    large.ram.write(DATA, b"\x11" * LENGTH)
    queue.submit(descriptor("copy", source=FAR, destination=DATA + LENGTH, length=LENGTH))
    for _ in range(20):
        assert large.bench.parent.scheduler.step()
    large.mdev.space.unmap(FAR, 2 * LENGTH)
    large.ram.write(DATA, b"\x22" * LENGTH)
    large.bench.work()
    (done,) = queue.reap()
    assert (done.status, done.cause) == (READ_FAULT, READ_PAGE_FAULT)
    after = large.ram.read(DATA + LENGTH, LENGTH)
    assert after.count(0x11) == done.address - FAR
    assert 0x22 not in after


def test_rings_unmapped_in_the_middle_fail_the_queue_and_are_not_touched(large):
    large.mdev.space.unmap(0, large.ram.size)
    large.bench.lend(large.mdev, large.ram, iova=0, size=DATA)
    queue = large.queue(0)
    queue.submit(descriptor("fill", destination=FAR, length=LENGTH, operand=7))
    for _ in range(20):
        large.bench.parent.scheduler.step()
    large.mdev.space.unmap(0, DATA)
    before = large.ram.read(0, DATA)
    large.bench.work()
    assert large.ram.read(0, DATA) == before
    assert large.fault().address == queue.cq


def test_every_window_taken_back_at_once_leaves_nothing_to_write_to(large):
    queue = large.queue(0)
    queue.submit(descriptor("fill", destination=FAR, length=LENGTH, operand=2**64 - 1))
    for _ in range(20):
        large.bench.parent.scheduler.step()
    large.mdev.space.clear()
    before = large.ram.read(0, large.ram.size)
    large.bench.work()
    assert large.ram.read(0, large.ram.size) == before
    assert {fault.pasid for fault in large.bench.faults()} == {large.mdev.space.pasid}


def test_window_that_comes_back_elsewhere_is_used_at_its_new_place(large):
    """A stale translation would write to the old one."""
    queue = large.queue(0)
    queue.submit(descriptor("fill", destination=FAR, length=LENGTH, operand=2**64 - 1))
    for _ in range(20):
        large.bench.parent.scheduler.step()
    large.mdev.space.unmap(FAR, 2 * LENGTH)
    before = large.ram.read(DATA, LENGTH)
    large.bench.lend(large.mdev, large.ram, iova=FAR, offset=DATA + LENGTH, size=LENGTH)
    large.bench.work()
    assert queue.reap()[0].status == SUCCESS
    moved = before.count(0xFF)
    assert large.ram.read(DATA, LENGTH) == before
    second = large.ram.read(DATA + LENGTH, LENGTH)
    assert second == bytes(moved) + b"\xff" * (LENGTH - moved)


# Two tenants.


def test_same_address_is_other_memory_for_each_tenant(pair):
    for driver, byte in zip(pair, (0xAA, 0xBB), strict=True):
        done = driver.run("fill", destination=DATA, length=PAGE, operand=byte * 0x0101010101010101)
        assert done.status == SUCCESS
    assert [driver.ram.read(DATA, PAGE) for driver in pair] == [b"\xaa" * PAGE, b"\xbb" * PAGE]


def test_hbm_of_each_slice_is_its_own_to_the_last_byte(pair):
    size = 4 * MIB
    for driver, byte in zip(pair, (0xAA, 0xBB), strict=True):
        operand = byte * 0x0101010101010101
        done = driver.run("fill", DESTINATION_HBM, length=size, operand=operand)
        assert (done.status, done.result) == (SUCCESS, size)
    for driver, byte in zip(pair, (b"\xaa", b"\xbb"), strict=True):
        assert driver.function.read(4, 0, size) == byte * size
        driver.run("copy", SOURCE_HBM, source=size - PAGE, destination=DATA, length=PAGE)
        assert driver.ram.read(DATA, PAGE) == byte * PAGE
        done = driver.run("copy", SOURCE_HBM, source=size - 8, destination=DATA, length=9)
        assert (done.status, done.address) == (HBM_RANGE, size - 8)


def test_end_of_the_hbm_is_the_end_of_what_the_device_reaches(pair):
    """Without HBM's flag the range check has no part in it: the IOMMU must stop it."""
    red, _ = pair
    end = 0xFFFF_8000_0000_0000 + 4 * MIB
    for name, fault in (("copy", READ_FAULT), ("fill", WRITE_FAULT)):
        place = {"copy": "source", "fill": "destination"}[name]
        done = red.run(name, **({"destination": DATA, "length": PAGE} | {place: end}))
        assert (done.status, done.address) == (fault, end)
    assert {report.pasid for report in red.bench.faults()} == {red.mdev.space.pasid}


def test_next_owner_finds_zeros_in_hbm(bench):
    for _ in range(3):
        driver = Driver(bench)
        assert not any(driver.function.read(4, 0, 4 * MIB))
        assert driver.run("fill", DESTINATION_HBM, length=4 * MIB, operand=2**64 - 1).status == 0
        bench.parent.remove(driver.mdev)
        driver.close()


def test_removal_in_the_middle_of_a_command_ends_it(bench):
    red, blue = Driver(bench), Driver(bench)
    red.queue(0).submit(descriptor("fill", destination=DATA, length=2 * MIB, operand=2**64 - 1))
    blue.queue(0).submit(descriptor("fill", destination=DATA, length=2 * MIB, operand=2**64 - 1))
    for _ in range(6):
        bench.parent.scheduler.step()
    bench.parent.remove(red.mdev)
    before = red.ram.read(0, red.ram.size)
    bench.work()
    assert red.ram.read(0, red.ram.size) == before
    assert blue.ram.read(DATA, 2 * MIB) == b"\xff" * 2 * MIB
    for driver in (red, blue):
        driver.close()


def test_fault_is_told_to_the_tenant_that_caused_it_alone(pair):
    red, blue = pair
    quiet = blue.function.read(0, 0, 0x10000)
    assert red.run("copy", source=FAR, destination=DATA, length=8).status == READ_FAULT
    red.queue(1, log2=1).doorbell(1000)
    assert red.fault().valid
    assert blue.function.read(0, 0, 0x10000) == quiet
    assert [fault.pasid for fault in red.bench.faults()] == [red.mdev.space.pasid]


# Shares.


def keep_busy(driver, number=0):
    """A queue with more work than any test waits for."""
    queue = driver.queue(number, log2=10)
    copy = descriptor("copy", source=DATA, destination=DATA + MIB, length=256 * 1024)
    queue.submit(*[copy] * 1000)
    return queue


def written(driver):
    return driver.counters()["bytes_written"]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 7)])
def test_bytes_moved_are_shared_by_weight(bench, weights):
    drivers = [Driver(bench, weight=weight) for weight in weights]
    for driver in drivers:
        keep_busy(driver)
    for _ in range(1600):
        bench.parent.scheduler.step()
    total = sum(written(driver) for driver in drivers)
    for driver, weight in zip(drivers, weights, strict=True):
        assert written(driver) / total == pytest.approx(weight / sum(weights), abs=0.02)
        driver.close()


def test_more_queues_do_not_give_a_larger_share(pair):
    red, blue = pair
    for number in range(4):
        keep_busy(red, number)
    keep_busy(blue)
    for _ in range(800):
        red.bench.parent.scheduler.step()
    assert written(red) / written(blue) == pytest.approx(1, abs=0.05)


def test_weight_changed_while_both_work_counts_from_then_on(pair):
    red, blue = pair
    for driver in pair:
        keep_busy(driver)
    for _ in range(200):
        red.bench.parent.scheduler.step()
    before = written(red), written(blue)
    assert before[0] / before[1] == pytest.approx(1, abs=0.1)
    red.bench.parent.set_weight(red.mdev, 4)
    for _ in range(1000):
        red.bench.parent.scheduler.step()
    gained = [written(driver) - had for driver, had in zip(pair, before, strict=True)]
    assert gained[0] / gained[1] == pytest.approx(4, rel=0.05)


def test_small_commands_wait_for_a_few_pieces_of_the_neighbour_only(pair):
    red, blue = pair
    keep_busy(red)
    for _ in range(50):
        red.bench.parent.scheduler.step()
    queue = blue.queue(0)
    for _ in range(20):
        queue.submit(descriptor("nop"))
        steps = 0
        while not queue.reap():
            assert red.bench.parent.scheduler.step()
            steps += 1
        assert steps <= 4


def test_tenant_without_hbm_cannot_reach_another_s():
    kinds = [*BASE["type"], {"name": "small", "personality": "native"}]
    bench = Bench(BASE | {"type": kinds})
    rich, poor = Driver(bench), Driver(bench, "small")
    rich.run("fill", DESTINATION_HBM, length=PAGE, operand=2**64 - 1)
    done = poor.run("copy", SOURCE_HBM, source=0, destination=DATA, length=1)
    assert done.status == HBM_RANGE
    done = poor.run("copy", source=0xFFFF_8000_0000_0000, destination=DATA, length=8)
    assert done.status == READ_FAULT
    with pytest.raises(RequestError):
        bench.lend(poor.mdev, poor.ram, iova=0xFFFF_8000_0000_0000)
    for driver in (rich, poor):
        driver.close()
