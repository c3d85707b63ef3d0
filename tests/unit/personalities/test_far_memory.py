"""Commands on memory that the VMM keeps to itself: asked for by message, and never waited for."""

import hashlib

import pytest

from mdevemu.accel.reach import ANSWER_LIMIT_NS
from mdevemu.iommu import Cause
from tests.support.bench import Bench
from tests.support.native import (
    COMPLETION_WRITE,
    FAILED,
    READ_FAULT,
    RING_READ,
    RUNNING,
    SHADOW_ACCESS,
    SOURCE_HBM,
    STALLED,
    SUCCESS,
    WRITE_FAULT,
    Driver,
    descriptor,
)

FAR = 0x1000_0000
"""Where memory without a file begins, for a guest that has some of both kinds."""

SIZE = 0x40_0000


class Keeper:
    """A client that is asked for its bytes: at once, or when the test says so."""

    def __init__(self, ram, base=0, largest=0x1_0000):
        self.ram, self.base, self.largest = ram, base, largest
        self.asked = []
        self.held = None
        self.refuse = lambda iova, write: False

    def fetch(self, iova, length, done):
        assert 0 < length <= self.largest
        self._do("read", iova, length, done, lambda: self.ram.read(iova - self.base, length))

    def store(self, iova, data, done):
        assert 0 < len(data) <= self.largest
        held = bytes(data)

        def put():
            self.ram.write(iova - self.base, held)
            return b""

        self._do("write", iova, len(held), done, put)

    def _do(self, what, iova, length, done, act):
        self.asked.append((what, iova, length))
        refused = self.refuse(iova, what == "write")

        def answer():
            done(None if refused else act())

        if self.held is None:
            answer()
        else:
            self.held.append(answer)

    def hold(self):
        """Answer nothing until told to."""
        self.held = []

    def answer(self):
        """Answer the oldest question."""
        self.held.pop(0)()


def alone(**wanted):
    """A guest all of whose memory is far, and who keeps it."""
    driver = Driver(start=False, **wanted)
    driver.mdev.space.clear()
    keeper = Keeper(driver.ram)
    driver.mdev.space.attach(keeper)
    driver.mdev.space.map(0, SIZE, None, 0, readable=True, writable=True)
    driver.write(0x20, 1, 4)
    return driver, keeper


@pytest.fixture
def mixed():
    """A guest with its rings in lent memory, and far memory from FAR on."""
    driver = Driver()
    keeper = Keeper(driver.ram, FAR)
    driver.mdev.space.attach(keeper)
    driver.mdev.space.map(FAR, SIZE, None, 0, readable=True, writable=True)
    return driver, keeper


def content(length):
    return hashlib.shake_256(b"far").digest(length)


def test_commands_complete_with_rings_and_operands_far():
    driver, keeper = alone()
    driver.ram.write(0x20_0000, content(200_000))
    queue = driver.queue(1, log2=2)
    for number in range(20):
        length = 10_000 * number + number
        queue.submit(
            descriptor(
                "copy", source=0x20_0000, destination=0x30_0000, length=length, cookie=number
            )
        )
        driver.work()
        [done] = queue.reap()
        assert (done.cookie, done.status, done.result) == (number, SUCCESS, length)
        assert driver.ram.read(0x30_0000, length) == content(length)
    assert not driver.bench.faults()
    assert {what for what, _, _ in keeper.asked} == {"read", "write"}


@pytest.mark.parametrize("name", ["fill", "compare", "crc32c", "sha256", "deflate"])
def test_result_is_the_same_as_of_lent_memory(mixed, name):
    driver, _ = mixed
    near = 0x30_0000
    wanted = {"source": 0x21_0000, "length": 70_000, "destination": near, "capacity": 0x4_0000}
    wanted["operand"] = 0x21_0000 if name == "compare" else 0x1234
    driver.ram.write(0x21_0000, content(70_000))
    first = driver.run(name, **wanted)
    written = driver.ram.read(near, 0x4_0000)
    driver.ram.write(near, bytes(0x4_0000))
    far = {key: value + FAR if value >= 0x20_0000 else value for key, value in wanted.items()}
    second = driver.run(name, **far)
    assert (second.status, second.result) == (SUCCESS, first.result)
    assert driver.ram.read(near, 0x4_0000) == written


def test_parameter_block_and_what_it_points_to_may_be_far(mixed):
    driver, _ = mixed
    from tests.support.native import AES_GCM

    key, aad, text = content(32), content(100), content(5000)
    block = AES_GCM.pack(32, len(aad), content(12), 0, key, FAR + 0x22_0000)
    driver.ram.write(0x21_0000, block)
    driver.ram.write(0x22_0000, aad)
    driver.ram.write(0x23_0000, text)
    there = {"operand": FAR + 0x21_0000, "capacity": 0x1_0000}
    sealed = driver.run(
        "aes_gcm_encrypt",
        source=FAR + 0x23_0000,
        destination=FAR + 0x24_0000,
        length=len(text),
        **there,
    )
    assert (sealed.status, sealed.result) == (SUCCESS, len(text) + 16)
    opened = driver.run(
        "aes_gcm_decrypt",
        source=FAR + 0x24_0000,
        destination=FAR + 0x25_0000,
        length=len(text) + 16,
        **there,
    )
    assert (opened.status, opened.result) == (SUCCESS, len(text))
    assert driver.ram.read(0x25_0000, len(text)) == text


def test_hbm_and_far_memory_copy_both_ways(mixed):
    driver, _ = mixed
    driver.ram.write(0x21_0000, content(100_000))
    there = driver.run("copy", 2, source=FAR + 0x21_0000, destination=0x1000, length=100_000)
    back = driver.run(
        "copy", SOURCE_HBM, source=0x1000, destination=FAR + 0x31_0000, length=100_000
    )
    assert there.status == back.status == SUCCESS
    assert driver.ram.read(0x31_0000, 100_000) == content(100_000)


@pytest.mark.parametrize("largest", [1, 7, 4096])
def test_client_is_asked_for_no_more_than_it_takes_at_a_time(mixed, largest):
    driver, keeper = mixed
    keeper.largest = largest
    count = 50 * largest + 3
    driver.ram.write(0x21_0000, content(count))
    done = driver.run("copy", source=FAR + 0x21_0000, destination=FAR + 0x31_0000, length=count)
    assert done.status == SUCCESS
    assert driver.ram.read(0x31_0000, count) == content(count)
    assert len(keeper.asked) == 2 * -(-count // largest)


def test_operand_that_begins_in_lent_and_ends_in_far_memory():
    driver = Driver()
    keeper = Keeper(driver.ram)
    driver.mdev.space.attach(keeper)
    driver.mdev.space.map(SIZE, 0x1000, None, 0, readable=True, writable=True)
    keeper.base = 0x1000  # the far page shows the last but one of the RAM
    driver.ram.write(SIZE - 0x1000, b"B" * 0x1000)
    driver.ram.write(SIZE - 0x800, b"A" * 0x800)
    done = driver.run("copy", source=SIZE - 0x800, destination=0x30_0000, length=0x1000)
    assert done.status == SUCCESS
    assert driver.ram.read(0x30_0000, 0x1000) == b"A" * 0x800 + b"B" * 0x800


# Waiting


def test_nothing_is_done_inside_the_guests_access_and_others_go_on_while_one_waits(mixed):
    driver, keeper = mixed
    keeper.hold()
    slow, quick = driver.queue(0), driver.queue(1)
    slow.submit(descriptor("crc32c", source=FAR, length=100, cookie=1))
    assert keeper.asked == []
    driver.work()
    assert keeper.asked == [("read", FAR, 100)]
    quick.submit(descriptor("nop", cookie=2))
    driver.work()
    assert [done.cookie for done in quick.reap()] == [2]
    assert slow.reap() == []
    keeper.answer()
    driver.work()
    assert [done.cookie for done in slow.reap()] == [1]


def test_refused_read_is_a_read_fault_of_the_command(mixed):
    driver, keeper = mixed
    keeper.refuse = lambda iova, write: True
    done = driver.run("crc32c", source=FAR + 0x1000, length=100)
    assert (done.status, done.address) == (READ_FAULT, FAR + 0x1000)
    assert done.cause == Cause.READ_ACCESS_FAULT
    assert not driver.bench.faults(), "the IOMMU allowed it"


def test_refused_write_is_a_write_fault_of_the_command(mixed):
    driver, keeper = mixed
    keeper.refuse = lambda iova, write: write and iova >= FAR + 0x1_0000
    done = driver.run("fill", destination=FAR, length=0x3_0000)
    assert (done.status, done.address) == (WRITE_FAULT, FAR + 0x1_0000)
    assert done.cause == Cause.WRITE_AMO_ACCESS_FAULT


def test_client_that_does_not_answer_costs_its_command_and_nothing_more(mixed):
    driver, keeper = mixed
    keeper.hold()
    queue = driver.queue(0)
    queue.submit(descriptor("crc32c", source=FAR, length=100), descriptor("nop"))
    driver.work()
    driver.bench.skip(ANSWER_LIMIT_NS)
    driver.work()
    assert [done.status for done in queue.reap()] == [READ_FAULT, SUCCESS]
    keeper.answer()
    driver.work()
    assert queue.reap() == []


def test_reset_forgets_a_command_that_waits_and_its_answer_wakes_nobody(mixed):
    driver, keeper = mixed
    keeper.hold()
    queue = driver.queue(0)
    queue.submit(descriptor("crc32c", source=FAR, length=100))
    driver.work()
    driver.mdev.function.reset()
    keeper.answer()
    driver.work()
    driver.mdev.function.write(7, 4, b"\x06\x00")
    driver.write(0x20, 1, 4)
    keeper.held = None
    assert driver.run("crc32c", source=FAR, length=100).status == SUCCESS


def test_window_that_goes_while_a_command_waits_is_not_asked_for_again(mixed):
    driver, keeper = mixed
    keeper.largest = 4096
    keeper.hold()
    queue = driver.queue(0)
    queue.submit(descriptor("crc32c", source=FAR, length=0x3000))
    driver.work()
    driver.mdev.space.unmap(FAR, SIZE)
    keeper.answer()
    driver.work()
    [done] = queue.reap()
    assert (done.status, done.address) == (READ_FAULT, FAR + 0x1000)
    assert len(keeper.asked) == 1


def test_client_that_leaves_takes_its_memory_along(mixed):
    driver, _ = mixed
    driver.mdev.space.clear()
    driver.mdev.space.attach(None)
    driver.bench.lend(driver.mdev, driver.ram)
    driver.mdev.space.map(FAR, SIZE, None, 0, readable=True, writable=True)
    done = driver.run("crc32c", source=FAR, length=100)
    assert (done.status, done.cause) == (READ_FAULT, Cause.READ_PAGE_FAULT)


# What the IOMMU says


def test_read_only_far_memory_is_not_written(mixed):
    driver, keeper = mixed
    driver.mdev.space.map(2 * FAR, 0x2000, None, 0, readable=True, writable=False)
    done = driver.run("fill", destination=2 * FAR, length=100)
    assert (done.status, done.cause) == (WRITE_FAULT, Cause.WRITE_AMO_PAGE_FAULT)
    assert keeper.asked == []


def test_write_that_begins_far_and_ends_nowhere_asks_for_nothing(mixed):
    driver, keeper = mixed
    done = driver.run("fill", destination=FAR + SIZE - 64, length=128)
    assert (done.status, done.address) == (WRITE_FAULT, FAR + SIZE)
    assert keeper.asked == []


def test_each_mdev_asks_its_own_client():
    bench = Bench()
    drivers = [Driver(bench) for _ in range(2)]
    keepers = []
    for driver in drivers:
        keepers.append(Keeper(driver.ram, FAR))
        driver.mdev.space.attach(keepers[-1])
        driver.mdev.space.map(FAR, SIZE, None, 0, readable=True, writable=True)
    drivers[0].ram.write(0x21_0000, b"red" * 100)
    drivers[1].ram.write(0x21_0000, b"blu" * 100)
    for driver, word in zip(drivers, (b"red", b"blu"), strict=True):
        done = driver.run("copy", source=FAR + 0x21_0000, destination=0x30_0000, length=300)
        assert done.status == SUCCESS
        assert driver.ram.read(0x30_0000, 300) == word * 100
    assert [len(keeper.asked) for keeper in keepers] == [1, 1]


def test_mdev_that_goes_leaves_its_place_to_the_next():
    bench = Bench()
    for _ in range(600):
        mdev = bench.mdev("native")
        mdev.space.attach(Keeper(None))
        mdev.space.map(FAR, 0x1000, None, 0, readable=True, writable=True)
        bench.parent.remove(mdev)


# Rings


def test_ring_that_the_client_does_not_give_fails_its_queue():
    driver, keeper = alone()
    queue = driver.queue(0)
    keeper.refuse = lambda iova, write: not write
    queue.submit(descriptor("nop"))
    driver.work()
    assert (queue.state, queue.fault_code) == (FAILED, RING_READ)


def test_record_that_the_client_does_not_take_fails_its_queue():
    driver, keeper = alone()
    queue = driver.queue(0)
    keeper.refuse = lambda iova, write: write
    queue.submit(descriptor("nop"))
    driver.work()
    assert (queue.state, queue.fault_code) == (FAILED, COMPLETION_WRITE)


def test_shadow_area_that_the_client_does_not_give_fails_its_queue():
    driver, keeper = alone()
    queue = driver.queue(0, event_index=True)
    keeper.refuse = lambda iova, write: queue.shadow <= iova < queue.shadow + 16
    queue.submit(descriptor("nop"))
    driver.work()
    assert (queue.state, queue.fault_code) == (FAILED, SHADOW_ACCESS)


def test_doorbell_that_rings_while_the_last_look_is_on_its_way_is_not_undone():
    driver, keeper = alone()
    queue = driver.queue(0, event_index=True)
    queue.submit(descriptor("nop", cookie=1))
    keeper.hold()
    driver.work()
    while keeper.asked[-1] != ("read", queue.shadow, 16):
        keeper.answer()
        driver.work()
    data = driver.ram.read(queue.shadow, 16)  # what the client will have read by then
    keeper.held = [lambda done=keeper.held[0]: stale(driver, queue, data, done)]
    queue.write(descriptor("nop", cookie=2))
    driver.ram.write(queue.shadow, queue.tail.to_bytes(4, "little"))
    queue.doorbell(queue.tail)
    keeper.answer()
    keeper.held = None
    driver.work()
    assert [done.cookie for done in queue.reap()] == [1, 2]


def stale(driver, queue, data, answer):
    """Answer with what was there before."""
    now = driver.ram.read(queue.shadow, 16)
    driver.ram.write(queue.shadow, data)
    answer()
    driver.ram.write(queue.shadow, now)


def test_doorbell_that_rings_while_room_is_looked_for_is_not_lost():
    driver, keeper = alone()
    queue = driver.queue(0, log2=1, event_index=True)
    queue.submit(descriptor("nop", cookie=1), descriptor("nop", cookie=2))
    driver.work()
    assert queue.state == RUNNING
    queue.write(descriptor("nop", cookie=3))
    keeper.hold()
    queue.doorbell(queue.tail)
    driver.work()
    data = driver.ram.read(queue.shadow, 16)
    held = keeper.held.pop()
    assert keeper.asked[-1] == ("read", queue.shadow, 16)
    assert len(queue.reap()) == 2  # the shadow area says so now
    queue.doorbell(queue.tail)
    stale(driver, queue, data, held)
    keeper.held = None
    driver.work()
    assert queue.state != STALLED
    assert [done.cookie for done in queue.reap()] == [3]
