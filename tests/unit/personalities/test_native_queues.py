"""Rings of the native device: order, phases, event index, stalls."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mdevemu.accel import Reach
from tests.support.native import (
    CQ_TAIL,
    DATA,
    RUNNING,
    SQ_HEAD,
    STALLED,
    SUCCESS,
    UNKNOWN_OPERATION,
    Driver,
    descriptor,
)


@pytest.fixture
def driver():
    made = Driver()
    yield made
    made.close()


def nop(cookie=0):
    return descriptor("nop", cookie=cookie)


def long_copy():
    return descriptor("copy", length=1 << 20, source=DATA, destination=DATA + (1 << 20))


def test_completion_has_every_field(driver):
    queue = driver.queue(0)
    queue.submit(nop(), descriptor(77, cookie=0xFEED_FACE_CAFE_BEEF))
    driver.bench.work()
    _, done = queue.reap()
    assert done.cookie == 0xFEED_FACE_CAFE_BEEF
    assert (done.status, done.index, done.phase) == (UNKNOWN_OPERATION, 1, 1)
    assert (done.result, done.address, done.cause) == (0, 0, 0)


@pytest.mark.parametrize("event_index", [False, True])
@pytest.mark.parametrize("log2", [1, 2, 5])
def test_commands_complete_in_order_over_several_wraps(driver, log2, event_index):
    queue, seen = driver.queue(1, log2=log2, event_index=event_index), []
    sent = 0
    for count in [1, queue.entries, 1, 2, queue.entries, queue.entries, 1] * 3:
        queue.submit(*(nop(sent + n) for n in range(count)))
        sent += count
        driver.bench.work()
        seen += queue.reap()
    assert sent > 8 * queue.entries
    assert [done.cookie for done in seen] == list(range(sent))
    assert [done.index for done in seen] == list(range(sent))
    assert [done.phase for done in seen] == [1 - (n >> log2 & 1) for n in range(sent)]
    assert (queue.get(SQ_HEAD), queue.get(CQ_TAIL)) == (sent, sent)
    assert not driver.fault().valid


@pytest.mark.parametrize("event_index", [False, True])
@pytest.mark.parametrize("start", [2**32 - 3, 2**32 - 1, 2**16 - 2, 2**31 - 1])
def test_indices_wrap_around(driver, start, event_index):
    queue = driver.queue(0, log2=2, event_index=event_index)
    device = driver.mdev.personality.queues[0]
    device.ring.head = device.ring.tail = start
    device.completions.head = device.completions.tail = start
    queue.head = queue.tail = start
    if event_index:
        place = start.to_bytes(4, "little")
        driver.ram.write(queue.shadow, place * 3 + bytes(4))
    for pass_over in range(4):
        assert queue.peek() is None or pass_over or start & 4
        queue.submit(*(nop(pass_over) for _ in range(4)))
        driver.bench.work()
        done = queue.reap()
        first = start + 4 * pass_over
        assert [each.index for each in done] == [first + n & 0xFFFF for n in range(4)]
    assert queue.get(SQ_HEAD) == start + 16 & 0xFFFF_FFFF
    assert queue.state == RUNNING
    assert not driver.fault().valid


def test_largest_ring_works():
    driver = Driver(size=0x80_0000)
    queue = driver.queue(0, log2=12)
    queue.disable()
    queue.sq, queue.cq, queue.shadow = 0x40_0000, 0x50_0000, 0x60_0000
    queue.enable()
    queue.submit(*(nop(n) for n in range(4096)))
    driver.bench.work()
    done = queue.reap()
    assert [each.cookie for each in done] == list(range(4096))
    queue.submit(nop(7))
    driver.bench.work()
    assert [(each.cookie, each.phase) for each in queue.reap()] == [(7, 0)]
    driver.close()


def test_doorbell_does_no_work_itself(driver):
    queue = driver.queue(0)
    queue.submit(nop())
    assert queue.peek() is None
    assert driver.bench.parent.scheduler.busy


def test_only_announced_descriptors_are_executed(driver):
    queue = driver.queue(0)
    queue.write(nop(1), nop(2), nop(3))
    queue.doorbell(2)
    driver.bench.work()
    assert [done.cookie for done in queue.reap()] == [1, 2]


def test_descriptor_is_read_once(driver):
    queue = driver.queue(0, log2=2)
    queue.submit(long_copy())
    driver.bench.parent.scheduler.step()
    driver.ram.write(queue.sq, descriptor(99, cookie=5))
    driver.bench.work()
    assert [(done.status, done.cookie) for done in queue.reap()] == [(SUCCESS, 0)]


# A completion ring that is full.


def stalled(driver, **wanted):
    """A queue of 4 entries with 8 commands done or waiting, of which none was taken."""
    queue = driver.queue(0, log2=2, **wanted)
    queue.submit(*(nop(n) for n in range(4)))
    driver.bench.work()
    queue.submit(*(nop(n) for n in range(4, 8)))
    driver.bench.work()
    return queue


@pytest.mark.parametrize("event_index", [False, True])
def test_full_completion_ring_stalls_and_loses_nothing(driver, event_index):
    queue = stalled(driver, event_index=event_index)
    assert queue.state == STALLED
    assert (queue.get(SQ_HEAD), queue.get(CQ_TAIL)) == (4, 4)
    before = driver.ram.read(queue.cq, 32 * 4)
    queue.doorbell(8)
    driver.bench.work()
    assert queue.state == STALLED
    assert driver.ram.read(queue.cq, 32 * 4) == before
    assert not driver.fault().valid


def test_stall_ends_with_the_doorbell(driver):
    queue = stalled(driver)
    assert [done.cookie for done in queue.reap(tell=False)] == [0, 1, 2, 3]
    queue.took(1)
    driver.bench.work()
    assert queue.state == STALLED
    assert [done.cookie for done in queue.reap(tell=False)] == [4]
    queue.took(5)
    driver.bench.work()
    assert queue.state == RUNNING
    assert [done.cookie for done in queue.reap()] == [5, 6, 7]


def test_stall_with_event_index_ends_with_any_doorbell_once_the_shadow_says_so(driver):
    queue = stalled(driver, event_index=True)
    queue.reap(tell=True)
    driver.bench.work()
    assert queue.state == STALLED, "nobody told the device to look"
    queue.doorbell(8)
    driver.bench.work()
    assert queue.state == RUNNING
    assert [done.cookie for done in queue.reap()] == [4, 5, 6, 7]


def test_stall_with_event_index_ends_with_the_completion_doorbell(driver):
    queue = stalled(driver, event_index=True)
    queue.reap(tell=True)
    queue.took(4)
    driver.bench.work()
    assert [done.cookie for done in queue.reap()] == [4, 5, 6, 7]
    assert not driver.fault().valid


def test_driver_that_says_what_it_took_before_it_submits_never_stalls(driver):
    queue = driver.queue(0, log2=2, event_index=True)
    for first in range(0, 400, 4):
        queue.submit(*(nop(n) for n in range(first, first + 4)))
        driver.bench.work()
        assert queue.state == RUNNING
        assert [done.cookie for done in queue.reap()] == list(range(first, first + 4))


def test_reset_of_a_stalled_queue_forgets_what_waits(driver):
    queue = stalled(driver)
    queue.disable()
    driver.bench.work()
    queue.start()
    queue.enable()
    assert queue.state == RUNNING
    driver.bench.work()
    assert queue.peek() is None


# Event index.


def event(queue):
    return int.from_bytes(queue.ram.read(queue.shadow + 4, 4), "little")


def test_busy_queue_needs_no_doorbell(driver):
    queue = driver.queue(0, event_index=True)
    assert queue.submit(long_copy())
    for _ in range(3):
        driver.bench.parent.scheduler.step()
    assert not queue.submit(nop(1))
    assert not queue.submit(nop(2), nop(3))
    driver.bench.work()
    assert [done.cookie for done in queue.reap()] == [0, 1, 2, 3]
    assert driver.counters()["doorbells"] == 1


def test_idle_queue_asks_for_the_next_doorbell(driver):
    queue = driver.queue(0, event_index=True)
    for number in range(1, 40):
        assert queue.submit(nop())
        driver.bench.work()
        assert event(queue) == number
        queue.reap()
    assert driver.counters()["doorbells"] == 39


def test_device_writes_nothing_else_of_the_shadow_area(driver):
    queue = driver.queue(0, event_index=True)
    driver.ram.write(queue.shadow + 12, b"mine")
    queue.submit(nop())
    driver.bench.work()
    queue.reap()
    area = driver.ram.read(queue.shadow - 16, 48)
    assert area == bytes(16) + b"\1\0\0\0" * 3 + b"mine" + bytes(16)


def test_queue_without_event_index_leaves_the_shadow_area_alone(driver):
    queue = driver.queue(0)
    driver.ram.write(queue.shadow, b"\xff" * 16)
    queue.submit(nop())
    driver.bench.work()
    assert driver.ram.read(queue.shadow, 16) == b"\xff" * 16
    assert queue.state == RUNNING


class Watched:
    """A port that lets the driver act just behind a write of the device to a certain place."""

    def __init__(self, port, place, act):
        self._port, self._place, self._act = port, place, act

    def __getattr__(self, name):
        return getattr(self._port, name)

    def write(self, iova, data):
        self._port.write(iova, data)
        if iova == self._place:
            self._act()


def test_submission_between_event_index_and_last_look_is_not_lost(driver):
    """The driver sees an old event index, rings nothing, and the device must find its tail."""
    queue = driver.queue(0, event_index=True)
    device = driver.mdev.personality
    pending = [nop(2), nop(3)]

    def slip_in():
        if pending:
            queue.write(pending.pop(0))
            driver.ram.write(queue.shadow, queue.tail.to_bytes(4, "little"))

    behind = device.queues[0]
    behind._memory = Reach(Watched(device.port, queue.shadow + 4, slip_in), behind.lane)
    queue.submit(nop(1))
    driver.bench.work()
    assert [done.cookie for done in queue.reap()] == [1, 2, 3]
    assert driver.counters()["doorbells"] == 1


class EventIndex(RuleBasedStateMachine):
    """A driver that follows the rule, and a device that works a piece at a time: all gets done."""

    def __init__(self):
        super().__init__()
        self.driver = Driver(size=0x20_0000)
        self.queue = self.driver.queue(0, log2=3, event_index=True)
        self.sent = self.got = 0

    @property
    def outstanding(self):
        return self.sent - self.got

    @precondition(lambda self: self.outstanding < 8)
    @rule(data=st.data())
    def submit(self, data):
        count = data.draw(st.integers(1, 8 - self.outstanding))
        self.queue.submit(*(nop(self.sent + n) for n in range(count)))
        self.sent += count

    @rule(pieces=st.integers(1, 12))
    def work(self, pieces):
        for _ in range(pieces):
            self.driver.bench.parent.scheduler.step()

    @rule()
    def reap(self):
        for done in self.queue.reap():
            assert (done.cookie, done.status) == (self.got, SUCCESS)
            self.got += 1

    @rule()
    def idle(self):
        self.driver.bench.work()
        self.reap()
        assert self.outstanding == 0, "a command was forgotten"
        assert self.queue.state == RUNNING

    @invariant()
    def no_fault(self):
        assert not self.driver.fault().valid

    def teardown(self):
        self.idle()
        self.driver.close()


TestEventIndex = EventIndex.TestCase
TestEventIndex.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


# Several queues.


def test_queues_of_a_slice_take_turns(driver):
    first, second = driver.queue(0), driver.queue(1)
    first.submit(*[long_copy()] * 4)
    second.submit(*[long_copy()] * 4)
    order = []
    while driver.bench.parent.scheduler.step():
        order += [name for name, queue in (("a", first), ("b", second)) for _ in queue.reap()]
    assert "".join(order) == "abababab"


def test_long_command_of_one_queue_does_not_delay_another(driver):
    slow, quick = driver.queue(0), driver.queue(1)
    slow.submit(long_copy())
    driver.bench.parent.scheduler.step()
    quick.submit(nop())
    for _ in range(4):
        driver.bench.parent.scheduler.step()
    assert quick.peek()
    assert slow.peek() is None


def test_failure_of_one_queue_does_not_touch_another(driver):
    failing, healthy = driver.queue(0), driver.queue(1)
    failing.disable()
    failing.sq = 1 << 40
    failing.enable()
    failing.doorbell(1)
    healthy.submit(*(nop(n) for n in range(5)))
    driver.bench.work()
    assert driver.fault().queue == 0
    assert [done.cookie for done in healthy.reap()] == [0, 1, 2, 3, 4]
    assert healthy.state == RUNNING


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=20))
def test_every_queue_completes_its_own_commands_in_order(batches):
    driver = Driver(size=0x20_0000)
    queues = [driver.queue(number, log2=2) for number in range(4)]
    sent, got = [0] * 4, [[] for _ in range(4)]
    for number, count in batches:
        queues[number].submit(*(nop(sent[number] + n) for n in range(count)))
        sent[number] += count
        driver.bench.work()
        got[number] += [done.cookie for done in queues[number].reap()]
    assert got == [list(range(count)) for count in sent]
    driver.close()
