"""DEVICE_GET_IRQ_INFO."""

import errno
import struct

import pytest

from tests.support.vfio_user import GET_IRQ_INFO, OK, refused


def info(index, argsz=16, flags=0, count=0):
    return struct.pack("<IIII", argsz, flags, index, count)


def test_device_get_irq_info_bad_in(desk):
    assert desk.ask(GET_IRQ_INFO, bytes(8)) == refused(errno.EINVAL)
    assert desk.ask(GET_IRQ_INFO, info(4, argsz=8)) == refused(errno.EINVAL)
    assert desk.ask(GET_IRQ_INFO, info(5)) == refused(errno.EINVAL)


@pytest.mark.parametrize(("index", "flags", "count"), [(4, 1, 1), (3, 1, 1), (2, 1, 2048)])
def test_device_get_irq_info(desk, index, flags, count):
    """Room for more than the reply is fine, and what the request says of flags is not looked at."""
    desk.device.interrupts = (1, 0, 2048, 1, 1)
    reply = info(index, flags=flags, count=count)
    assert desk.ask(GET_IRQ_INFO, info(index)) == (OK, 0, reply)
    assert desk.ask(GET_IRQ_INFO, info(index, argsz=32, flags=0xFF, count=7)) == (OK, 0, reply)
