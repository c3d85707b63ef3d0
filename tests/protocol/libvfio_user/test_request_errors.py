"""Messages that are none, and clients that leave."""

import errno
import os
import struct

from mdevemu.fds import Fd
from tests.protocol.test_migration import STOP_COPY
from tests.support.vfio_user import (
    DMA_MAP,
    OK,
    READ,
    RESET,
    SET_IRQS,
    WRITE,
    Raw,
    access,
    dma_map,
    eventfds,
    eventually,
    frame,
    hello,
    irqs,
    memfd,
    open_fds,
    refused,
)

MSIX, BOOL_TRIGGER, EVENTFD_TRIGGER = 2, 0x22, 0x24


def ends(host, header):
    """The stream cannot be understood any more, so it ends; there is nothing to answer to."""
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        raw.send(header)
        assert raw.reply() is None
    eventually(lambda: host.device.log == [("disconnect",)])


def test_too_small(host):
    ends(host, struct.pack("<HHIII", 0xBAD1, SET_IRQS, 15, 0, 0))


def test_too_large(host):
    ends(host, struct.pack("<HHIII", 0xBAD1, SET_IRQS, (1 << 20) + (1 << 16), 0, 0))


def test_unsolicited_reply(host):
    ends(host, struct.pack("<HHIII", 0xBAD2, SET_IRQS, 16, 1, 0))


def test_bad_command(desk):
    """A command that nobody knows is refused as such, and the session goes on."""
    assert desk.ask(19, b"\0") == refused(errno.ENOTSUP)
    assert desk.ask(READ, access(0, 0, 4))[0] == OK


def test_no_payload(desk):
    assert desk.ask(SET_IRQS) == refused(errno.EINVAL)


def test_bad_request_closes_fds(desk):
    before = open_fds()
    request = irqs(BOOL_TRIGGER, MSIX, 0, 1)
    assert desk.ask(SET_IRQS, request, eventfds(2)) == refused(errno.EINVAL)
    assert open_fds() == before


def test_disconnected_socket(host):
    """The device keeps its state, and loses what was the client's."""
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        with memfd() as file:
            assert raw.ask(DMA_MAP, dma_map(0, 0x1000), [file])[2] == OK
        with Fd(os.eventfd(0)) as event:
            assert raw.ask(SET_IRQS, irqs(EVENTFD_TRIGGER, MSIX, 0, 1), [event])[2] == OK
        assert raw.ask(WRITE, access(0, 8, 4, b"kept"))[2] == OK
    eventually(lambda: host.device.log[-1:] == [("disconnect",)])
    assert host.space.windows == {}
    assert host.device.eventfds == {}
    assert host.device.bytes[0][8:12] == b"kept"
    assert ("reset",) not in host.device.log


def test_disconnected_socket_quiesce_busy(host):
    """Nobody waits for the device to be quiet: the next client may come at once."""
    resting = []
    host.device.quiesce = resting.append
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        raw.send(frame(1, RESET))
        eventually(lambda: resting)
    with Raw(host.path) as following:
        following.send(hello())
        following.reply()
        host.later(lambda: resting[0](None))
        assert following.ask(READ, access(0, 0, 4))[2] == OK
    assert ("reset",) not in host.device.log


def test_reply_fail_quiesce_busy(slow):
    """A device that comes to rest for a client that has left goes on."""
    slow.stream.slow = True
    assert slow.go(STOP_COPY) is None
    slow.session.close()
    slow.stream.stopping(None)
    assert slow.stream.calls == ["stop", "run"]
    assert ("reset",) not in slow.device.log
    assert slow.late() is None
