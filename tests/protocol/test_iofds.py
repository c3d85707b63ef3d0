"""Region I/O fds and interrupt eventfds: what is signalled without a message."""

import errno
import os
import select
import socket
import struct
import threading

import pytest

from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.vfio_user import Doorbell
from tests.support.movable import Movable
from tests.support.vfio_user import (
    OK,
    SET_IRQS,
    Desk,
    Device,
    hello,
    irqs,
    memfd,
    open_fds,
    refused,
)

IO_FDS = 6
BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 2, 4, 8, 0x10, 0x20
ENTRY = struct.Struct("<QQIIIIQ")
READ32, WRITE32, WRITE16, ANSWERED = 2 << 4, 1 | 2 << 4, 1 | 1 << 4, 1 << 6


class Ringing(Movable):
    doorbells = (
        Doorbell(0, 0x10, 4, 7),
        Doorbell(0, 0x20, 2, 0xBEEF),
        Doorbell(0, 0x100, 0x100),
        Doorbell(0, 0xF00, 0x100),
        Doorbell(4, 0, 8, 1),
    )


def ask(region=0, argsz=1 << 16, flags=0, count=0):
    return struct.pack("<IIII", argsz, flags, region, count)


@pytest.fixture
def desk():
    made = Desk(Ringing())
    made.tell(hello())
    yield made
    made.close()


def tell(desk, payload):
    """Reply payload and descriptors of GET_REGION_IO_FDS."""
    stream, fds = desk.tell(struct.pack("<HHIII", 1, IO_FDS, 16 + len(payload), 0, 0) + payload)
    flags, error = struct.unpack_from("<II", stream, 8)
    assert (flags, error) == (OK, 0)
    return stream[16:], fds


def test_entries_are_those_of_the_specification(desk):
    payload, fds = tell(desk, ask())
    assert struct.unpack_from("<IIII", payload) == (16 + 4 * 40, 0, 0, 4)
    entries = list(ENTRY.iter_unpack(payload[16:]))
    assert entries == [
        (0x10, 4, 0, 0, 1, 0, 7),
        (0x20, 2, 1, 0, 1, 0, 0xBEEF),
        (0x100, 0x100, 2, 1, 2, 0, 2),
        (0xF00, 0x100, 2, 1, 2, 0, 3),
    ]
    assert len(fds) == 3
    again, same = tell(desk, ask())
    assert (again, [fd.fileno() for fd in same]) == (payload, [fd.fileno() for fd in fds])


def test_too_little_room_gets_the_size_and_no_descriptors(desk):
    payload, fds = tell(desk, ask(argsz=16 + 4 * 40 - 1))
    assert (payload, fds) == (struct.pack("<IIII", 16 + 4 * 40, 0, 0, 4), [])


def test_region_without_doorbells_has_none(desk):
    assert tell(desk, ask(7)) == (struct.pack("<IIII", 16, 0, 7, 0), [])


def test_client_gets_no_more_descriptors_than_it_takes():
    desk = Desk(Ringing())
    desk.tell(hello(json=b'{"capabilities":{"max_msg_fds":2}}\0'))
    payload, fds = tell(desk, ask())
    assert (struct.unpack_from("<IIII", payload)[3], len(fds)) == (2, 2)
    desk.close()


@pytest.mark.parametrize(
    "payload", [b"", bytes(15), ask(argsz=15), ask(flags=1), ask(count=1), ask(9), ask(1)]
)
def test_bad_request_is_refused(desk, payload):
    assert desk.ask(IO_FDS, payload) == refused(errno.EINVAL)


def test_fired_eventfd_is_the_write_of_its_value(desk):
    _, fds = tell(desk, ask())
    os.eventfd_write(fds[1].fileno(), 1)
    assert desk.courier.fire() == 1
    assert desk.device.log == [("write", 0, 0x20, b"\xef\xbe")]
    assert desk.courier.fire() == 0
    os.eventfd_write(fds[0].fileno(), 5)
    desk.courier.fire()
    assert desk.device.log[1:] == [("write", 0, 0x10, b"\7\0\0\0")]


def test_eventfd_that_its_other_end_empties_first_keeps_nobody_waiting(desk):
    _, fds = tell(desk, ask())
    os.set_blocking(fds[0].fileno(), True)
    os.eventfd_write(fds[0].fileno(), 1)
    callback = desk.courier.watched[fds[0].fileno()]
    os.eventfd_read(fds[0].fileno())
    served = threading.Thread(target=callback)
    served.start()
    served.join(2)
    waits = served.is_alive()
    if waits:
        os.eventfd_write(fds[0].fileno(), 1)
        served.join()
    assert not waits
    assert desk.device.log == []


def channel(fds):
    """The client's end, as another process has it."""
    made = socket.socket(fileno=os.dup(fds[2].fileno()))
    made.settimeout(5)
    return made


def access(info, number, offset, data=0):
    return struct.pack("<IIQQQ", info, 0, number, offset, data)


def test_accesses_come_over_the_socket_and_are_answered_when_they_must_be(desk):
    _, fds = tell(desk, ask())
    with channel(fds) as kvm:
        kvm.send(access(WRITE32, 2, 0x8, 0x11223344AABBCCDD))
        kvm.send(access(WRITE16 | ANSWERED, 2, 0xFE, 0x5566))
        kvm.send(access(READ32, 2, 0x8))
        desk.courier.fire()
        assert kvm.recv(64) == bytes(32)
        assert kvm.recv(64) == struct.pack("<Q24x", 0xAABBCCDD)
    assert desk.device.log == [
        ("write", 0, 0x108, b"\xdd\xcc\xbb\xaa"),
        ("write", 0, 0x1FE, b"\x66\x55"),
        ("read", 0, 0x108, 4),
    ]


def test_refused_access_is_traced_and_its_write_answered(desk):
    _, fds = tell(desk, ask())
    with channel(fds) as kvm:
        kvm.send(access(WRITE32 | ANSWERED, 3, 0, 1))
        desk.courier.fire()
        assert kvm.recv(64) == bytes(32)
    assert [event.facts["errno"] for event in desk.trace.events] == [5]


def test_read_that_the_device_refuses_is_all_ones(desk):
    def broken(region, offset, length):
        raise RequestError(errno.EIO, "broken")

    desk.device.read = broken
    _, fds = tell(desk, ask())
    with channel(fds) as kvm:
        kvm.send(access(READ32, 2, 0))
        desk.courier.fire()
        assert kvm.recv(64) == struct.pack("<Q24x", 0xFFFFFFFF)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"x",
        bytes(31),
        bytes(33),
        access(2, 2, 0),
        access(WRITE32, 2, 0xFD),
        access(WRITE32, 2, 2**64 - 1),
        access(WRITE32, 0, 0),
        access(WRITE32, 5, 0),
        access(WRITE32, 2**64 - 1, 0),
    ],
)
def test_nonsense_ends_the_socket_and_nothing_else(desk, nonsense):
    _, fds = tell(desk, ask())
    with channel(fds) as kvm:
        kvm.send(nonsense)
        desk.courier.fire()
        assert kvm.recv(64) == b""
    assert desk.device.log == []
    assert [event.name for event in desk.trace.events] == ["iofd.closed"]
    assert desk.ask(9, struct.pack("<QII", 0, 0, 4))[0] == OK


def test_who_never_reads_answers_is_not_listened_to(desk):
    _, fds = tell(desk, ask())
    with channel(fds) as kvm:
        for _ in range(1000):
            kvm.send(access(READ32, 2, 0))
            desk.courier.fire()
            if desk.trace.events:
                break
    assert [event.name for event in desk.trace.events] == ["iofd.closed"]


def test_nothing_rings_while_the_device_may_not_be_touched(desk):
    _, fds = tell(desk, ask())
    stop_copy, running = (struct.pack("<IIII", 16, 2 | 1 << 17, state, 0) for state in (3, 2))
    assert desk.ask(16, stop_copy)[0] == OK
    with channel(fds) as kvm:
        kvm.send(access(WRITE32, 2, 0, 1))
        os.eventfd_write(fds[0].fileno(), 1)
        assert desk.courier.fire() == 0
        assert desk.device.log == []
        assert desk.ask(16, running)[0] == OK
        assert desk.courier.fire() == 2
    assert len(desk.device.log) == 2


def test_descriptors_go_with_the_client():
    before = open_fds()
    desk = Desk(Ringing())
    desk.tell(hello())
    tell(desk, ask())
    tell(desk, ask(4))
    desk.close()
    assert open_fds() == before
    assert desk.courier.watched == {}


def test_without_anybody_who_watches_there_are_none():
    desk = Desk(Ringing())
    desk.session.carrier = None
    desk.tell(hello())
    assert tell(desk, ask()) == (struct.pack("<IIII", 16, 0, 0, 0), [])
    desk.close()


# Interrupts


def eventfd():
    return Fd(os.eventfd(0, os.EFD_NONBLOCK))


def give(fd):
    """A duplicate, as a message brings it."""
    return fd.duplicate()


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_eventfd_that_unmasks_is_watched_and_does(desk):
    with eventfd() as ours:
        payload = irqs(EVENTFD | UNMASK, 0, 0, 1)
        assert desk.ask(SET_IRQS, payload, [give(ours)]) == (OK, 0, b"")
        assert desk.courier.fire() == 0
        os.eventfd_write(ours.fileno(), 3)
        assert desk.courier.fire() == 1
        assert desk.device.log == [("unmask", 0, 0, 1)]
        assert desk.courier.fire() == 0


@pytest.mark.parametrize(
    "taken_back",
    [irqs(EVENTFD | UNMASK, 0, 0, 1), irqs(1 | TRIGGER, 0)],
    ids=["without descriptors", "index disabled"],
)
def test_eventfd_that_unmasks_is_taken_back(desk, taken_back):
    before = open_fds()
    with eventfd() as ours:
        desk.ask(SET_IRQS, irqs(EVENTFD | UNMASK, 0, 0, 1), [give(ours)])
        desk.ask(SET_IRQS, taken_back)
        os.eventfd_write(ours.fileno(), 1)
        assert desk.courier.fire() == 0
    assert open_fds() == before
    assert ("unmask", 0, 0, 1) not in desk.device.log


def test_second_eventfd_replaces_the_first(desk):
    before = open_fds()
    with eventfd() as first, eventfd() as second:
        for each in (first, second):
            desk.ask(SET_IRQS, irqs(EVENTFD | UNMASK, 0, 0, 1), [give(each)])
        os.eventfd_write(first.fileno(), 1)
        assert desk.courier.fire() == 0
        os.eventfd_write(second.fileno(), 1)
        assert desk.courier.fire() == 1
    desk.session.close()
    assert open_fds() == before
    assert desk.courier.watched == {}


def test_only_an_eventfd_unmasks(desk):
    before = open_fds()
    assert desk.ask(SET_IRQS, irqs(EVENTFD | UNMASK, 0, 0, 1), [memfd()]) == refused(errno.EINVAL)
    assert open_fds() == before


def test_nothing_unmasks_where_nobody_watches(desk):
    before = open_fds()
    plain = Desk(Device())
    plain.session.carrier = None
    plain.tell(hello())
    payload = irqs(EVENTFD | UNMASK, 0, 0, 1)
    assert plain.ask(SET_IRQS, payload, [eventfd()]) == refused(errno.ENOTSUP)
    plain.close()
    assert open_fds() == before


def test_eventfds_for_masking_are_the_devices(desk):
    given = []
    desk.device.assign_masks = lambda *what: given.append(what)
    fd = eventfd()
    assert desk.ask(SET_IRQS, irqs(EVENTFD | MASK, 0, 0, 1), [fd]) == (OK, 0, b"")
    assert given == [(0, 0, [fd])]
    assert desk.ask(SET_IRQS, irqs(EVENTFD | MASK, 0, 0, 1)) == (OK, 0, b"")
    assert given[1] == (0, 0, [None])
    fd.close()


def test_device_without_events_for_masking_refuses_them(desk):
    before = open_fds()
    payload = irqs(EVENTFD | MASK, 0, 0, 1)
    assert desk.ask(SET_IRQS, payload, [eventfd()]) == refused(errno.ENOTSUP)
    assert open_fds() == before
