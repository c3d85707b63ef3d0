"""Engines that become something else while tenants use them."""

import pytest

from mdevemu.accel.engine import Policy, Program, coded
from mdevemu.errors import ConfigError
from tests.support.bench import ALL, BASE, Bench
from tests.support.ioat import DATA as IOAT_DATA
from tests.support.ioat import HALTED, IDLE
from tests.support.ioat import Driver as Ioat
from tests.support.native import (
    ABORTED,
    CODE,
    DATA,
    EVENT_STATUS,
    FUNCTION_SET,
    OPERATION_BITS,
    REJECTED,
    SUCCESS,
    UNKNOWN_OPERATION,
    Driver,
    descriptor,
)

PIECES = 8
LONG = {"length": PIECES << 16, "source": DATA, "destination": DATA + (1 << 20)}
"""A copy of eight pieces."""


def two():
    """An accelerator whose engines not every slice has."""
    return {
        **BASE,
        "engine": [
            {"name": "dma0", "operations": ["nop", "copy", "fill"]},
            {"name": "other", "operations": ["crc32c"]},
        ],
        "type": [
            {"name": "native", "personality": "native", "hbm": "2MiB", "queues": 4},
            {"name": "ioat", "personality": "ioat"},
            {"name": "elsewhere", "hbm": "2MiB", "engines": ["other"]},
        ],
    }


class Lab:
    """An accelerator of two engines, with drivers, and a way to reprogram the first."""

    def __init__(self):
        self.bench = Bench(two())
        self.engine = self.bench.parent.engines.all[0]
        self.changes = 0
        self.drivers = []

    def driver(self, kind="native"):
        made = Driver(self.bench, kind)
        made.interrupts = []
        made.mdev.personality.interrupt = made.interrupts.append
        self.drivers.append(made)
        return made

    def changed(self):
        self.changes += 1
        for mdev in self.bench.parent.mdevs.values():
            if self.engine in mdev.personality.slice.engines.all:
                mdev.personality.functions_changed()

    def reprogram(self, *names, policy=Policy.DRAIN):
        return self.engine.reprogram(Program(coded(names), policy, self.changed))

    def pieces(self, count):
        for _ in range(count):
            self.bench.parent.step()

    def close(self):
        for driver in self.drivers:
            driver.close()


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def operations(driver):
    """What the device says it can do."""
    bits = driver.read(OPERATION_BITS)
    return {name for name, code in CODE.items() if bits >> code & 1}


def statuses(queue):
    return [(done.cookie, done.status) for done in queue.reap()]


def begin(lab, driver, *more, number=0):
    """A queue that is in the midst of a long copy, with more commands behind it."""
    driver.ram.write(DATA, bytes(range(256)) * (PIECES << 8))
    queue = driver.queue(number, interrupt=True, vector=1)
    queue.submit(descriptor("copy", cookie=1, **LONG), *more)
    lab.pieces(3)
    assert lab.engine.running == 1
    return queue


def test_idle_engine_changes_at_once_and_its_drivers_are_told(lab):
    driver, elsewhere = lab.driver(), lab.driver("elsewhere")
    before = elsewhere.read(FUNCTION_SET, 4), elsewhere.read(OPERATION_BITS)
    assert operations(driver) == {"nop", "copy", "fill", "crc32c", "chain"}
    lab.reprogram("sha256")
    assert lab.changes == 1
    assert operations(driver) == {"sha256", "crc32c", "chain"}
    assert (driver.read(FUNCTION_SET, 4), driver.read(EVENT_STATUS, 4)) == (1, 1)
    assert driver.interrupts == [0]
    driver.write(EVENT_STATUS, 1, 4)
    assert driver.read(EVENT_STATUS, 4) == 0
    assert driver.run("copy", length=8).status == UNKNOWN_OPERATION
    assert driver.run("sha256", length=8, capacity=32, destination=DATA).status == SUCCESS
    # Whoever does not have the engine notices nothing.
    assert (elsewhere.read(FUNCTION_SET, 4), elsewhere.read(OPERATION_BITS)) == before
    assert (elsewhere.read(EVENT_STATUS, 4), elsewhere.interrupts) == (0, [])


def test_reset_forgets_the_event_and_keeps_the_version(lab):
    driver = lab.driver()
    lab.reprogram("fill")
    driver.write(0x20, 2, 4)
    assert (driver.read(FUNCTION_SET, 4), driver.read(EVENT_STATUS, 4)) == (1, 0)
    assert operations(driver) == {"fill", "crc32c", "chain"}


def test_draining_engine_ends_what_runs_and_what_comes_waits_for_the_change(lab):
    driver = lab.driver()
    queue = begin(lab, driver, descriptor("nop", cookie=2), descriptor("fill", cookie=3))
    second = driver.queue(1)
    lab.reprogram("fill", "sha256")
    second.submit(descriptor("fill", cookie=4, length=8, destination=DATA))
    lab.pieces(4)
    assert (lab.changes, lab.engine.running, second.reap()) == (0, 1, [])
    assert "copy" in operations(driver), "it is what it was, until it changes"
    lab.bench.work()
    assert statuses(queue) == [(1, SUCCESS), (2, UNKNOWN_OPERATION), (3, SUCCESS)]
    assert statuses(second) == [(4, SUCCESS)]
    copied = driver.ram.read(LONG["destination"], LONG["length"])
    assert copied == bytes(range(256)) * (PIECES << 8)
    assert lab.changes == 1


def test_waiting_command_uses_another_engine_that_can_do_it(lab):
    driver = lab.driver()
    begin(lab, driver)
    lab.reprogram("fill")
    other = driver.queue(1)
    other.submit(descriptor("crc32c", cookie=5, length=8, source=DATA))
    lab.pieces(5)
    assert statuses(other) == [(5, SUCCESS)]
    assert lab.changes == 0


def test_rejecting_engine_ends_what_runs_and_refuses_what_comes(lab):
    driver = lab.driver()
    queue = begin(lab, driver)
    second = driver.queue(1)
    lab.reprogram("copy", "fill", policy=Policy.REJECT)
    second.submit(descriptor("fill", cookie=4, length=8, destination=DATA))
    lab.pieces(3)
    assert statuses(second) == [(4, REJECTED)]
    assert lab.changes == 0
    lab.bench.work()
    assert statuses(queue) == [(1, SUCCESS)]
    second.submit(descriptor("fill", cookie=5, length=8, destination=DATA))
    lab.bench.work()
    assert statuses(second) == [(5, SUCCESS)]


def test_killing_aborts_each_command_once_and_nothing_more_is_written(lab):
    driver, neighbour = lab.driver(), lab.driver()
    queue = begin(lab, driver, descriptor("fill", cookie=2, length=8, destination=DATA))
    other = begin_second(lab, neighbour)
    assert lab.reprogram("fill", policy=Policy.KILL) == lab.changes + 1 == 2
    written = driver.ram.read(LONG["destination"], LONG["length"])
    assert lab.engine.running == 0
    lab.bench.work()
    assert driver.ram.read(LONG["destination"], LONG["length"]) == written
    assert statuses(queue) == [(1, ABORTED), (2, SUCCESS)]
    assert statuses(other) == [(1, ABORTED)]
    assert driver.counters()["completed"] == 2
    assert driver.interrupts.count(1) == 2


def begin_second(lab, driver):
    """Another tenant in the midst of a copy, too."""
    queue = driver.queue(0)
    queue.submit(descriptor("copy", cookie=1, **LONG))
    while lab.engine.running < 2:
        lab.pieces(1)
    return queue


def test_second_change_waits_for_its_turn_and_kill_ends_the_first(lab):
    driver = lab.driver()
    queue = begin(lab, driver, descriptor("sha256", cookie=2, capacity=32, destination=DATA))
    lab.reprogram("fill")
    with pytest.raises(ConfigError, match="dma0 is being reprogrammed") as refused:
        lab.reprogram("nop")
    assert refused.value.number == 16  # EBUSY
    assert lab.reprogram("sha256", policy=Policy.KILL) == 1
    lab.bench.work()
    assert statuses(queue) == [(1, ABORTED), (2, SUCCESS)]
    assert (lab.changes, lab.engine.version) == (1, 1)


@pytest.mark.parametrize("how", ["reset", "remove", "disable"])
def test_command_that_is_dropped_lets_the_engine_change(lab, how):
    driver = lab.driver()
    queue = begin(lab, driver)
    lab.reprogram("fill")
    match how:
        case "reset":
            driver.write(0x20, 2, 4)
        case "remove":
            lab.bench.parent.remove(driver.mdev)
        case "disable":
            queue.disable()
    assert (lab.changes, lab.engine.running, lab.engine.functions) == (1, 0, ["fill"])
    lab.bench.work()


def test_waiting_queue_that_is_reset_waits_no_more(lab):
    driver, neighbour = lab.driver(), lab.driver()
    begin(lab, driver)
    lab.reprogram("fill")
    queue = neighbour.queue(0)
    queue.submit(descriptor("fill", cookie=1, length=8, destination=DATA))
    lab.pieces(3)
    neighbour.write(0x20, 2, 4)
    lab.bench.work()
    assert (lab.changes, queue.reap()) == (1, [])


def test_device_at_rest_is_told_when_it_goes_on(lab):
    driver = lab.driver()
    rest = driver.mdev.personality.rest
    rest.stop("test", lambda _: None)
    lab.reprogram("fill")
    assert (driver.interrupts, driver.read(EVENT_STATUS, 4)) == ([], 1)
    rest.run("test")
    assert driver.interrupts == [0]


def test_command_put_back_at_rest_is_done_by_the_new_program(lab):
    driver = lab.driver()
    queue = begin(lab, driver)
    lab.reprogram("copy", "sha256")
    second = driver.queue(1)
    second.submit(descriptor("fill", cookie=4, length=8, destination=DATA))
    lab.pieces(3)
    rest = driver.mdev.personality.rest
    rest.stop("test", lambda _: None)
    for lane in driver.mdev.personality.lanes:
        lane.put_back()
    assert lab.changes == 1
    rest.run("test")
    lab.bench.work()
    assert statuses(queue) == [(1, SUCCESS)]
    assert statuses(second) == [(4, UNKNOWN_OPERATION)]


def test_ioat_channel_waits_for_the_change_or_halts(lab):
    driver = Ioat(bench=lab.bench, mdev=lab.bench.mdev("ioat"))
    lab.drivers.append(driver)
    driver.enable()
    busy = begin(lab, lab.driver())
    lab.reprogram("copy")
    driver.ram.write(IOAT_DATA, b"gold" * 16)
    driver.descriptor()
    driver.ring_doorbell()
    lab.pieces(2)
    lab.bench.work()
    assert (statuses(busy), driver.state) == ([(1, SUCCESS)], IDLE)
    assert driver.ram.read(IOAT_DATA + 0x1000, 64) == b"gold" * 16
    lab.reprogram("fill")
    driver.submit()
    assert (driver.state, driver.errors) == (HALTED, 1 << 10)


def test_names_of_operations_are_those_that_there_are():
    assert {each.name.lower() for each in coded(ALL)} == {*ALL}
