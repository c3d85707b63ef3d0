"""Interrupts of the native device, as a VMM hands them on: MSI-X messages and the INTx line."""

import os

import pytest

from mdevemu.errors import RequestError
from tests.support.bench import CONFIG, MEMORY_AND_BUS_MASTER
from tests.support.native import INTERRUPT_STATUS, NO_INTERRUPT, Driver, descriptor
from tests.unit.pci import Listener

INTX, MSIX = 0, 2
MSIX_CONTROL, MSIX_ENABLE, FUNCTION_MASK = 0x92, 1 << 15, 1 << 14
STATUS, INTERRUPT_PENDING = 0x06, 1 << 3
INTERRUPT_DISABLE = b"\x06\x04"
PENDING = 0x800


@pytest.fixture
def driver():
    made = Driver()
    yield made
    made.function.disconnect()
    made.close()


@pytest.fixture
def vectors(driver):
    """Listeners for every MSI-X vector."""
    made = [Listener() for _ in range(5)]
    driver.function.assign(MSIX, 0, [each.lend() for each in made])
    return made


@pytest.fixture
def line(driver):
    """A listener for INTx."""
    made = Listener()
    driver.function.assign(INTX, 0, [made.lend()])
    return made


def counts(vectors):
    return [each.count() for each in vectors]


def nops(count, flags=0):
    return [descriptor("nop", flags)] * count


def test_each_completion_signals_the_queue_s_vector(driver, vectors):
    first = driver.queue(0, interrupt=True, vector=1)
    second = driver.queue(1, interrupt=True, vector=4)
    first.submit(*nops(3))
    second.submit(*nops(2))
    driver.bench.work()
    assert counts(vectors) == [0, 3, 0, 0, 2]
    assert driver.counters()["interrupts"] == 5
    assert driver.read(INTERRUPT_STATUS) == 0


def test_completion_is_in_memory_before_its_interrupt(driver, vectors):
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.submit(*nops(5))
    seen = 0
    while driver.bench.parent.scheduler.step():
        seen += vectors[1].count()
        assert len(queue.reap(tell=False)) + queue.head >= seen
    assert seen == queue.head == 5


def test_queues_may_share_a_vector(driver, vectors):
    for number in range(3):
        driver.queue(number, interrupt=True, vector=2).submit(*nops(2))
    driver.bench.work()
    assert counts(vectors) == [0, 0, 6, 0, 0]


def test_queue_without_interrupts_signals_nothing(driver, vectors):
    driver.queue(0, interrupt=False, vector=1).submit(*nops(3))
    driver.bench.work()
    assert counts(vectors) == [0] * 5


def test_command_that_wants_no_interrupt_gets_none(driver, vectors):
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.submit(*nops(3, NO_INTERRUPT), *nops(1), descriptor(99, NO_INTERRUPT))
    driver.bench.work()
    assert len(queue.reap()) == 5
    assert counts(vectors) == [0, 1, 0, 0, 0]


def test_fault_signals_vector_zero(driver, vectors):
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.doorbell(99)
    driver.write(0x3000, 1, 4, bar=2)
    assert counts(vectors) == [2, 0, 0, 0, 0]


def test_vector_without_eventfd_waits_until_it_has_one(driver):
    other, mine = Listener(), Listener()
    driver.function.assign(MSIX, 0, [other.lend()])
    driver.queue(0, interrupt=True, vector=3).submit(*nops(2))
    driver.bench.work()
    assert driver.read(PENDING, bar=1) == 1 << 3
    driver.function.assign(MSIX, 3, [mine.lend()])
    assert (mine.count(), other.count()) == (1, 0)
    assert driver.read(PENDING, bar=1) == 0


def test_masked_function_holds_messages_back(driver, vectors):
    driver.function.write(CONFIG, MSIX_CONTROL, (MSIX_ENABLE | FUNCTION_MASK).to_bytes(2, "little"))
    driver.queue(0, interrupt=True, vector=1).submit(*nops(2))
    driver.bench.work()
    assert counts(vectors) == [0] * 5
    driver.function.write(CONFIG, MSIX_CONTROL, MSIX_ENABLE.to_bytes(2, "little"))
    assert counts(vectors) == [0, 1, 0, 0, 0]


def test_taking_an_eventfd_away_ends_its_signals(driver, vectors):
    driver.function.assign(MSIX, 1, [None])
    driver.queue(0, interrupt=True, vector=1).submit(*nops(2))
    driver.bench.work()
    assert counts(vectors) == [0] * 5


def test_vmm_that_does_not_read_its_eventfd_delays_nothing(driver):
    full = Listener(flags=0)
    with full.lend() as end:
        os.eventfd_write(end.fileno(), 2**64 - 2)
    driver.function.assign(MSIX, 1, [full.lend()])
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.submit(*nops(5))
    driver.bench.work()
    assert len(queue.reap()) == 5


def test_vectors_beyond_those_that_exist_are_refused(driver):
    listener = Listener()
    with pytest.raises(RequestError):
        driver.function.assign(MSIX, 5, [listener.lend()])
    with pytest.raises(RequestError):
        driver.function.assign(1, 0, [listener.lend()])


# INTx.


def test_line_is_up_while_a_vector_is_pending(driver, line):
    driver.queue(0, interrupt=True, vector=2).submit(*nops(3))
    driver.bench.work()
    assert driver.read(INTERRUPT_STATUS) == 1 << 2
    assert line.count() == 1, "signalled once, then masked"
    assert driver.read(STATUS, 2, bar=CONFIG) & INTERRUPT_PENDING
    driver.write(INTERRUPT_STATUS, 1 << 2)
    assert driver.read(INTERRUPT_STATUS) == 0
    assert not driver.read(STATUS, 2, bar=CONFIG) & INTERRUPT_PENDING
    driver.function.unmask(INTX, 0, 1)
    assert line.count() == 0


def test_line_that_is_still_up_is_signalled_again_when_unmasked(driver, line):
    driver.queue(0, interrupt=True, vector=1).submit(*nops(1))
    driver.queue(1, interrupt=True, vector=2).submit(*nops(1))
    driver.bench.work()
    assert line.count() == 1
    driver.write(INTERRUPT_STATUS, 1 << 1)
    driver.function.unmask(INTX, 0, 1)
    assert line.count() == 1
    driver.write(INTERRUPT_STATUS, 1 << 2)
    driver.function.unmask(INTX, 0, 1)
    assert line.count() == 0
    driver.queue(2, interrupt=True, vector=3).submit(*nops(1))
    driver.bench.work()
    assert line.count() == 1


def test_writing_zeros_clears_no_pending_vector(driver, line):
    driver.write(0, 1, 4, bar=2)
    driver.write(INTERRUPT_STATUS, 0)
    driver.write(INTERRUPT_STATUS, 2)
    assert driver.read(INTERRUPT_STATUS) == 1


def test_driver_that_disables_intx_gets_none_until_it_enables_it(driver, line):
    driver.function.write(CONFIG, 4, INTERRUPT_DISABLE)
    driver.write(0, 1, 4, bar=2)
    assert line.count() == 0
    driver.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)
    assert line.count() == 1


def test_line_is_unused_while_msix_is_on(driver, line, vectors):
    driver.write(0, 1, 4, bar=2)
    assert (line.count(), vectors[0].count()) == (0, 1)
    assert driver.read(INTERRUPT_STATUS) == 0


def test_reset_lets_the_line_fall(driver, line):
    driver.write(0, 1, 4, bar=2)
    assert line.count() == 1
    driver.write(0x20, 2, 4)
    driver.function.unmask(INTX, 0, 1)
    assert line.count() == 0


def test_no_interrupt_comes_after_a_reset(driver, vectors):
    queue = driver.queue(0, interrupt=True, vector=1)
    queue.submit(*nops(10))
    driver.bench.parent.scheduler.step()
    before = counts(vectors)
    assert before[1] < 10
    driver.function.reset()
    driver.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)
    driver.bench.work()
    assert counts(vectors) == [0] * 5


def test_eventfds_outlive_a_reset(driver, vectors):
    driver.function.reset()
    driver.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)
    driver.write(0x20, 1, 4)
    driver.queue(0, interrupt=True, vector=1).submit(*nops(2))
    driver.bench.work()
    assert counts(vectors) == [0, 2, 0, 0, 0]


def test_device_of_a_vmm_that_went_away_signals_nobody(driver, vectors):
    driver.function.disconnect()
    driver.queue(0, interrupt=True, vector=1).submit(*nops(2))
    driver.bench.work()
    assert counts(vectors) == [0] * 5
