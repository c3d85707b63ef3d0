"""Interrupts that the device raises."""

import os

import pytest

from mdevemu.fds import Fd
from tests.support.vfio_user import OK, SET_IRQS, irqs

EVENTFD_TRIGGER, MSIX = 0x24, 2


def assign(slot, vector, value):
    """Our end of an eventfd that is at ``value`` and a vector's."""
    ours = Fd(os.eventfd(value, os.EFD_NONBLOCK))
    lent = [ours.duplicate()]
    assert slot.ask(SET_IRQS, irqs(EVENTFD_TRIGGER, MSIX, vector, 1), lent)[0] == OK
    return ours


@pytest.fixture
def listener(slot):
    """An eventfd of vector 2, at four."""
    with assign(slot, 2, 4) as ours:
        yield ours


def test_irq_trigger_bad_subindex(slot, listener):
    """A vector that does not exist is lost, and reaches no other."""
    slot.device.interrupt(4)
    slot.device.interrupt(5)
    assert os.eventfd_read(listener.fileno()) == 4


def test_irq_trigger_no_interrupt(slot, listener):
    """A vector without an eventfd reaches no other; its interrupt waits for the eventfd."""
    slot.device.interrupt(0)
    assert os.eventfd_read(listener.fileno()) == 4
    with assign(slot, 0, 0) as late:
        assert os.eventfd_read(late.fileno()) == 1


def test_irq_trigger(slot, listener):
    slot.device.interrupt(2)
    assert os.eventfd_read(listener.fileno()) == 5
