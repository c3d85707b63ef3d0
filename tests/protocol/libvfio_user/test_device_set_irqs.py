"""DEVICE_SET_IRQS: one kind of data, one action, and all or nothing."""

import errno
import os
import struct

import pytest

from mdevemu.fds import Fd
from tests.support.vfio_user import OK, SET_IRQS, eventfds, irqs, open_fds, refused

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 0x10, 0x20
INTX, MSIX, ERR, REQ = 0, 2, 3, 4
REFUSED = refused(errno.EINVAL)
DONE = (OK, 0, b"")


@pytest.fixture
def desk(desk):
    desk.device.interrupts = (1, 0, 2048, 1, 1)
    return desk


def refuses(desk, payload, fds=0):
    """It is refused, nothing is done, and descriptors that came along are closed."""
    before = open_fds()
    assert desk.ask(SET_IRQS, payload, eventfds(fds)) == REFUSED
    assert desk.device.log == []
    assert open_fds() == before


def assigned(desk):
    """Our ends of two eventfds, at four and eight, that are the first two vectors'."""
    ours = [Fd(os.eventfd(value, os.EFD_NONBLOCK)) for value in (4, 8)]
    lent = [fd.duplicate() for fd in ours]
    assert desk.ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 0, 2), lent) == DONE
    return ours


def counts(ours):
    found = [os.eventfd_read(fd.fileno()) for fd in ours]
    for fd in ours:
        fd.close()
    return found


def test_device_set_irqs_no_irq_set(desk):
    refuses(desk, b"")


def test_device_set_irqs_short_write(desk):
    refuses(desk, bytes(8))


def test_device_set_irqs_bad_argsz(desk):
    refuses(desk, irqs(TRIGGER | NONE, REQ, argsz=3))


def test_device_set_irqs_bad_index(desk):
    refuses(desk, irqs(TRIGGER | NONE, 5))


def test_device_set_irqs_bad_flags_MASK_and_UNMASK(desk):
    for data in (0, NONE):
        refuses(desk, irqs(MASK | UNMASK | data, INTX, 0, 1))


def test_device_set_irqs_bad_flags_DATA_NONE_and_DATA_BOOL(desk):
    refuses(desk, irqs(MASK | NONE | BOOL, INTX, 0, 1))
    refuses(desk, irqs(MASK | NONE | BOOL, INTX, 0, 1, b"\1"))


def test_device_set_irqs_bad_start_count_range(desk):
    refuses(desk, irqs(TRIGGER | NONE, MSIX, 2047, 2))


def test_device_set_irqs_bad_start_count_range2(desk):
    refuses(desk, irqs(TRIGGER | NONE, MSIX, 2048, 1))
    refuses(desk, irqs(TRIGGER | NONE, MSIX, 2049, 1))


def test_device_set_irqs_bad_start_count_range3(desk):
    refuses(desk, irqs(TRIGGER | EVENTFD, MSIX, 284, 2**32 - 1))


@pytest.mark.parametrize("action", [MASK, UNMASK])
def test_device_set_irqs_bad_action_for_err_irq(slot, action):
    assert slot.ask(SET_IRQS, irqs(action | NONE, ERR, 0, 1)) == REFUSED


@pytest.mark.parametrize("action", [MASK, UNMASK])
def test_device_set_irqs_bad_action_for_req_irq(slot, action):
    assert slot.ask(SET_IRQS, irqs(action | NONE, REQ, 0, 1)) == REFUSED


def test_device_set_irqs_bad_start_count_range_for_err_irq(desk):
    refuses(desk, irqs(TRIGGER | NONE, ERR, 0, 2))


def test_device_set_irqs_bad_start_count_range_for_req_irq(desk):
    refuses(desk, irqs(TRIGGER | NONE, REQ, 0, 2))


def test_device_set_irqs_bad_start_for_count_0(desk):
    refuses(desk, irqs(MASK | NONE, INTX, 1, 0))


def test_device_set_irqs_bad_action_for_count_0(desk):
    refuses(desk, irqs(MASK | NONE, INTX, 0, 0))


def test_device_set_irqs_bad_action_and_data_type_for_count_0(desk):
    refuses(desk, irqs(TRIGGER | BOOL, MSIX, 0, 0))


def test_device_set_irqs_bad_fds_for_DATA_BOOL(desk):
    refuses(desk, irqs(TRIGGER | BOOL, MSIX, 0, 1, b"\0"), fds=1)


def test_device_set_irqs_bad_fds_for_DATA_NONE(desk):
    refuses(desk, irqs(TRIGGER | NONE, MSIX, 0, 1), fds=1)


def test_device_set_irqs_bad_fds_for_count_2(desk):
    refuses(desk, irqs(TRIGGER | EVENTFD, MSIX, 0, 2), fds=1)


def test_device_set_irqs_disable(desk):
    """No data and no count: the whole index is off; no descriptors: those vectors are."""
    assert desk.ask(SET_IRQS, irqs(TRIGGER | EVENTFD, REQ, 0, 1), eventfds(1)) == DONE
    assert desk.ask(SET_IRQS, irqs(TRIGGER | NONE, REQ)) == DONE
    assert desk.device.eventfds == {}
    assert desk.ask(SET_IRQS, irqs(TRIGGER | EVENTFD, REQ, 0, 1), eventfds(1)) == DONE
    assert desk.ask(SET_IRQS, irqs(TRIGGER | EVENTFD, REQ, 0, 1)) == DONE
    assert desk.device.eventfds == {}


def test_device_set_irqs_enable(desk):
    assert desk.ask(SET_IRQS, irqs(TRIGGER | EVENTFD, MSIX, 0, 1), eventfds(1)) == DONE
    assert list(desk.device.eventfds) == [(MSIX, 0)]


def test_device_set_irqs_trigger_bool_too_small(desk):
    refuses(desk, irqs(TRIGGER | BOOL, MSIX, 0, 2, b"\0", argsz=21))


def test_device_set_irqs_trigger_bool_too_large(desk):
    refuses(desk, irqs(TRIGGER | BOOL, MSIX, 0, 2, b"\0\0\0", argsz=23))


def test_device_set_irqs_enable_update(desk):
    """A second eventfd takes the place of the first, which is closed."""
    assert desk.ask(SET_IRQS, irqs(TRIGGER | EVENTFD, MSIX, 0, 1), eventfds(1)) == DONE
    before = open_fds()
    with Fd(os.eventfd(0, os.EFD_NONBLOCK)) as ours:
        second = irqs(TRIGGER | EVENTFD, MSIX, 0, 1)
        assert desk.ask(SET_IRQS, second, [ours.duplicate()]) == DONE
        assert open_fds() == before + 1
        desk.ask(SET_IRQS, irqs(TRIGGER | NONE, MSIX, 0, 1))
        assert os.eventfd_read(ours.fileno()) == 1


def test_device_set_irqs_enable_trigger_none(desk):
    ours = assigned(desk)
    assert desk.ask(SET_IRQS, irqs(TRIGGER | NONE, MSIX, 1, 1)) == DONE
    assert counts(ours) == [4, 9]


def test_device_set_irqs_enable_trigger_bool(desk):
    ours = assigned(desk)
    switches = irqs(TRIGGER | BOOL, MSIX, 0, 2, struct.pack("??", False, True), argsz=22)
    assert desk.ask(SET_IRQS, switches) == DONE
    assert counts(ours) == [4, 9]


@pytest.mark.parametrize("index", [INTX, MSIX])
def test_irq_state(desk, index):
    """Masks reach the device, which says which of its interrupts have them."""
    assert desk.ask(SET_IRQS, irqs(MASK | NONE, index, 0, 1)) == DONE
    assert desk.ask(SET_IRQS, irqs(UNMASK | NONE, index, 0, 1)) == DONE
    assert desk.device.log == [("mask", index, 0, 1), ("unmask", index, 0, 1)]
