"""Descriptors instead of messages, where a device offers none."""

from tests.protocol.libvfio_user.test_device_get_region_io_fds import (
    GET_REGION_IO_FDS,
    reply,
    request,
)
from tests.support.vfio_user import OK


def test_shadow_ioeventfd_none(desk):
    assert desk.ask(GET_REGION_IO_FDS, request(argsz=16 + 48)) == (OK, 0, reply(0))
