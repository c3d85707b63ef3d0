"""DMA logging: which pages the device wrote to, as it really did."""

import errno

import pytest

from tests.protocol.libvfio_user.logger import PAGE, PAGES
from tests.protocol.test_migration import FEATURE, PROBE, REPORT, START, STOP_LOG, feature
from tests.support.vfio_user import OK, Desk, hello, refused

EINVAL = refused(errno.EINVAL)[:2]


@pytest.mark.parametrize("page_size", [0, 3, 0x1800, 2**64 - 1])
def test_dirty_pages_start_zero_pgsize(logger, page_size):
    """A page size is a power of two."""
    assert logger.start(page_size)[:2] == EINVAL


def test_dirty_pages_start(logger):
    """It starts once; a second start is refused, and changes nothing."""
    assert logger.start() == (OK, 0, PAGE)
    logger.dirty(1)
    assert logger.start()[:2] == EINVAL
    assert logger.report() == 1 << 1


@pytest.mark.parametrize("page_size", [PAGE // 2, PAGE * 2, 1 << 30])
def test_dirty_pages_start_different_pgsize(logger, page_size):
    """It is a hint; the reply tells which page size there is."""
    flags, error, chosen = logger.start(page_size)
    assert (flags, error) == (OK, 0)
    assert chosen >= PAGE
    assert chosen.bit_count() == 1
    logger.dirty(1)
    assert logger.report() & 1 << 1


def test_dirty_pages_get_unmodified(logger):
    """What was written before the start, and what is only read, is clean."""
    logger.dirty(0, 4)
    logger.start()
    assert logger.report() == 0
    logger.run("crc32c", source=logger.at, length=4 * PAGE)
    assert logger.report() == 0


@pytest.mark.parametrize(
    ("writes", "bits"),
    [
        ([(0, 1)], 0b1),
        ([(7, 1)], 0b10000000),
        ([(0, 7)], 0b1111111),
        ([(0, 8)], 0b11111111),
        ([(0, 9)], 0b111111111),
        ([(7, 2)], 0b110000000),
        ([(15, 1)], 1 << 15),
        ([(23, 1)], 1 << 23),
        ([(22, 1), (2, 2)], 1 << 22 | 0b1100),
        ([(PAGES - 1, 1)], 1 << PAGES - 1),
        ([(6, 4), (0, 1)], 0b1111000001),
    ],
)
def test_dirty_pages_get_modified(logger, writes, bits):
    """A bit for each page, which is clean again once it was told; whatever the page size."""
    logger.start()
    for page, count in writes:
        logger.dirty(page, count)
    assert logger.report() == bits
    assert logger.report() == 0
    for factor in (2, 16):
        for page, count in writes:
            logger.dirty(page, count)
        merged = {page // factor for page in range(PAGES) if bits >> page & 1}
        assert logger.report(page_size=PAGE * factor) == sum(1 << each for each in merged)
        assert logger.report() == 0
    for page, count in writes:
        logger.dirty(page, count)
    halves = sum(0b11 << 2 * page for page in range(PAGES) if bits >> page & 1)
    assert logger.report(page_size=PAGE // 2) == halves


def test_dirty_pages_invalid_arguments(logger):
    """Any range of addresses can be asked about; nothing was written where no window is."""
    logger.start()
    for iova, length, page_size in [
        (logger.at, 0, PAGE),
        (2**64 - PAGE, 2 * PAGE, PAGE),
        (logger.at, PAGE, 0),
        (logger.at, PAGE, PAGE + 1),
    ]:
        assert logger.ask(iova, length, page_size) == refused(errno.EINVAL)
    assert logger.report(page=0x1000) == 0


def test_dirty_pages_stop(logger):
    """Once stopped there is nothing to ask for, and a new start begins clean."""
    logger.start()
    logger.dirty(1)
    assert logger.stop() == (OK, 0)
    assert logger.ask(logger.at, PAGE) == refused(errno.EINVAL)
    assert logger.stop() == EINVAL
    assert logger.start() == (OK, 0, PAGE)
    assert logger.report() == 0


def test_dirty_pages_uninitialised_dma():
    """A device that cannot say what it wrote to has no such feature."""
    desk = Desk()
    desk.tell(hello())
    for each in (START, STOP_LOG, REPORT):
        assert desk.ask(FEATURE, feature(PROBE | each)) == refused(errno.ENOTSUP)
    desk.close()


def test_dirty_pages_ctx_no_stop(logger):
    """Windows may go while they are logged, and a client may without a stop."""
    logger.lend(2 * PAGES)
    logger.start()
    logger.dirty(0)
    logger.dirty(2 * PAGES)
    logger.take(0)
    assert logger.report(2 * PAGES) == 0b1
    logger.lend(0)
    logger.dirty(3)
    assert logger.report() & 1 << 3
