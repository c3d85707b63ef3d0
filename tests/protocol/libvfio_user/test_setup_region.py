"""Regions: what BARs a function may have, and accesses to them."""

import errno

import pytest

from mdevemu.pci.config import Bar
from tests.protocol.libvfio_user.test_device_get_region_info import info
from tests.support.vfio_user import GET_REGION_INFO, OK, READ, WRITE, access, refused


def test_setup_region_bad_index():
    """There are six BARs."""
    for index in (-2, 6, 9):
        with pytest.raises(AssertionError, match="does not exist"):
            Bar(index, 0x10000)


def test_setup_region_64bit_bar_odd_indices(slot_with):
    """A wide BAR needs the next register: BAR5 has none, others at odd places have."""
    with pytest.raises(AssertionError, match="does not exist"):
        Bar(5, 0x1000, wide=True)
    assert slot_with({"index": 3, "size": 0x1000, "wide": True}).sizes()[3] == 0x1000


@pytest.mark.parametrize("odd", [3, 5])
def test_setup_region_64bit_even_then_odd_fails(slot_with, odd):
    """The register that a wide BAR takes as well is no other's."""
    with pytest.raises(AssertionError, match=f"bar{odd} is taken twice"):
        slot_with({"index": odd - 1, "size": 0x1000, "wide": True}, {"index": odd, "size": 0x1000})


@pytest.mark.parametrize("odd", [3, 5])
def test_setup_region_64bit_odd_then_even_fails(slot_with, odd):
    """Whichever of them comes first."""
    with pytest.raises(AssertionError, match=f"bar{odd} is taken twice"):
        slot_with({"index": odd, "size": 0x1000}, {"index": odd - 1, "size": 0x1000, "wide": True})


def test_setup_region_cfg_always_cb(desk):
    """What configuration space reads as is the function's to say."""
    desk.device.bytes[7][:] = b"\xcc" * 0x1000
    assert desk.ask(READ, access(7, 0, 2)) == (OK, 0, access(7, 0, 2, b"\xcc\xcc"))
    assert desk.device.log == [("read", 7, 0, 2)]


@pytest.mark.parametrize("offset", [2**64 - 1, 2**64 - 256, 0x1000, 0x1000 - 255])
def test_region_offset_overflow(desk, offset):
    assert desk.ask(READ, access(7, offset, 256)) == refused(errno.EINVAL)
    assert desk.ask(WRITE, access(7, offset, 256, bytes(256))) == refused(errno.EINVAL)
    assert desk.device.log == []


def test_access_region_zero_count(desk):
    """Nothing to do is no error, and the device is not asked."""
    assert desk.ask(READ, access(0, 0, 0)) == (OK, 0, access(0, 0, 0))
    assert desk.ask(WRITE, access(0, 0, 0)) == (OK, 0, access(0, 0, 0))
    assert desk.device.log == []


def test_access_region_large_count(desk):
    """A count above max_data_xfer_size is refused whatever the region's size."""
    assert desk.ask(READ, access(4, 0, (1 << 20) + 8)) == refused(errno.EINVAL)
    assert desk.device.log == []


def test_region_offset_too_short(desk):
    assert desk.ask(WRITE, bytes(8)) == refused(errno.EINVAL)


def test_setup_region_large_64bit_bar_sizes(slot_with):
    """Sizes of regions have 64 bits."""
    slot = slot_with(
        {"index": 2, "size": 1 << 32, "wide": True}, {"index": 4, "size": 1 << 33, "wide": True}
    )
    for index, size in ((2, 1 << 32), (4, 1 << 33)):
        reply = info(index, flags=3, size=size)
        assert slot.ask(GET_REGION_INFO, info(index, argsz=40)) == (OK, 0, reply)
