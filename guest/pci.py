"""PCI functions as sysfs shows them; handing one over to a driver.

Spec: Linux, Documentation/ABI/testing/sysfs-bus-pci.
"""

import os
import struct
import time
from collections.abc import Collection

from guest.errors import DeviceError, InvalidArgument, NotThere
from guest.protocol import Message

SYSFS = "/sys"
_BRIDGE = 0x06  # base class of bridges, whose drivers do no DMA of their own
_BIND = 5.0  # seconds a driver gets to take a function


class Function:
    """One PCI function.

    Attributes:
        address: domain:bus:device.function, as sysfs spells it.
        path: its folder in sysfs.
    """

    def __init__(self, address: str, sysfs: str = SYSFS) -> None:
        self.address = address
        self.path = f"{sysfs}/bus/pci/devices/{address}"
        self._bus = f"{sysfs}/bus/pci"

    @property
    def vendor(self) -> int:
        """Vendor id."""
        return int(self._text("vendor"), 16)

    @property
    def device(self) -> int:
        """Device id."""
        return int(self._text("device"), 16)

    @property
    def class_code(self) -> int:
        """Base class, subclass, programming interface: 24 bits."""
        return int(self._text("class"), 16)

    @property
    def bridge(self) -> bool:
        """It leads to other functions."""
        return self.class_code >> 16 == _BRIDGE

    @property
    def driver(self) -> str | None:
        """Name of the driver that holds it."""
        return self._link("driver")

    @property
    def group(self) -> int | None:
        """Number of its IOMMU group; None without an IOMMU."""
        name = self._link("iommu_group")
        return None if name is None else int(name)

    @property
    def enabled(self) -> bool:
        """Somebody enabled its BARs."""
        return self._text("enable") != "0"

    def enable(self) -> None:
        """Enable its BARs, for those who map them through sysfs."""
        self._write("enable", "1")

    def config(self, length: int = 256) -> bytes:
        """The first ``length`` bytes of config space; fewer if it has fewer."""
        with open(f"{self.path}/config", "rb") as file:
            return file.read(length)

    def bars(self) -> list[Message]:
        """Index, size in bytes and kind of each BAR that it has."""
        found: list[Message] = []
        for index, line in enumerate(self._text("resource").splitlines()[:6]):
            first, last, flags = (int(number, 16) for number in line.split())
            if last:
                bar: Message = {"index": index, "address": first, "size": last - first + 1}
                bar["prefetchable"] = bool(flags & 0x2000)
                bar["wide"] = bool(flags & 0x100000)
                found.append(bar)
        return found

    def neighbours(self) -> "list[Function]":
        """Every function of its IOMMU group, itself too."""
        path = f"{self.path}/iommu_group/devices"
        sysfs = self._bus.removesuffix("/bus/pci")
        return [Function(address, sysfs) for address in sorted(os.listdir(path))]

    def bind(self, driver: str) -> None:
        """Hand the function to ``driver``, whatever its ids and whoever holds it now.

        Raises:
            NotThere: no such driver is loaded.
            DeviceError: the driver does not take it.
        """
        if self.driver == driver:
            return
        if not os.path.isdir(f"{self._bus}/drivers/{driver}"):
            raise NotThere(f"driver {driver!r} is not loaded")
        self._write("driver_override", driver)
        self.unbind()
        try:
            with open(f"{self._bus}/drivers_probe", "w") as probe:
                probe.write(self.address)
        except OSError as error:
            raise DeviceError(f"{self.address}: {driver} does not take it: {error}") from None
        deadline = time.monotonic() + _BIND
        while self.driver != driver:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.address}: {driver} does not take it ({self.driver} has it)"
                )
            time.sleep(0.01)

    def unbind(self) -> None:
        """Take the function from its driver, if one has it."""
        if self.driver is not None:
            self._write("driver/unbind", self.address)

    def facts(self) -> Message:
        """All of it, for the host."""
        return {
            "address": self.address,
            "vendor": self.vendor,
            "device": self.device,
            "class": self.class_code,
            "driver": self.driver,
            "iommu-group": self.group,
            "enabled": self.enabled,
            "bars": self.bars(),
            "vectors": self._vectors(),
        }

    def _vectors(self) -> int:
        """Entries of its MSI-X table.

        Spec: PCI 3.0 §6.7 (capability list), §6.8.2 (MSI-X).
        """
        config = self.config()
        if len(config) < 0x40 or not config[0x06] & 0x10:
            return 0
        at, seen = config[0x34] & 0xFC, 0
        while 0x40 <= at <= len(config) - 4 and seen < 48:
            if config[at] == 0x11:
                return (int(struct.unpack_from("<H", config, at + 2)[0]) & 0x7FF) + 1
            at, seen = config[at + 1] & 0xFC, seen + 1
        return 0

    def _text(self, name: str) -> str:
        try:
            with open(f"{self.path}/{name}") as file:
                return file.read().strip()
        except FileNotFoundError:
            raise NotThere(f"no PCI function {self.address}") from None

    def _write(self, name: str, text: str) -> None:
        with open(f"{self.path}/{name}", "w") as file:
            file.write(text)

    def _link(self, name: str) -> str | None:
        try:
            return os.path.basename(os.readlink(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None


def functions(sysfs: str = SYSFS) -> list[Function]:
    """Every PCI function, in order of address."""
    path = f"{sysfs}/bus/pci/devices"
    addresses = sorted(os.listdir(path)) if os.path.isdir(path) else []
    return [Function(address, sysfs) for address in addresses]


def find(
    accepted: Collection[tuple[int, int]], address: str | None = None, sysfs: str = SYSFS
) -> Function:
    """The function with one of these (vendor, device) ids; ``address`` chooses among several.

    Raises:
        NotThere: there is none.
        InvalidArgument: there are several and no address, or the address is another device's.
    """
    every = functions(sysfs)
    fitting = [one for one in every if (one.vendor, one.device) in accepted]
    wanted = " or ".join(f"{vendor:04x}:{device:04x}" for vendor, device in accepted)
    names = ", ".join(one.address for one in fitting) or "none"
    if address is None:
        if not fitting:
            raise NotThere(f"no PCI function is a {wanted}")
        if len(fitting) > 1:
            raise InvalidArgument(f"device: several are a {wanted}: {names}")
        return fitting[0]
    for one in every:
        if one.address == address:
            if one not in fitting:
                ids = f"{one.vendor:04x}:{one.device:04x}"
                raise InvalidArgument(f"device: {address} is a {ids}, not a {wanted}")
            return one
    raise NotThere(f"no PCI function {address} ({wanted} are: {names})")


def take_group(function: Function, driver: str = "vfio-pci") -> int:
    """Bind the whole IOMMU group of ``function`` to ``driver``; gives the group's number.

    Bridges stay with their own driver: they do no DMA and VFIO tolerates them.

    Raises:
        DeviceError: there is no IOMMU in front of it, or the driver does not take it.
    """
    group = function.group
    if group is None:
        raise DeviceError(
            f"{function.address} is in no IOMMU group: the machine needs a vIOMMU "
            "(intel_iommu=on on the kernel's command line)"
        )
    for member in function.neighbours():
        if not member.bridge:
            member.bind(driver)
    return group
