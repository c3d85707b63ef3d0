"""A region that is not there."""

import struct

from tests.support.vfio_user import GET_REGION_INFO, OK


def test_device_get_region_info_zero_sized_region(desk):
    """It has no size, no rights and no capabilities, and to ask for it is no error."""
    info = struct.pack("<IIIIQQ", 32, 0, 1, 0, 0, 0)
    assert desk.ask(GET_REGION_INFO, info) == (OK, 0, info)
