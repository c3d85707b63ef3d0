"""PCI functions in a sysfs of plain files."""

import os
import struct
import threading

import pytest

from guest import pci
from guest.errors import DeviceError, InvalidArgument, NotThere

NONE = "0x0000000000000000 0x0000000000000000 0x0000000000000000"


class Sysfs:
    """As much of sysfs as the code reads; a thread is the kernel that probes."""

    def __init__(self, root):
        self.root = root
        (root / "bus/pci/drivers/vfio-pci").mkdir(parents=True)
        self.probe = root / "bus/pci/drivers_probe"
        os.mkfifo(self.probe)

    def function(self, address, vendor, device, kind=0x120000, group=None, driver=None):
        folder = self.root / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor:#06x}\n")
        (folder / "device").write_text(f"{device:#06x}\n")
        (folder / "class").write_text(f"{kind:#08x}\n")
        (folder / "enable").write_text("0\n")
        (folder / "driver_override").write_text("(null)\n")
        (folder / "config").write_bytes(bytes(256))
        (folder / "resource").write_text("\n".join([NONE] * 7) + "\n")
        if group is not None:
            members = self.root / "kernel/iommu_groups" / str(group) / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(folder)
            (folder / "iommu_group").symlink_to(members.parent)
        if driver is not None:
            self.attach(address, driver)
        return folder

    def attach(self, address, driver):
        place = self.root / "bus/pci/drivers" / driver
        place.mkdir(exist_ok=True)
        (place / "unbind").touch()
        (self.root / "bus/pci/devices" / address / "driver").symlink_to(place)

    def kernel(self, times):
        """Bind what is written to drivers_probe to its driver_override."""

        def work():
            for _ in range(times):
                address = self.probe.read_text()
                folder = self.root / "bus/pci/devices" / address
                link = folder / "driver"
                if link.is_symlink():
                    link.unlink()
                self.attach(address, (folder / "driver_override").read_text())

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def sysfs(tmp_path):
    return Sysfs(tmp_path)


OURS = [(0x1234, 0xACC1), (0x8086, 0x2021)]


def test_find_only_one_needs_no_address(sysfs, tmp_path):
    sysfs.function("0000:00:02.0", 0x1234, 0xACC1)
    sysfs.function("0000:00:03.0", 0x8086, 0x1)
    assert pci.find(OURS, sysfs=str(tmp_path)).address == "0000:00:02.0"


def test_find_several_wants_an_address_and_names_them(sysfs, tmp_path):
    sysfs.function("0000:00:02.0", 0x1234, 0xACC1)
    sysfs.function("0000:00:03.0", 0x1234, 0xACC1)
    with pytest.raises(InvalidArgument, match=r"00:02\.0, 0000:00:03\.0"):
        pci.find(OURS, sysfs=str(tmp_path))
    chosen = pci.find(OURS, "0000:00:03.0", str(tmp_path))
    assert chosen.address == "0000:00:03.0"


def test_find_takes_any_of_the_devices_that_are_accepted(sysfs, tmp_path):
    sysfs.function("0000:00:02.0", 0x1234, 0xACC1)
    sysfs.function("0000:00:03.0", 0x8086, 0x2021)
    with pytest.raises(InvalidArgument, match=r"1234:acc1 or 8086:2021: 0000:00:02\.0, 0000:00:03"):
        pci.find(OURS, sysfs=str(tmp_path))
    assert pci.find(OURS[1:], sysfs=str(tmp_path)).address == "0000:00:03.0"


def test_find_none_or_another_device_is_refused(sysfs, tmp_path):
    sysfs.function("0000:00:03.0", 0x8086, 0x1)
    with pytest.raises(NotThere, match="1234:acc1"):
        pci.find(OURS, sysfs=str(tmp_path))
    with pytest.raises(InvalidArgument, match="8086:0001"):
        pci.find(OURS, "0000:00:03.0", str(tmp_path))
    with pytest.raises(NotThere, match=r"00:09\.0"):
        pci.find(OURS, "0000:00:09.0", str(tmp_path))


def test_facts_hold_bars_and_vectors(sysfs, tmp_path):
    folder = sysfs.function("0000:00:02.0", 0x1234, 0xACC1, group=5)
    bar = "0x00000000fe000000 0x00000000fe00ffff 0x0000000000142208"
    (folder / "resource").write_text("\n".join([NONE, bar] + [NONE] * 5) + "\n")
    config = bytearray(256)
    config[0x06] = 0x10
    config[0x34] = 0x40
    config[0x40:0x44] = bytes([0x01, 0x50, 0, 0])
    struct.pack_into("<BBH", config, 0x50, 0x11, 0, 4)
    (folder / "config").write_bytes(config)
    facts = pci.Function("0000:00:02.0", str(tmp_path)).facts()
    assert facts["bars"] == [
        {"index": 1, "address": 0xFE000000, "size": 0x10000, "prefetchable": True, "wide": True}
    ]
    assert facts["vectors"] == 5
    assert facts["iommu-group"] == 5
    assert facts["driver"] is None


def test_facts_capability_list_in_a_circle_ends(sysfs, tmp_path):
    folder = sysfs.function("0000:00:02.0", 0x1234, 0xACC1)
    config = bytearray(256)
    config[0x06] = 0x10
    config[0x34] = 0x40
    config[0x40:0x42] = bytes([0x01, 0x40])
    (folder / "config").write_bytes(config)
    assert pci.Function("0000:00:02.0", str(tmp_path)).facts()["vectors"] == 0


def test_take_group_binds_every_function_but_bridges(sysfs, tmp_path):
    sysfs.function("0000:00:01.0", 0x8086, 0x2, kind=0x060400, group=1, driver="pcieport")
    sysfs.function("0000:01:00.0", 0x1234, 0xACC1, group=1)
    other = sysfs.function("0000:01:00.1", 0x8086, 0x3, kind=0x020000, group=1, driver="e1000")
    kernel = sysfs.kernel(2)
    function = pci.Function("0000:01:00.0", str(tmp_path))
    assert pci.take_group(function) == 1
    kernel.join(5)
    drivers = {member.address: member.driver for member in function.neighbours()}
    assert drivers == {
        "0000:00:01.0": "pcieport",
        "0000:01:00.0": "vfio-pci",
        "0000:01:00.1": "vfio-pci",
    }
    unbound = other.parents[2] / "pci/drivers/e1000/unbind"
    assert unbound.read_text() == "0000:01:00.1"


def test_take_group_without_an_iommu_says_what_is_missing(sysfs, tmp_path):
    sysfs.function("0000:01:00.0", 0x1234, 0xACC1)
    with pytest.raises(DeviceError, match="intel_iommu=on"):
        pci.take_group(pci.Function("0000:01:00.0", str(tmp_path)))


def test_bind_driver_that_is_not_loaded_changes_nothing(sysfs, tmp_path):
    folder = sysfs.function("0000:01:00.0", 0x1234, 0xACC1)
    with pytest.raises(NotThere, match="nosuch"):
        pci.Function("0000:01:00.0", str(tmp_path)).bind("nosuch")
    assert (folder / "driver_override").read_text() == "(null)\n"
