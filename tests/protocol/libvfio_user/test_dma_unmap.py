"""DMA_UNMAP: what it names must have been mapped."""

import errno

import pytest

from tests.support.vfio_user import DMA_MAP, DMA_UNMAP, OK, dma_map, dma_unmap, refused

PAGE = 0x1000
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
