"""Extended capabilities.  Spec: PCIe 5.0 §7.6.3, §7.9.3 (serial number)"""

from tests.protocol.libvfio_user.conftest import SERIAL

ATS, PASID, DSN = 0x0F, 0x1B, 0x03
NOTE, EXTENDED_NOTE = 0xF0, 0x200


def test_add_ext_caps(slot):
    """The list begins at 0x100, is aligned, and ends."""
    found = list(slot.extended())
    assert found[0][1] == 0x100
    assert all(at % 4 == 0 for _, at in found)
    assert len({at for _, at in found}) == len(found)


def test_find_ext_caps(slot):
    assert [id for id, _ in slot.extended()] == [ATS, PASID, DSN]


def test_pci_ext_cap_write_hdr(slot):
    for _, at in slot.extended():
        before = slot.read(at)
        slot.write(at, b"\xff")
        slot.write(at, b"\xff" * 4)
        assert slot.read(at) == before


def test_pci_ext_cap_readonly(slot):
    """What a capability says of the device stays as it is."""
    places = dict(slot.extended())
    for id in (ATS, PASID):
        before = slot.read(places[id] + 4, 2)
        slot.write(places[id] + 4, b"\xff\xff")
        assert slot.read(places[id] + 4, 2) == before


def test_pci_ext_cap_callback(slot):
    """Registers of the device's own are its to keep, in either half of configuration space."""
    for at in (NOTE, EXTENDED_NOTE):
        assert slot.read(at) == bytes(4)
        slot.write(at, b"Bye!")
        assert slot.read(at) == b"Bye!"
    assert slot.board.config.read(EXTENDED_NOTE, 4) == b"Bye!"


def test_pci_ext_cap_write_dsn(slot):
    at = dict(slot.extended())[DSN] + 4
    slot.write(at, bytes(8))
    assert slot.read(at, 8) == SERIAL.to_bytes(8, "little")


def test_pci_ext_cap_write_vendor(slot):
    """A write that goes past the device's register stays inside of it."""
    slot.write(EXTENDED_NOTE - 4, b"\xff" * 12)
    assert slot.read(EXTENDED_NOTE - 4, 12) == bytes(4) + b"\xff" * 4 + bytes(4)
