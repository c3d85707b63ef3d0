"""DMA_UNMAP: what it names must have been mapped."""

import errno
import struct

import pytest

from tests.protocol.libvfio_user.logger import PAGE, PAGES
from tests.support.vfio_user import DMA_MAP, DMA_UNMAP, OK, dma_map, dma_unmap, refused

GET_DIRTY_BITMAP, ALL = 1, 2


@pytest.fixture
def desk(desk):
    """One with a window of one page, at one page."""
    assert desk.ask(DMA_MAP, dma_map(PAGE, PAGE))[0] == OK
    return desk


def refuses(desk, payload, error=errno.EINVAL):
    """It is refused, and the window is still there."""
    assert desk.ask(DMA_UNMAP, payload) == refused(error)
    assert list(desk.space.windows) == [PAGE]


def test_dma_unmap_short_write(desk):
    refuses(desk, bytes(8))


def test_dma_unmap_bad_argsz(desk):
    refuses(desk, dma_unmap(PAGE, PAGE, argsz=8))


def test_dma_unmap_dirty_bad_argsz(logger):
    """A bitmap must have the room that it says, and the reply room for it."""
    logger.start()
    window = dma_unmap(logger.at, PAGES * PAGE, GET_DIRTY_BITMAP, argsz=24 + 16 + 8)
    for size in (0, 7):
        bitmap = struct.pack("<QQ", PAGE, size)
        assert logger.desk.ask(DMA_UNMAP, window + bitmap) == refused(errno.EINVAL)
    tight = dma_unmap(logger.at, PAGES * PAGE, GET_DIRTY_BITMAP, argsz=24 + 16 + 7)
    for size in (8, 2**64 - 32):
        bitmap = struct.pack("<QQ", PAGE, size)
        assert logger.desk.ask(DMA_UNMAP, tight + bitmap) == refused(errno.EINVAL)
    logger.dirty(3)
    reply = window + struct.pack("<QQQ", PAGE, 8, 1 << 3)
    assert logger.desk.ask(DMA_UNMAP, window + struct.pack("<QQ", PAGE, 8)) == (OK, 0, reply)


def test_dma_unmap_dirty_not_tracking(logger):
    """Without logging nobody knows, and the window stays."""
    window = dma_unmap(logger.at, PAGES * PAGE, GET_DIRTY_BITMAP, argsz=24 + 16 + 8)
    asked = window + struct.pack("<QQ", PAGE, 8)
    assert logger.desk.ask(DMA_UNMAP, asked) == refused(errno.EINVAL)
    logger.dirty(0)


def test_dma_unmap_invalid_flags(desk):
    refuses(desk, dma_unmap(PAGE, PAGE, flags=4))


def test_dma_unmap(desk):
    """The reply repeats the request."""
    request = dma_unmap(PAGE, PAGE)
    assert desk.ask(DMA_UNMAP, request) == (OK, 0, request)
    assert desk.space.windows == {}


def test_dma_unmap_invalid_addr(desk):
    refuses(desk, dma_unmap(0x10 * PAGE, PAGE), errno.ENOENT)


def test_dma_unmap_async(slow):
    """The reply waits for the device to be at rest, and the window is there until then."""
    assert slow.ask(DMA_MAP, dma_map(PAGE, PAGE)) == (OK, 0, b"")
    slow.device.busy = True
    request = dma_unmap(PAGE, PAGE)
    assert slow.ask(DMA_UNMAP, request) is None
    assert list(slow.space.windows) == [PAGE]
    slow.device.rest()
    assert slow.late() == (OK, 0, request)
    assert slow.space.windows == {}


def test_dma_unmap_all(desk):
    for number in range(2, 65):
        assert desk.ask(DMA_MAP, dma_map(number * PAGE, PAGE))[0] == OK
    request = dma_unmap(0, 0, ALL)
    assert desk.ask(DMA_UNMAP, request) == (OK, 0, request)
    assert desk.space.windows == {}


def test_dma_unmap_all_invalid_addr(desk):
    refuses(desk, dma_unmap(0x10 * PAGE, PAGE, ALL))
    refuses(desk, dma_unmap(0x10 * PAGE, 0, ALL))
    refuses(desk, dma_unmap(0, PAGE, ALL))


def test_dma_unmap_all_invalid_flags(desk):
    refuses(desk, dma_unmap(0, 0, ALL | GET_DIRTY_BITMAP, argsz=64) + bytes(16))
