"""DMA_MAP: limits, and clients that do not wait for the reply."""

import errno

from mdevemu.vfio_user.wire import MAX_MAPS
from tests.support.vfio_user import (
    DMA_MAP,
    NO_REPLY,
    OK,
    READ,
    RESET,
    Raw,
    access,
    dma_map,
    eventually,
    frame,
    hello,
    memfd,
    open_fds,
    refused,
)

PAGE = 0x1000


def test_dma_region_too_big(desk):
    """A window has at most 8 TiB."""
    assert desk.ask(DMA_MAP, dma_map(0x10000, (8 << 40) + PAGE)) == refused(errno.ENOSPC)
    assert desk.space.windows == {}


def test_dma_region_too_many(desk):
    """There are as many windows as max_dma_maps says, and then no more."""
    maps = b"".join(frame(0, DMA_MAP, dma_map(n * PAGE, PAGE), NO_REPLY) for n in range(MAX_MAPS))
    assert desk.tell(maps) == (b"", [])
    assert desk.ask(DMA_MAP, dma_map(MAX_MAPS * PAGE, PAGE)) == refused(errno.ENOSPC)
    assert len(desk.space.windows) == MAX_MAPS


def test_dma_map_busy(host):
    """A window that is lent while an earlier request takes its time is mapped after it."""
    resting = []
    host.device.quiesce = resting.append
    with Raw(host.path) as raw, memfd() as file:
        raw.send(hello())
        raw.reply()
        raw.send(frame(1, RESET))
        raw.send(frame(2, DMA_MAP, dma_map(0, PAGE)), [file])
        raw.send(frame(3, READ, access(0, 0, 4)))
        eventually(lambda: resting)
        assert (host.space.windows, host.device.log) == ({}, [])
        host.later(lambda: resting[0](None))
        assert [raw.reply()[:3] for _ in range(3)] == [
            (1, RESET, OK),
            (2, DMA_MAP, OK),
            (3, READ, OK),
        ]
        assert list(host.space.windows) == [0]
        assert host.device.log == [("reset",), ("read", 0, 0, 4)]


def test_dma_map_busy_reply_fail(host):
    """If its client leaves meanwhile, nothing is mapped, nor done to the device."""
    resting, before = [], open_fds()
    host.device.quiesce = resting.append
    with Raw(host.path) as raw, memfd() as file:
        raw.send(hello())
        raw.reply()
        raw.send(frame(1, RESET))
        raw.send(frame(2, DMA_MAP, dma_map(0, PAGE)), [file])
        eventually(lambda: resting)
    eventually(lambda: ("disconnect",) in host.device.log)
    host.later(lambda: resting[0](None))
    eventually(lambda: open_fds() == before)
    assert host.space.windows == {}
    assert host.device.log == [("disconnect",)]


def test_dma_map_reply_fail(host):
    """A client that dies before its reply leaves no window, and the next one may come."""
    raw, lend = Raw(host.path), host.space.map

    def map_and_lose(*window, **rights):
        lend(*window, **rights)
        raw.close()

    host.space.map = map_and_lose
    raw.send(hello())
    raw.reply()
    with memfd() as file:
        raw.send(frame(1, DMA_MAP, dma_map(0, PAGE)), [file])
    eventually(lambda: ("disconnect",) in host.device.log)
    assert host.space.windows == {}
    assert ("reset",) not in host.device.log
    with Raw(host.path) as following:
        following.send(hello())
        following.reply()
        assert following.ask(READ, access(0, 0, 4))[2] == OK
