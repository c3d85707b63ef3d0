"""What the header of configuration space says of the function behind it."""

import struct


def test_vfu_realize_ctx_pci_bars(slot_with):
    """Type bits of a BAR: memory, 64 bits wide, prefetchable.  Spec: PCIe 5.0 §7.5.1.2.1"""
    slot = slot_with(
        {"index": 0, "size": 4096},
        {"index": 2, "size": 1 << 20, "wide": True},
        {"index": 4, "size": 1 << 30, "wide": True, "prefetchable": True},
    )
    assert struct.unpack("<6I", slot.read(0x10, 24)) == (0, 0, 4, 0, 4 | 8, 0)


def test_vfu_realize_ctx_irqs(slot):
    """The function uses INTA."""
    assert slot.read(0x3D, 1) == b"\x01"


def test_vfu_realize_ctx_caps(slot):
    """The status register tells that there are capabilities, and nothing else."""
    assert slot.read(0x06, 2) == (1 << 4).to_bytes(2, "little")
