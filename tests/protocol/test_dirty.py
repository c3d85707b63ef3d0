"""DMA logging: which pages the device wrote to, and when that may be asked."""

import errno
import struct

import pytest

from tests.protocol.test_migration import FEATURE, GET, REPORT, SET, START, STOP_LOG, feature
from tests.support.movable import Movable, Noting
from tests.support.vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    OK,
    Desk,
    dma_map,
    dma_unmap,
    hello,
    memfd,
    refused,
)

PAGE = 4096


def start(page_size=PAGE, ranges=(), count=None):
    data = struct.pack("<QII", page_size, len(ranges) if count is None else count, 0)
    return feature(START | SET, data + b"".join(struct.pack("<QQ", *each) for each in ranges))


def report(iova, length, page_size=PAGE, argsz=1 << 20):
    return feature(REPORT | GET, struct.pack("<QQQ", iova, length, page_size), argsz)


@pytest.fixture
def desk():
    made = Desk(Movable(), Noting())
    made.tell(hello())
    yield made
    made.close()


def bits(desk, iova, length, page_size=PAGE):
    """The numbers of the pages that are dirty."""
    flags, _, payload = desk.ask(FEATURE, report(iova, length, page_size))
    assert flags == OK
    argsz, echoed, *where = struct.unpack_from("<IIQQQ", payload)
    assert (argsz, echoed, where) == (len(payload), REPORT | GET, [iova, length, page_size])
    found = int.from_bytes(payload[32:], "little")
    assert len(payload[32:]) % 8 == 0
    return [n for n in range(found.bit_length()) if found >> n & 1]


def test_writes_are_reported_once_by_page(desk):
    assert desk.ask(FEATURE, start()) == (OK, 0, start())
    for iova in (0, 5 * PAGE + 7, 63 * PAGE, 64 * PAGE, 200 * PAGE):
        desk.space.note(iova)
    assert bits(desk, 0, 65 * PAGE) == [0, 5, 63, 64]
    assert bits(desk, 0, 65 * PAGE) == []
    assert bits(desk, 128 * PAGE, 128 * PAGE, 64 * PAGE) == [1]


def test_reply_says_which_page_size_it_is(desk):
    asked = start(1 << 21, [(0, 1 << 21)])
    assert desk.ask(FEATURE, asked) == (OK, 0, start(PAGE, [(0, 1 << 21)]))
    assert desk.space.wanted == (1 << 21, [(0, 1 << 21)])


def test_report_without_room_says_how_much_it_takes_and_forgets_nothing(desk):
    desk.ask(FEATURE, start())
    desk.space.note(PAGE)
    short = desk.ask(FEATURE, report(0, 65 * PAGE, argsz=8 + 24 + 15))
    assert short == (OK, 0, struct.pack("<II", 8 + 24 + 16, REPORT | GET))
    assert bits(desk, 0, 65 * PAGE) == [1]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (start(0), errno.EINVAL),
        (start(3000), errno.EINVAL),
        (start(PAGE, [(0, 0)]), errno.EINVAL),
        (start(PAGE, [(2**64 - PAGE, 2 * PAGE)]), errno.EINVAL),
        (start(PAGE, [(PAGE, 2 * PAGE), (0, 2 * PAGE)]), errno.EINVAL),
        (start(PAGE, [(0, PAGE)], count=2), errno.EINVAL),
        (start(PAGE, [(0, PAGE)], count=0), errno.EINVAL),
        (start(PAGE, count=4097), errno.E2BIG),
        (feature(START | SET, bytes(15)), errno.EINVAL),
        (feature(STOP_LOG | SET), errno.EINVAL),
        (report(0, PAGE), errno.EINVAL),
    ],
)
def test_bad_request_before_logging_is_refused(desk, payload, error):
    assert desk.ask(FEATURE, payload) == refused(error)
    assert desk.space.pages is None


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (start(), errno.EINVAL),
        (report(0, 0), errno.EINVAL),
        (report(0, PAGE, 0), errno.EINVAL),
        (report(0, PAGE, 3 * PAGE), errno.EINVAL),
        (report(2**64 - PAGE, 2 * PAGE), errno.EINVAL),
        (report(0, 1 << 36), errno.E2BIG),
        (feature(REPORT | GET, bytes(23), 64), errno.EINVAL),
    ],
)
def test_bad_request_while_logging_is_refused(desk, payload, error):
    desk.ask(FEATURE, start())
    desk.space.note(0)
    assert desk.ask(FEATURE, payload) == refused(error)
    assert bits(desk, 0, PAGE) == [0]


def test_stop_forgets_and_may_be_followed_by_another_start(desk):
    desk.ask(FEATURE, start())
    desk.space.note(0)
    assert desk.ask(FEATURE, feature(STOP_LOG | SET)) == (OK, 0, feature(STOP_LOG | SET))
    assert desk.space.pages is None
    assert desk.ask(FEATURE, start())[0] == OK
    assert bits(desk, 0, PAGE) == []


def test_log_ends_with_its_client(desk):
    desk.ask(FEATURE, start())
    desk.session.close()
    assert desk.space.pages is None


# DMA_UNMAP with a bitmap


def unmap(iova, size, page_size=PAGE, room=8, argsz=48):
    return dma_unmap(iova, size, flags=1, argsz=argsz) + struct.pack("<QQ", page_size, room)


def test_unmap_tells_what_was_written_last(desk):
    desk.ask(DMA_MAP, dma_map(0, 4 * PAGE), [memfd()])
    desk.ask(FEATURE, start())
    desk.space.note(2 * PAGE)
    request = unmap(0, 4 * PAGE)
    assert desk.ask(DMA_UNMAP, request) == (OK, 0, request + struct.pack("<Q", 0b100))
    assert desk.space.windows == {}
    assert bits(desk, 0, 4 * PAGE) == []


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (unmap(0, 4 * PAGE)[:39], errno.EINVAL),
        (unmap(0, 4 * PAGE, argsz=47), errno.EINVAL),
        (unmap(0, 4 * PAGE, room=7), errno.EINVAL),
        (unmap(0, 4 * PAGE, page_size=0), errno.EINVAL),
        (unmap(0, 4 * PAGE, page_size=5000), errno.EINVAL),
        (unmap(PAGE, PAGE), errno.EINVAL),
        (unmap(8 * PAGE, PAGE), errno.ENOENT),
    ],
)
def test_bad_unmap_with_a_bitmap_is_refused_and_unmaps_nothing(desk, payload, error):
    desk.ask(DMA_MAP, dma_map(0, 4 * PAGE), [memfd()])
    desk.ask(FEATURE, start())
    desk.space.note(0)
    assert desk.ask(DMA_UNMAP, payload) == refused(error)
    assert list(desk.space.windows) == [0]
    assert bits(desk, 0, PAGE) == [0]


def test_bitmap_without_logging_is_refused(desk):
    desk.ask(DMA_MAP, dma_map(0, 4 * PAGE), [memfd()])
    assert desk.ask(DMA_UNMAP, unmap(0, 4 * PAGE)) == refused(errno.EINVAL)
    assert list(desk.space.windows) == [0]
