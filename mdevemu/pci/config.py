"""Configuration space: 4 KiB of registers that say what a function is.

``ConfigSpace`` declares where everything is.  ``config_space`` makes of it the
one of a certain function: its ids, its BARs, its capabilities.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

from mdevemu.fds import Fd
from mdevemu.layout import Access, Word, bit, bits
from mdevemu.pci import capabilities as cap
from mdevemu.pci.derive import derive, preset
from mdevemu.registers import Reg, RegisterMap

RO, W1C = Access.RO, Access.W1C


@dataclass(frozen=True, slots=True)
class Identity:
    """How a PCI function introduces itself.

    Attributes:
        class_code: 24 bits: base class, subclass, interface.
        subsystem_vendor, subsystem: the function's own ids if None.
        serial: EUI-64, or None for a function without a serial number.
    """

    vendor: int
    device: int
    class_code: int
    subsystem_vendor: int | None = None
    subsystem: int | None = None
    revision: int = 0
    serial: int | None = None


@dataclass(frozen=True, slots=True)
class Doorbell:
    """Bytes of a BAR that a VMM may reach by a descriptor instead of by messages.

    Attributes:
        region: number of the BAR.
        offset: where they begin.
        size: how many they are.
        data: the one value whose write rings; None if any access may come.
    """

    region: int
    offset: int
    size: int
    data: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One range of addresses that a function decodes.

    Attributes:
        index: which base address register, 0 to 5; a wide one takes the next as well.
        size: bytes, a power of two.
        wide: its address has 64 bits.
        memory: file that a VMM may map instead of sending accesses; its device owns it.
        memory_size: how many bytes of ``memory`` there are, 0 for the whole BAR.
    """

    index: int
    size: int
    wide: bool = False
    prefetchable: bool = False
    memory: Fd | None = None
    memory_size: int = 0

    def __post_init__(self) -> None:
        assert self.size >= 16, f"BAR {self.index} of {self.size} bytes"
        assert self.size & (self.size - 1) == 0, f"BAR {self.index} of {self.size:#x} bytes"
        assert 0 <= self.index <= 5 - self.wide, f"BAR {self.index} does not exist"
        assert self.memory_size <= self.size, f"BAR {self.index} is smaller than its memory"


class Id(Word, width=16):
    """A vendor's or device's number."""

    value = bits(15, 0, RO)


class Command(Word, width=16):
    """What the function is allowed to do.  It has no I/O space.

    Spec: PCI Express Base 5.0 §7.5.1.1.3
    """

    memory = bit(1)
    bus_master = bit(2)
    parity_response = bit(6)
    serr = bit(8)
    interrupt_disable = bit(10)


class Status(Word, width=16):
    """What happened to the function.  Spec: PCI Express Base 5.0 §7.5.1.1.4"""

    interrupt = bit(3, RO)
    capabilities = bit(4, RO, reset=True)
    master_parity_error = bit(8, W1C)
    signaled_target_abort = bit(11, W1C)
    received_target_abort = bit(12, W1C)
    received_master_abort = bit(13, W1C)
    signaled_system_error = bit(14, W1C)
    parity_error = bit(15, W1C)


class ClassCode(Word, width=32):
    """What kind of function this is."""

    revision = bits(7, 0, RO)
    interface = bits(15, 8, RO)
    subclass = bits(23, 16, RO)
    base = bits(31, 24, RO)


class Scratch(Word, width=8):
    """A byte for software only."""

    value = bits(7, 0)


class HeaderType(Word, width=8):
    """Type 0, and there are no other functions."""

    layout = bits(6, 0, RO)
    multi_function = bit(7, RO)


class BaseAddress(Word, width=32):
    """Where a range is.  Address bits below its size read as zero, which tells the size."""

    io = bit(0, RO)
    type = bits(2, 1, RO)
    prefetchable = bit(3, RO)
    address = bits(31, 4)


class CapabilitiesPointer(Word, width=8):
    """Offset of the first capability."""

    value = bits(7, 0, RO, reset=0x40)


class InterruptPin(Word, width=8):
    """INTA."""

    value = bits(7, 0, RO, reset=1)


class ConfigSpace(RegisterMap, size=0x1000):
    """Header type 0, its capabilities, and its extended capabilities."""

    vendor = Reg(0x00, Id)
    device = Reg(0x02, Id)
    command = Reg(0x04, Command)
    status = Reg(0x06, Status)
    class_code = Reg(0x08, ClassCode)
    cache_line_size = Reg(0x0C, Scratch)
    header_type = Reg(0x0E, HeaderType)
    bar0 = Reg(0x10, BaseAddress)
    bar1 = Reg(0x14, BaseAddress)
    bar2 = Reg(0x18, BaseAddress)
    bar3 = Reg(0x1C, BaseAddress)
    bar4 = Reg(0x20, BaseAddress)
    bar5 = Reg(0x24, BaseAddress)
    subsystem_vendor = Reg(0x2C, Id)
    subsystem = Reg(0x2E, Id)
    capabilities = Reg(0x34, CapabilitiesPointer)
    interrupt_line = Reg(0x3C, Scratch)
    interrupt_pin = Reg(0x3D, InterruptPin)

    power = Reg(0x40, preset(cap.Capability, id=0x01, next=0x50))
    power_capabilities = Reg(0x42, cap.PowerCapabilities)
    power_control = Reg(0x44, cap.PowerControl)

    express = Reg(0x50, preset(cap.Capability, id=0x10, next=0x90))
    express_capabilities = Reg(0x52, cap.ExpressCapabilities)
    device_capabilities = Reg(0x54, cap.DeviceCapabilities)
    device_control = Reg(0x58, cap.DeviceControl)
    device_status = Reg(0x5A, cap.DeviceStatus)
    link_capabilities = Reg(0x5C, cap.LinkCapabilities)
    link_control = Reg(0x60, cap.LinkControl)
    link_status = Reg(0x62, cap.LinkStatus)
    device_capabilities2 = Reg(0x74, cap.DeviceCapabilities2)
    device_control2 = Reg(0x78, cap.DeviceControl2)
    link_capabilities2 = Reg(0x7C, cap.LinkCapabilities2)
    link_control2 = Reg(0x80, cap.LinkControl2)
    link_status2 = Reg(0x82, cap.LinkStatus2)

    msix = Reg(0x90, preset(cap.Capability, id=0x11, next=0))
    msix_control = Reg(0x92, cap.MsixControl)
    msix_table = Reg(0x94, cap.MsixPlace)
    msix_pending = Reg(0x98, cap.MsixPlace)

    msi = Reg(0xA0, preset(cap.Capability, id=0x05, next=0))
    msi_control = Reg(0xA2, cap.MsiControl)
    msi_address = Reg(0xA4, cap.MsiAddress)
    msi_upper_address = Reg(0xA8, cap.MsiUpperAddress)
    msi_data = Reg(0xAC, cap.MsiData)

    ats = Reg(0x100, preset(cap.ExtendedCapability, id=0x0F, next=0x110))
    ats_capabilities = Reg(0x104, cap.AtsCapabilities)
    ats_control = Reg(0x106, cap.AtsControl)

    pasid = Reg(0x110, preset(cap.ExtendedCapability, id=0x1B, next=0x120))
    pasid_capabilities = Reg(0x114, cap.PasidCapabilities)
    pasid_control = Reg(0x116, cap.PasidControl)

    serial = Reg(0x120, preset(cap.ExtendedCapability, id=0x03, next=0))
    serial_low = Reg(0x124, cap.SerialNumber)
    serial_high = Reg(0x128, cap.SerialNumber)


MSIX = ("msix", "msix_control", "msix_table", "msix_pending")
"""The registers of the MSI-X capability, the last of a list that has it."""
MSI = ("msi", "msi_control", "msi_address", "msi_upper_address", "msi_data")
"""The registers of the MSI capability, the last of a list that has it."""

KINDS = 256
"""How many kinds of functions are remembered: an mdev is mostly like others of its type."""

SERIAL = ("serial", "serial_low", "serial_high")
"""The registers of the serial number, the last extended capability."""


def base_addresses(bar: Bar) -> dict[str, type[Word]]:
    """The one or two base address registers of a BAR, by their names.

    Spec: PCI Express Base 5.0 §7.5.1.2.1
    """
    order = bar.size.bit_length() - 1
    low: dict[str, object] = {
        "__doc__": BaseAddress.__doc__,
        "io": bit(0, RO),
        "type": bits(2, 1, RO, reset=2 if bar.wide else 0),
        "prefetchable": bit(3, RO, reset=bar.prefetchable),
    }
    if order < 32:
        low["address"] = bits(31, order)
    words = {f"bar{bar.index}": base_address(low)}
    if bar.wide:
        high = {"__doc__": "The upper half of an address.", "address": bits(31, max(order - 32, 0))}
        words[f"bar{bar.index + 1}"] = base_address(high)
    return words


def base_address(fields: Mapping[str, object]) -> type[Word]:
    """A base address register with these fields."""
    made = types.new_class("BaseAddress", (Word,), {"width": 32}, lambda ns: ns.update(fields))
    return cast(type[Word], made)


def config_space(
    identity: Identity,
    bars: Sequence[Bar],
    msix: tuple[int, int, int, int] | None = None,
    msi: int = 0,
) -> type[ConfigSpace]:
    """The configuration space of one function, still without its number; see ``set_serial``.

    Functions that differ in nothing else share it, however many there are.

    Args:
        bars: every BAR, the one with the MSI-X table included.
        msix: (vectors, BAR, offset of the table, offset of the pending bits), or None.
        msi: how many vectors instead, a power of two; 0 for no MSI.
    """
    alike = replace(identity, serial=None if identity.serial is None else 0)
    shapes = tuple(replace(bar, memory=None, memory_size=0) for bar in bars)
    return _config_space(alike, shapes, msix, msi)


def set_serial(regs: ConfigSpace, serial: int | None) -> None:
    """Give a function its serial number, if its kind has one."""
    if serial is not None:
        regs.serial_low.value, regs.serial_high.value = serial & 0xFFFF_FFFF, serial >> 32


@lru_cache(KINDS)
def _config_space(
    identity: Identity, bars: tuple[Bar, ...], msix: tuple[int, int, int, int] | None, msi: int
) -> type[ConfigSpace]:
    subsystem_vendor, subsystem = identity.subsystem_vendor, identity.subsystem
    code = identity.class_code
    words: dict[str, type[Word]] = {
        "vendor": preset(Id, value=identity.vendor),
        "device": preset(Id, value=identity.device),
        "class_code": preset(
            ClassCode,
            revision=identity.revision,
            interface=code & 0xFF,
            subclass=code >> 8 & 0xFF,
            base=code >> 16,
        ),
        "subsystem_vendor": preset(
            Id, value=identity.vendor if subsystem_vendor is None else subsystem_vendor
        ),
        "subsystem": preset(Id, value=identity.device if subsystem is None else subsystem),
    }
    without = {f"bar{index}" for index in range(6)}
    for bar in bars:
        for name, word in base_addresses(bar).items():
            assert name in without, f"{name} is taken twice"
            without.remove(name)
            words[name] = word
    if msix:
        vectors, index, table, pending = msix
        words["msix_control"] = preset(cap.MsixControl, table_size=vectors - 1)
        words["msix_table"] = preset(cap.MsixPlace, bar=index, offset=table // 8)
        words["msix_pending"] = preset(cap.MsixPlace, bar=index, offset=pending // 8)
    else:
        without.update(MSIX)
        place = ConfigSpace.msi.offset if msi else 0
        words["express"] = preset(cap.Capability, id=0x10, next=place)
    if msi:
        order = msi.bit_length() - 1
        words["msi_control"] = preset(cap.MsiControl, multiple_capable=order)
    else:
        without.update(MSI)
    if identity.serial is None:
        without.update(SERIAL)
        words["pasid"] = preset(cap.ExtendedCapability, id=0x1B, next=0)
    return derive(ConfigSpace, words, without=without)
