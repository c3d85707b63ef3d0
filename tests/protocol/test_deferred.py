"""Replies that take time: order, bounds, and clients that die meanwhile."""

import errno
import os
import time
from contextlib import suppress

import pytest

from mdevemu.errors import RequestError
from mdevemu.vfio_user.pending import LIMIT
from mdevemu.vfio_user.session import State
from tests.support.vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    OK,
    READ,
    REFUSED,
    RESET,
    SET_IRQS,
    WRITE,
    Desk,
    Device,
    Host,
    Raw,
    access,
    dma_map,
    dma_unmap,
    eventually,
    frame,
    hello,
    irqs,
    memfd,
    open_fds,
    split,
)


class Slow(Device):
    """Takes its time over a quiet moment: ``finish`` is when it comes."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def quiesce(self, done):
        self.log.append(("quiesce",))
        self.waiting.append(done)

    def finish(self, refused=None):
        self.waiting.pop(0)(refused)


@pytest.fixture
def desk():
    made = Desk(Slow())
    made.tell(hello())
    yield made
    made.close()


def late(desk):
    """What was sent when it was time; (command, flags, errno, payload) of each."""
    found = [split(data)[0] for data, _ in desk.courier.late if data]
    desk.courier.late.clear()
    return [(command, flags, error, payload) for _, command, flags, error, payload in found]


def test_reset_waits_for_the_quiet_moment_and_is_answered_then(desk):
    assert desk.ask(RESET) is None
    assert desk.session.state is State.WAITING
    assert desk.device.log == [("quiesce",)]
    desk.device.finish()
    assert desk.device.log == [("quiesce",), ("reset",)]
    assert desk.session.state is State.READY
    assert late(desk) == [(RESET, OK, 0, b"")]
    assert desk.ask(READ, access(0, 0, 4))[0] == OK


def test_unmap_keeps_the_window_until_the_quiet_moment(desk):
    desk.ask(DMA_MAP, dma_map(0, 4096), [memfd()])
    assert desk.ask(DMA_UNMAP, dma_unmap(0, 4096)) is None
    assert list(desk.space.windows) == [0]
    desk.device.finish()
    assert desk.space.windows == {}
    assert late(desk) == [(DMA_UNMAP, OK, 0, dma_unmap(0, 4096))]


@pytest.mark.parametrize("command", [RESET, DMA_UNMAP])
def test_a_device_that_refuses_a_quiet_moment_refuses_the_request(desk, command):
    desk.ask(DMA_MAP, dma_map(0, 4096), [memfd()])
    desk.ask(command, dma_unmap(0, 4096) if command == DMA_UNMAP else b"")
    desk.device.finish(RequestError(errno.ENOTTY, "no"))
    assert late(desk) == [(command, REFUSED, errno.ENOTTY, b"")]
    assert list(desk.space.windows) == [0]
    assert ("reset",) not in desk.device.log


@pytest.mark.parametrize("command", [RESET, DMA_UNMAP])
def test_too_late_is_refused_and_what_comes_after_that_does_nothing(desk, command):
    desk.ask(DMA_MAP, dma_map(0, 4096), [memfd()])
    desk.ask(command, dma_unmap(0, 4096) if command == DMA_UNMAP else b"")
    assert [alarm.due for alarm in desk.courier.alarms] == [LIMIT]
    assert LIMIT < 5e9
    desk.courier.ring()
    assert late(desk) == [(command, REFUSED, errno.ETIMEDOUT, b"")]
    desk.device.finish()
    assert late(desk) == []
    assert list(desk.space.windows) == [0]
    assert ("reset",) not in desk.device.log


def test_reply_that_came_in_time_cancels_its_alarm(desk):
    desk.ask(RESET)
    desk.device.finish()
    late(desk)
    desk.ask(RESET)
    desk.courier.ring()
    assert late(desk) == [(RESET, REFUSED, errno.ETIMEDOUT, b"")]


def test_no_reply_is_sent_when_none_is_wanted(desk):
    assert desk.ask(RESET, flags=0x10) is None
    desk.device.finish()
    assert late(desk) == []
    assert desk.session.state is State.READY


def test_client_that_dies_meanwhile_leaves_a_device_that_may_finish(desk):
    desk.ask(DMA_MAP, dma_map(0, 4096), [memfd()])
    desk.ask(RESET)
    desk.session.close()
    desk.device.finish()
    assert ("reset",) not in desk.device.log
    assert late(desk) == []
    desk.courier.ring()
    assert late(desk) == []


def test_unanswered_questions_of_a_window_are_over_with_it(desk):
    desk.ask(DMA_MAP, dma_map(0, 4096))
    desk.ask(DMA_MAP, dma_map(8192, 4096))
    told = []
    client = desk.space.client
    client.fetch(16, 4, told.append)
    client.fetch(8192, 4, told.append)
    sent = [split(data)[0] for data in desk.courier.sent]
    desk.ask(DMA_UNMAP, dma_unmap(0, 4096))
    assert told == []
    desk.device.finish()
    assert told == [None]
    for number, command, _, _, payload in sent:
        desk.tell(frame(number, command, payload + b"data", OK))
    assert told == [None, b"data"]


def test_reset_takes_every_unanswered_question_back(desk):
    desk.ask(DMA_MAP, dma_map(0, 4096))
    told = []
    desk.space.client.fetch(16, 4, told.append)
    desk.ask(RESET)
    desk.device.finish()
    assert told == [None]


# Over a socket.


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path / "s", Slow())
    yield made
    made.close()


def finish(host):
    """Let the device have its quiet moment, in its loop's own thread."""
    host.loop.after(0, host.device.finish)
    os.eventfd_write(host.nudge.fileno(), 1)


def test_what_is_pipelined_is_answered_after_it_and_in_order(host):
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        stream = frame(1, RESET)
        for number in range(2, 200):
            stream += frame(number, READ, access(0, 0, 4))
        raw.send(stream + frame(200, WRITE, access(0, 0, 4, b"last")))
        eventually(lambda: host.device.waiting)
        time.sleep(0.01)
        assert [entry for entry in host.device.log if entry[0] == "read"] == []
        finish(host)
        assert [raw.reply()[0] for _ in range(200)] == list(range(1, 201))
    names = [entry[0] for entry in host.device.log[:3]]
    assert names == ["quiesce", "reset", "read"]


def test_answer_to_a_question_passes_requests_that_are_held(host):
    told = []
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        raw.ask(DMA_MAP, dma_map(1 << 20, 4096))
        raw.send(frame(1, RESET) + frame(2, READ, access(0, 0, 4)))
        eventually(lambda: host.device.waiting)
        host.loop.after(0, lambda: host.space.client.fetch(1 << 20, 4, told.append))
        os.eventfd_write(host.nudge.fileno(), 1)
        number, command, _, _, payload = raw.reply()
        raw.send(frame(number, command, payload + b"here", OK))
        eventually(lambda: told == [b"here"])
        assert host.device.waiting
        finish(host)
        assert [raw.reply()[0] for _ in range(2)] == [1, 2]


def test_hostile_pipeline_behind_a_slow_request_is_bounded(host):
    before = open_fds()
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        raw.send(frame(1, RESET))
        eventually(lambda: host.device.waiting)
        raw.sock.settimeout(0.5)
        fds = [memfd() for _ in range(16)]
        with suppress(TimeoutError):
            for _ in range(1000):
                raw.send(frame(2, SET_IRQS, irqs(0x24, 2, 0, 16)), fds)
        assert open_fds() - before < 16 + 200
        for fd in fds:
            fd.close()
    eventually(lambda: not host.server.connected)
    assert open_fds() <= before


def test_client_that_hangs_up_while_it_waits_frees_the_device_for_the_next(host):
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        raw.send(frame(1, RESET) + frame(2, DMA_MAP, dma_map(0, 4096)))
        eventually(lambda: host.device.waiting)
    eventually(lambda: not host.server.connected)
    finish(host)
    with Raw(host.path) as raw:
        raw.send(hello())
        assert raw.reply()[2] == OK
        assert raw.ask(READ, access(0, 0, 4))[2] == OK
    assert ("reset",) not in host.device.log
