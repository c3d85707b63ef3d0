"""An mdev comes to rest: what is under way ends, is put back, or keeps it from it."""

import errno

import pytest

from mdevemu.accel.rest import LIMIT_NS, PATIENCE_NS
from tests.support.bench import COMMAND, CONFIG, MEMORY_AND_BUS_MASTER
from tests.support.moving import stopped
from tests.support.native import AES_GCM, DATA, SQ_HEAD, SUCCESS, Driver, descriptor
from tests.unit.personalities.test_far_memory import alone


def rest(driver, patient=True):
    return stopped(driver.bench, driver.mdev, patient)


def begun(driver, *descriptors, pieces=3):
    """A queue in the middle of its first command."""
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.submit(*descriptors)
    for _ in range(pieces):
        driver.bench.parent.step()
    assert queue.peek() is None
    return queue


def test_command_under_way_ends_and_the_next_stays_in_the_ring():
    driver = Driver()
    queue = begun(
        driver,
        descriptor("fill", destination=DATA, length=0x5_0000, cookie=1),
        descriptor("nop", cookie=2),
    )
    assert rest(driver) is None
    assert [done.cookie for done in queue.reap()] == [1]
    driver.work()
    assert queue.peek() is None
    driver.mdev.function.migration.run()
    driver.work()
    assert [done.cookie for done in queue.reap()] == [2]


def test_command_that_takes_long_is_put_back_and_done_once():
    driver = Driver()
    queue = begun(
        driver, descriptor("copy", source=DATA, destination=DATA + 0x10_0000, length=0x10_0000)
    )
    assert rest(driver, patient=False) is None
    assert queue.get(SQ_HEAD) == 0
    assert queue.peek() is None
    assert driver.counters()["bytes_read"] == driver.counters()["bytes_written"] == 0
    driver.mdev.function.migration.run()
    driver.work()
    assert [done.status for done in queue.reap()] == [SUCCESS]
    assert driver.counters()["bytes_read"] == 0x10_0000


@pytest.mark.parametrize("distance", [0, 0x4000])
def test_command_whose_destination_is_its_source_is_not_put_back(distance):
    driver = Driver()
    driver.ram.write(DATA, bytes(range(256)) * 0x800)
    queue = begun(
        driver,
        descriptor("copy", source=DATA, destination=DATA + distance, length=0x8_0000),
    )
    assert rest(driver, patient=False) is None
    assert [done.status for done in queue.reap()] == [SUCCESS], "it ended by itself"


def test_command_whose_completion_is_on_its_way_is_not_put_back():
    driver, keeper = alone()
    driver.mdev.space.dirty.stop()
    queue = driver.queue(0)
    keeper.hold()
    queue.submit(descriptor("nop", cookie=1))
    driver.work()
    keeper.answer()  # the descriptor
    driver.work()
    told = []
    driver.mdev.function.migration.stop(told.append)
    driver.bench.skip(PATIENCE_NS)
    assert told == []
    while not told:
        keeper.answer()
        driver.work()
    assert told == [None]
    assert [done.cookie for done in queue.reap(tell=False)] == [1]
    driver.mdev.function.migration.run()
    driver.work()
    assert driver.counters()["completed"] == 1


def test_command_that_waits_for_its_client_is_put_back():
    driver, keeper = alone()
    queue = driver.queue(0)
    keeper.hold()
    queue.submit(descriptor("nop", cookie=1))
    driver.work()
    assert rest(driver, patient=False) is None
    late = keeper.held.pop(0)
    keeper.held = None
    late()
    driver.work()
    assert queue.peek() is None
    driver.mdev.function.migration.run()
    driver.work()
    assert [done.cookie for done in queue.reap()] == [1]


def test_alias_of_a_source_counts_as_the_source():
    driver = Driver()
    driver.bench.lend(driver.mdev, driver.ram, iova=0x100_0000)
    queue = begun(
        driver,
        descriptor("copy", source=DATA, destination=0x100_0000 + DATA, length=0x8_0000),
    )
    assert rest(driver, patient=False) is None
    assert len(queue.reap()) == 1


def test_command_that_reads_by_a_parameter_block_is_not_put_back():
    driver = Driver()
    key = AES_GCM.pack(16, 0, bytes(12), 0, bytes(32), 0)
    driver.ram.write(DATA - 0x1000, key)
    queue = begun(
        driver,
        descriptor(
            "aes_gcm_encrypt",
            source=DATA,
            destination=DATA + 0x10_0000,
            length=0x4_0000,
            capacity=0x5_0000,
            operand=DATA - 0x1000,
        ),
    )
    assert rest(driver, patient=False) is None
    assert [done.status for done in queue.reap()] == [SUCCESS]


def test_device_runs_on_if_a_command_can_neither_end_nor_be_put_back():
    driver = Driver()
    queue = begun(driver, descriptor("copy", source=DATA, destination=DATA, length=0x10_0000))
    told = []
    driver.mdev.function.migration.stop(told.append)
    driver.bench.skip(PATIENCE_NS)
    assert told == []
    driver.bench.skip(LIMIT_NS)
    assert [error.number for error in told] == [errno.EBUSY]
    queue.submit(descriptor("nop", cookie=2))
    driver.work()
    assert [done.cookie for done in queue.reap()] == [0, 2]


def test_doorbell_at_rest_is_remembered_and_nothing_happens_before_it_runs():
    driver = Driver()
    queue = driver.queue(0)
    assert rest(driver) is None
    before = driver.ram.read(0, driver.ram.size)
    queue.submit(descriptor("nop", cookie=1))
    driver.work()
    assert driver.ram.read(queue.cq, 0x1000) == before[queue.cq : queue.cq + 0x1000]
    driver.mdev.function.migration.run()
    driver.work()
    assert [done.cookie for done in queue.reap()] == [1]


def test_reset_at_rest_leaves_it_at_rest():
    driver = Driver()
    begun(driver, descriptor("fill", destination=DATA, length=0x10_0000))
    told = []
    driver.mdev.function.migration.stop(told.append)
    driver.mdev.function.reset()
    assert told == [None]
    driver.function.write(CONFIG, COMMAND, MEMORY_AND_BUS_MASTER)
    driver.write(0x20, 1, 4)
    queue = driver.queue(0)
    queue.submit(descriptor("nop"))
    driver.work()
    assert queue.peek() is None
    driver.mdev.function.migration.run()
    driver.work()
    assert len(queue.reap()) == 1


def test_two_who_want_rest_both_have_to_let_go():
    driver = Driver()
    migration = driver.mdev.function.migration
    assert rest(driver) is None
    migration.hold(lambda error: None)
    queue = driver.queue(0)
    queue.submit(descriptor("nop"))
    migration.run()
    driver.work()
    assert queue.peek() is None
    migration.release()
    driver.work()
    assert len(queue.reap()) == 1
