"""DEVICE_GET_INFO."""

import errno
import struct

from tests.support.vfio_user import GET_INFO, OK, refused


def test_device_get_info(desk):
    """It needs sixteen bytes and room for as many; the reply is no longer than that."""
    assert desk.ask(GET_INFO, bytes(8)) == refused(errno.EINVAL)
    assert desk.ask(GET_INFO, struct.pack("<IIII", 8, 0, 0, 0)) == refused(errno.EINVAL)
    reply = struct.pack("<IIII", 16, 1 | 2, 9, 5)  # it can be reset, and is a PCI device
    for argsz in (16, 32):
        assert desk.ask(GET_INFO, struct.pack("<IIII", argsz, 0, 0, 0)) == (OK, 0, reply)
