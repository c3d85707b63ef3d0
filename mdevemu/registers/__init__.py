"""Where words live in a region, and how guest accesses reach them."""

from mdevemu.registers.bank import (
    NEAR,
    Array,
    Bank,
    Reg,
    RegisterMap,
    Slot,
    declared,
    size_of,
    slots,
    touched,
)

__all__ = [
    "NEAR",
    "Array",
    "Bank",
    "Reg",
    "RegisterMap",
    "Slot",
    "declared",
    "size_of",
    "slots",
    "touched",
]
