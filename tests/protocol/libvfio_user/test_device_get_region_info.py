"""DEVICE_GET_REGION_INFO, and sizes of BARs as a guest finds them."""

import errno
import struct

from mdevemu.vfio_user import Region
from tests.support.vfio_user import GET_REGION_INFO, OK, Desk, Device, frame, hello, refused

READ, WRITE, MMAP, CAPS = 1, 2, 4, 8
AREAS = 32 + 16 + 2 * 16
"""Bytes of a reply with two areas."""


def info(index, argsz=32, flags=0, capabilities=0, size=0, offset=0):
    return struct.pack("<IIIIQQ", argsz, flags, index, capabilities, size, offset)


def test_device_get_region_info_short_write(desk):
    assert desk.ask(GET_REGION_INFO, bytes(8)) == refused(errno.EINVAL)


def test_device_get_region_info_bad_argsz(desk):
    assert desk.ask(GET_REGION_INFO, info(0, argsz=8)) == refused(errno.EINVAL)


def test_device_get_region_info_bad_index(desk):
    assert desk.ask(GET_REGION_INFO, info(9)) == refused(errno.EINVAL)


def test_device_get_region_info_larger_argsz(desk):
    """The reply says how large it is, not how large it might have been."""
    reply = info(0, flags=READ | WRITE, size=0x1000)
    assert desk.ask(GET_REGION_INFO, info(0, argsz=40)) == (OK, 0, reply)


def test_device_get_region_info_small_argsz_caps(desk):
    """Without room for the areas the reply says how much they need, and brings no descriptor."""
    reply, passed = desk.tell(frame(1, GET_REGION_INFO, info(4)))
    assert reply[16:] == info(4, AREAS, READ | WRITE | MMAP, 0, 1 << 20, 128 << 10)
    assert passed == []


def test_device_get_region_info_caps(desk):
    """With room the areas follow the reply, and one descriptor comes with them."""
    request = info(4, argsz=AREAS) + bytes(AREAS - 32)
    reply, passed = desk.tell(frame(1, GET_REGION_INFO, request))
    sparse = struct.pack("<HHIII", 1, 1, 0, 2, 0)
    areas = struct.pack("<QQQQ", 0, 8 << 10, 64 << 10, 4 << 10)
    head = info(4, AREAS, READ | WRITE | MMAP | CAPS, 32, 1 << 20, 128 << 10)
    assert reply[16:] == head + sparse + areas
    assert passed == [desk.device.memory]


def test_device_get_pci_config_space_info_implicit_pci_init(slot):
    """A PCI Express function has 4 KiB of configuration space."""
    reply = info(7, flags=READ | WRITE, size=4096)
    assert slot.ask(GET_REGION_INFO, info(7, argsz=40)) == (OK, 0, reply)


def test_device_get_pci_config_space_info_implicit_no_pci_init():
    """A function that says its configuration space has 256 bytes is believed."""
    device = Device()
    device.regions[7] = Region(256, readable=True, writable=True)
    desk = Desk(device)
    desk.tell(hello())
    assert desk.ask(GET_REGION_INFO, info(7)) == (OK, 0, info(7, flags=READ | WRITE, size=256))
    desk.close()


def test_device_get_region_info_32bit_bar_size_detection(slot_with):
    """A BAR written with ones reads as zeros below its size.  Spec: PCIe 5.0 §7.5.1.2.1"""
    slot = slot_with(
        {"index": 2, "size": 8192}, {"index": 3, "size": 16384}, {"index": 0, "size": 16}
    )
    assert slot.sizes() == [16, 4096, 8192, 16384, 0, 0]  # BAR1 has the MSI-X table


def test_64bit_bar_size_detection_protocol(slot_with):
    """So does the pair of registers that a wide BAR has."""
    slot = slot_with(
        {"index": 2, "size": 1 << 33, "wide": True}, {"index": 4, "size": 1 << 34, "wide": True}
    )
    assert slot.sizes() == [0, 4096, 1 << 33, 0, 1 << 34, 0]
