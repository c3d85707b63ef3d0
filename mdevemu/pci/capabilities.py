"""What the words of the PCI capabilities mean.

Spec: PCI Express Base 5.0 §7.5 to §7.8, §10.5 (ATS)
"""

import enum

from mdevemu.layout import Access, Word, bit, bits, code

RO, W1C, WO = Access.RO, Access.W1C, Access.WO


class Power(enum.IntEnum):
    """Device power states; this function has D0 and D3hot."""

    D0 = 0
    D1 = 1
    D2 = 2
    D3HOT = 3


# How a list of capabilities is linked.


class Capability(Word, width=16):
    """Id of a capability, and where the next one is (0: it is the last)."""

    id = bits(7, 0, RO)
    next = bits(15, 8, RO)


class ExtendedCapability(Word, width=32):
    """Id of an extended capability, and where the next one is (0: it is the last)."""

    id = bits(15, 0, RO)
    version = bits(19, 16, RO, reset=1)
    next = bits(31, 20, RO)


# Power management.  Spec: PCI Express Base 5.0 §7.5.2


class PowerCapabilities(Word, width=16):
    """No D1, no D2, and no power management event from any state."""

    version = bits(2, 0, RO, reset=3)


class PowerControl(Word, width=16):
    """A return from D3hot to D0 keeps every register: ``no_soft_reset``."""

    state = code(1, 0, Power, Access.RW)
    no_soft_reset = bit(3, RO, reset=True)


# MSI.  Spec: PCI Express Base 5.0 §7.7.1


class MsiControl(Word, width=16):
    """2**``multiple_capable`` vectors, of which software allows 2**``multiple_enable``."""

    enable = bit(0)
    multiple_capable = bits(3, 1, RO)
    multiple_enable = bits(6, 4)
    address_64 = bit(7, RO, reset=True)


class MsiAddress(Word, width=32):
    """Where messages are written, the lower half; a multiple of 4."""

    address = bits(31, 2)


class MsiUpperAddress(Word, width=32):
    """Where messages are written, the upper half."""

    address = bits(31, 0)


class MsiData(Word, width=16):
    """What is written; the number of the vector is in its lowest bits."""

    data = bits(15, 0)


# MSI-X.  Spec: PCI Express Base 5.0 §7.7.2


class MsixControl(Word, width=16):
    """``table_size`` is the number of vectors less one."""

    table_size = bits(10, 0, RO)
    function_mask = bit(14)
    enable = bit(15)


class MsixPlace(Word, width=32):
    """Where a structure is: the BAR, and the offset in units of 8 bytes."""

    bar = bits(2, 0, RO)
    offset = bits(31, 3, RO)


# PCI Express.  Spec: PCI Express Base 5.0 §7.5.3

GT5 = 2
"""Link speed code of 5 GT/s."""
LANES = 16
"""Width of the link."""


class ExpressCapabilities(Word, width=16):
    """Version 2, of an endpoint (``type`` 0)."""

    version = bits(3, 0, RO, reset=2)
    type = bits(7, 4, RO)
    message_number = bits(13, 9, RO)


class DeviceCapabilities(Word, width=32):
    """Payloads up to 256 bytes, extended tags, role-based errors, and function-level reset."""

    max_payload = bits(2, 0, RO, reset=1)
    extended_tag = bit(5, RO, reset=True)
    role_based_errors = bit(15, RO, reset=True)
    function_level_reset = bit(28, RO, reset=True)


class DeviceControl(Word, width=16):
    """``initiate_flr`` reads as zero; writing one resets the function."""

    correctable_reporting = bit(0)
    non_fatal_reporting = bit(1)
    fatal_reporting = bit(2)
    unsupported_reporting = bit(3)
    relaxed_ordering = bit(4, reset=True)
    max_payload = bits(7, 5)
    extended_tag = bit(8)
    no_snoop = bit(11, reset=True)
    max_read_request = bits(14, 12, reset=2)
    initiate_flr = bit(15, WO)


class DeviceStatus(Word, width=16):
    """Errors that were seen; nothing is ever under way when software can look."""

    correctable = bit(0, W1C)
    non_fatal = bit(1, W1C)
    fatal = bit(2, W1C)
    unsupported = bit(3, W1C)
    transactions_pending = bit(5, RO)


class LinkCapabilities(Word, width=32):
    """5 GT/s on 16 lanes, without active-state power management."""

    max_speed = bits(3, 0, RO, reset=GT5)
    max_width = bits(9, 4, RO, reset=LANES)
    aspm = bits(11, 10, RO)
    aspm_optional = bit(22, RO, reset=True)
    port = bits(31, 24, RO)


class LinkControl(Word, width=16):
    """Settings that change nothing on a link that is not there."""

    aspm = bits(1, 0)
    read_completion_boundary = bit(3)
    common_clock = bit(6)
    extended_synch = bit(7)


class LinkStatus(Word, width=16):
    """The link trained to what it is capable of."""

    speed = bits(3, 0, RO, reset=GT5)
    width = bits(9, 4, RO, reset=LANES)
    slot_clock = bit(12, RO, reset=True)


class DeviceCapabilities2(Word, width=32):
    """The one end-to-end prefix is for the PASID."""

    completion_timeout_disable = bit(4, RO, reset=True)
    extended_format = bit(20, RO, reset=True)
    end_to_end_prefix = bit(21, RO, reset=True)
    max_end_to_end_prefixes = bits(23, 22, RO, reset=1)


class DeviceControl2(Word, width=16):
    """Completions come always and at once, so a timeout has nothing to do."""

    completion_timeout_disable = bit(4)


class LinkCapabilities2(Word, width=32):
    """2.5 and 5 GT/s."""

    speeds = bits(7, 1, RO, reset=0b11)


class LinkControl2(Word, width=16):
    """Settings that change nothing on a link that is not there."""

    target_speed = bits(3, 0, reset=GT5)
    enter_compliance = bit(4)
    autonomous_speed_disable = bit(5)


class LinkStatus2(Word, width=16):
    """-3.5 dB de-emphasis."""

    de_emphasis = bit(0, RO, reset=True)


# Address translation services.  Spec: PCI Express Base 5.0 §10.5.1


class AtsCapabilities(Word, width=16):
    """32 invalidations can be outstanding (coded as 0)."""

    invalidate_queue_depth = bits(4, 0, RO)
    page_aligned_request = bit(5, RO, reset=True)
    global_invalidate = bit(6, RO, reset=True)


class AtsControl(Word, width=16):
    """The function asks for no translations: enabling it is remembered and changes nothing."""

    smallest_translation_unit = bits(4, 0)
    enable = bit(15)


# Process address space ids.  Spec: PCI Express Base 5.0 §7.8.8

PASID_BITS = 20
"""Width of a PASID, in bits."""


class PasidCapabilities(Word, width=16):
    """No execute permission, no privileged mode."""

    execute = bit(1, RO)
    privileged = bit(2, RO)
    width = bits(12, 8, RO, reset=PASID_BITS)


class PasidControl(Word, width=16):
    """Enabling is remembered; what an access is tagged with is up to the parent."""

    enable = bit(0)


# Device serial number.  Spec: PCI Express Base 5.0 §7.9.3


class SerialNumber(Word, width=32):
    """Half of an EUI-64."""

    value = bits(31, 0, RO)
