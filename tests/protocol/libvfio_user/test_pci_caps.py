"""Capabilities in configuration space.

libvfio-user refuses writes that have no effect; on PCI they are legal, and dropped.
Spec: PCIe 5.0 §7.5.1.1, §7.5.2, §7.5.3, §7.7.2
"""

import pytest

POWER, EXPRESS, MSIX = 0x01, 0x10, 0x11
LINK_CONTROL2, DEVICE_CONTROL, DEVICE_CONTROL2 = 0x30, 0x08, 0x28
MASK_ALL, ENABLE = 0x4000, 0x8000


def test_add_caps(slot):
    """The list is in order, aligned, and ends; its links and constants cannot be written."""
    found = list(slot.capabilities())
    assert [id for id, _ in found] == [POWER, EXPRESS, MSIX]
    assert all(at >= 0x40 and at % 4 == 0 for _, at in found)
    for id, at in found:
        before = slot.read(at, 2)
        slot.write(at, b"\xff")
        slot.write(at, b"\xff\xff")
        assert slot.read(at, 2) == before, id
    power = slot.capability(POWER)
    before = slot.read(power + 2, 2)
    for width in (1, 2):
        slot.write(power + 2, b"\xff" * width)
        assert slot.read(power + 2, 2) == before
    # Control and status takes writes of any width; what follows it does not exist.
    slot.write(power + 4, b"\x03")
    assert slot.read(power + 4, 1)[0] & 3 == 3
    slot.write(power + 4, b"\x00\x02")
    assert slot.read(power + 4, 1)[0] & 3 == 0
    slot.write(power + 6, b"\xff\xff")
    assert slot.read(power + 6, 2) == b"\0\0"


def test_pci_cap_write_px(slot):
    """Function-level reset is a bit; to write beside it is no reset.  Spec: PCIe 5.0 §6.6.2"""
    control = slot.capability(EXPRESS) + DEVICE_CONTROL
    slot.write(control, b"\x00\x80")
    assert slot.board.told.count("reset") == 1
    assert slot.read(control, 2)[1] & 0x80 == 0
    for beside in (control - 1, control + 2):
        slot.write(beside, b"\x80")
    slot.write(control, b"\x80")
    assert slot.board.told.count("reset") == 1
    slot.write(control + 1, b"\x80")
    assert slot.board.told.count("reset") == 2


def test_pci_cap_write_msix(slot):
    """Only the mask and the enable bit can be written, by any access that holds their byte."""
    at = slot.capability(MSIX)
    before = slot.read(at, 12)
    size = before[2:4]

    def control():
        after = slot.read(at, 12)
        assert after[:2] + after[4:] == before[:2] + before[4:]
        return int.from_bytes(after[2:4], "little") ^ int.from_bytes(size, "little")

    slot.write(at + 2, b"\xff\xff")
    assert control() == MASK_ALL | ENABLE
    slot.write(at + 2, b"\0\0")
    assert control() == 0
    slot.write(at + 3, (MASK_ALL | ENABLE).to_bytes(2, "little")[1:] + b"\xff")
    assert control() == MASK_ALL | ENABLE
    slot.write(at + 2, ENABLE.to_bytes(2, "little"))
    slot.write(at + 4, b"\0")
    assert control() == ENABLE


@pytest.mark.parametrize("value", [0x0010, 0x0000])
def test_pci_cap_write_pxdc2(slot, value):
    """The completion timeout can be disabled; fields that are not there stay zero."""
    control = slot.capability(EXPRESS) + DEVICE_CONTROL2
    slot.write(control, (value | 0xAD00).to_bytes(2, "little"))
    assert slot.read(control, 2) == value.to_bytes(2, "little")


@pytest.mark.parametrize("value", [0x0001, 0x0031, 0x0002])
def test_pci_cap_write_pxlc2(slot, value):
    """Settings of the link are kept; fields that are not there stay zero."""
    control = slot.capability(EXPRESS) + LINK_CONTROL2
    slot.write(control, (value | 0xBE00).to_bytes(2, "little"))
    assert slot.read(control, 2) == value.to_bytes(2, "little")
