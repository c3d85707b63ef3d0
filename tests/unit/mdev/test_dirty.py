"""DMA logging: which pages of its windows a device has written."""

import pytest

from mdevemu.memory import Logged
from mdevemu.memory.logged import MOST_PAGES
from tests.support.native import DATA, Driver, descriptor
from tests.unit.mdev.test_migration import Processes

PAGE = 4096


@pytest.fixture
def driver():
    found = Driver()
    yield found
    found.close()


def report(driver, iova=0, length=0x40_0000, page_size=PAGE):
    """Numbers of the pages that are dirty, counted from ``iova``."""
    found = driver.mdev.space.dirty.report(iova, length, page_size)
    assert len(found) == -(-length // page_size // 64) * 8 or len(found) % 8 == 0
    number = int.from_bytes(found, "little")
    return [bit for bit in range(8 * len(found)) if number >> bit & 1]


def fill(driver, at, length):
    assert driver.run("fill", destination=at, length=length, operand=7).status == 0


def test_pages_that_are_written_are_reported_once(driver):
    queue = driver.queue(3)
    driver.mdev.space.dirty.start(PAGE, [])
    queue.submit(descriptor("fill", destination=DATA + PAGE - 1, length=2, operand=7))
    driver.work()
    assert report(driver) == [queue.cq // PAGE, DATA // PAGE, DATA // PAGE + 1]
    assert report(driver) == []


def test_reads_do_not_count_and_neither_does_what_was_before(driver):
    fill(driver, DATA, 64)
    driver.mdev.space.dirty.start(PAGE, [])
    driver.run("crc32c", source=DATA + 0x1_0000, length=0x8000)
    assert report(driver, DATA, 0x10_0000) == []


def test_copies_without_a_copy_in_between_count_where_they_go(driver):
    driver.mdev.space.dirty.start(PAGE, [])
    driver.run("copy", source=DATA, destination=DATA + 0x10_0000, length=3 * PAGE)
    assert report(driver, DATA, 0x20_0000) == [0x100, 0x101, 0x102]


@pytest.mark.parametrize("page_size", [1, 512, 2048])
def test_smaller_pages_are_dirty_with_the_one_that_they_are_a_part_of(driver, page_size):
    driver.mdev.space.dirty.start(page_size, [])
    fill(driver, DATA + PAGE + 5, 1)
    count = PAGE // page_size
    assert report(driver, DATA, 3 * PAGE, page_size) == list(range(count, 2 * count))


def test_page_of_which_a_part_was_asked_for_stays_dirty(driver):
    driver.mdev.space.dirty.start(PAGE, [])
    fill(driver, DATA, 2 * PAGE)
    assert report(driver, DATA + 2048, 2048, 512) == [0, 1, 2, 3]
    assert report(driver, DATA + 2048, 2 * PAGE, 2048) == [0, 1, 2]
    assert report(driver, DATA, 2 * PAGE) == [0]
    assert report(driver, DATA, 2 * PAGE) == []


@pytest.mark.parametrize("page_size", [0x1_0000, 0x20_0000])
def test_larger_pages_are_dirty_if_a_part_of_them_is(driver, page_size):
    driver.mdev.space.dirty.start(page_size, [])
    fill(driver, DATA + 0x3_5000, 1)
    assert report(driver, DATA, 0x20_0000, page_size) == [0x3_5000 // page_size]


def test_page_is_dirty_by_every_address_that_leads_to_it(driver):
    driver.bench.lend(driver.mdev, driver.ram, iova=0x100_0000, offset=DATA, size=0x1_0000)
    driver.mdev.space.dirty.start(PAGE, [])
    fill(driver, DATA + PAGE, 1)
    assert report(driver, DATA, 0x1_0000) == [1]
    assert report(driver, 0x100_0000, 0x1_0000) == [1]


def test_window_that_is_gone_and_one_that_came_are_told_of(driver):
    driver.mdev.space.dirty.start(PAGE, [])
    driver.bench.lend(driver.mdev, driver.ram, iova=0x100_0000, size=0x1_0000)
    fill(driver, 0x100_0000 + 2 * PAGE, 1)
    driver.mdev.space.unmap(0x100_0000, 0x1_0000)
    assert report(driver, 0x100_0000, 0x1_0000) == [2]
    driver.mdev.space.clear()
    assert report(driver, DATA, 0x1_0000) == []


def test_what_a_client_is_asked_to_write_counts(driver):
    class Client:
        largest = PAGE

        def fetch(self, iova, length, done):
            done(bytes(length))

        def store(self, iova, data, done):
            done(b"")

    driver.mdev.space.attach(Client())
    driver.mdev.space.map(0x1000_0000, 0x1_0000, None, 0, readable=True, writable=True)
    driver.mdev.space.dirty.start(PAGE, [])
    fill(driver, 0x1000_0000 + PAGE, PAGE)
    assert report(driver, 0x1000_0000, 0x1_0000) == [1]


def test_what_the_iommu_writes_for_a_guest_counts_where_the_guest_has_it():
    driver = Processes()
    queue = driver.queue(0)
    driver.mdev.space.dirty.start(PAGE, [])
    queue.submit(driver.fill(driver.VIRTUAL))
    driver.work()
    found = report(driver)
    assert driver.PAGES // PAGE in found
    assert driver.VIRTUAL // PAGE not in found
    driver.close()


def test_nothing_is_between_the_device_and_memory_when_it_is_off(driver):
    def wrapped():
        return [each for _, _, each in driver.bench.parent.memory._ranges if type(each) is Logged]

    dirty = driver.mdev.space.dirty
    assert wrapped() == []
    dirty.start(PAGE, [])
    assert len(wrapped()) == 1
    dirty.stop()
    assert wrapped() == []
    fill(driver, DATA, 1)
    dirty.start(PAGE, [])
    assert report(driver) == []


def test_more_pages_than_are_noted_are_all_dirty(driver):
    class Endless:
        size = 1 << 50

        def write(self, offset, data):
            """Nothing is there to be written."""

        read = read_u64 = present = close = view = write

    logged = Logged(Endless())
    dirty = driver.mdev.space.dirty
    dirty.start(PAGE, [])
    base = next(iter(dirty._logged))
    dirty._logged[base].pages = set(range(MOST_PAGES + 1))
    fill(driver, DATA, 1)
    assert report(driver, 0, 0x40_0000) == list(range(0x400))
    assert report(driver, 0, 3 * PAGE) == [0, 1, 2]  # and none beyond what was asked for
    logged.pages = set(range(MOST_PAGES + 1))
    logged.write(1 << 40, b"x")
    assert logged.too_many
    assert len(logged.pages) == MOST_PAGES + 1
