"""What any PCI function must be, in config space and in its registers.

Spec: PCI 3.0 §6.1, §6.7, §6.8.2; PCIe 5.0 §7.6 (extended capabilities).
"""

import struct

from guest.access import Access
from guest.protocol import Message

_MSI, _MSIX = 0x05, 0x11
_PATTERN = 0x8877665544332211


def look_at_config(
    access: Access, ids: tuple[int, int], class_code: int, wrong: list[str]
) -> Message:
    """Facts of config space; a sentence goes to ``wrong`` for each thing that is not right.

    ``ids`` (vendor, device) and ``class_code`` are what it must say.
    """
    config = access.config(0, 4096)
    vendor, device = struct.unpack_from("<HH", config)
    if (vendor, device) != ids:
        wrong.append(f"ids are {vendor:04x}:{device:04x}")
    found_class = int.from_bytes(config[9:12], "little")
    if found_class != class_code:
        wrong.append(f"class is {found_class:06x}, not {class_code:06x}")
    capabilities = _capabilities(config, wrong)
    extended = _extended(config, wrong)
    if _MSIX in capabilities:
        _look_at_msix(access, config, capabilities[_MSIX], wrong)
    elif _MSI not in capabilities:
        wrong.append("neither an MSI-X nor an MSI capability")
    return {
        "ids": f"{vendor:04x}:{device:04x}",
        "class": f"{found_class:06x}",
        "capabilities": [f"{kind:02x}" for kind in capabilities],
        "extended-capabilities": [f"{kind:04x}" for kind in extended],
        "config-bytes": len(config),
    }


def _capabilities(config: bytes, wrong: list[str]) -> dict[int, int]:
    """Offset by capability id."""
    found: dict[int, int] = {}
    at = config[0x34] if config[0x06] & 0x10 else 0
    while at:
        if at < 0x40 or at & 3 or at in found.values():
            wrong.append(f"capability list leads to {at:#x}")
            break
        found[config[at]] = at
        at = config[at + 1]
    return found


def _extended(config: bytes, wrong: list[str]) -> dict[int, int]:
    """Offset by extended capability id."""
    found: dict[int, int] = {}
    at = 0x100 if len(config) >= 4096 and any(config[0x100:0x104]) else 0
    while at:
        if at < 0x100 or at & 3 or at in found.values():
            wrong.append(f"extended capability list leads to {at:#x}")
            break
        header: int = struct.unpack_from("<I", config, at)[0]
        found[header & 0xFFFF] = at
        at = header >> 20
    return found


def _look_at_msix(access: Access, config: bytes, at: int, wrong: list[str]) -> None:
    control, table, pending = struct.unpack_from("<HII", config, at + 2)
    count = (control & 0x7FF) + 1
    if count != access.vectors:
        wrong.append(f"MSI-X capability has {count} vectors, VFIO says {access.vectors}")
    for what, place, length in (
        ("table", table, count * 16),
        ("PBA", pending, -(-count // 64) * 8),
    ):
        bar, offset = place & 7, place & ~7
        if bar > 5 or offset + length > access.size(bar):
            wrong.append(f"MSI-X {what} at {offset:#x}+{length:#x} is outside of BAR{bar}")


def try_register(access: Access, name: str, bar: int, at: int, kept: int, wrong: list[str]) -> None:
    """See that a 64-bit register takes every access size, and keeps what other accesses wrote.

    ``kept`` are the bits that it stores.  It has its old value afterwards.
    """
    before, pattern = access.read(bar, at, 8), _PATTERN & kept
    for size in (1, 2, 4, 8):
        access.write(bar, at, 0, 8)
        for offset in range(0, 8, size):
            part = pattern >> offset * 8 & (1 << size * 8) - 1
            access.write(bar, at + offset, part, size)
            if (got := access.read(bar, at + offset, size)) != part:
                wrong.append(f"{name}+{offset} reads {got:#x} after {part:#x}, {size} bytes")
        if (got := access.read(bar, at, 8)) != pattern:
            wrong.append(f"{name} reads {got:#x} after {pattern:#x} in parts of {size}")
    access.write(bar, at, before, 8)
