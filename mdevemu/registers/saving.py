"""The contents of a register bank as bytes, to be put into another bank of the same map.

What comes in may be from anybody: a value that no device could have there is refused.
"""

import enum
import zlib
from collections.abc import Sequence
from typing import Any

from mdevemu.errors import StateError
from mdevemu.layout import Struct, Word, fields_of, pack, sizeof, u32, unpack
from mdevemu.layout.words import Access, access_mask, put_raw
from mdevemu.registers.bank import Bank, RegisterMap, Slot, slots


class BankHead(Struct):
    """What the values of a bank begin with: which map they are of."""

    layout: u32


def save(bank: Bank[Any], *, writable_only: bool) -> bytes:
    """Every word of a bank, lowest offset first; see ``put``."""
    found = [pack(BankHead(layout_of(bank.kind)))]
    for slot in slots(bank.kind):
        value = int(bank.word(slot))
        if writable_only:
            value &= ~access_mask(slot.word, Access.RO)
        found.append(value.to_bytes(slot.length, "little"))
    return b"".join(found)


def size_saved(kind: type[RegisterMap]) -> int:
    """Bytes that ``save`` makes of a bank of this map."""
    return sizeof(BankHead) + sum(slot.length for slot in slots(kind))


def check(kind: type[RegisterMap], data: bytes) -> Sequence[tuple[Slot, int]]:
    """The value of each word that ``save`` made bytes of.

    Raises:
        StateError: another map's, too short or long, or a value that the word cannot have.
    """
    if len(data) != size_saved(kind):
        raise StateError(f"{kind.__name__} in {len(data)} bytes, not {size_saved(kind)}")
    if unpack(BankHead, data).layout != layout_of(kind):
        raise StateError(f"{kind.__name__} of a version with other registers")
    found, at = [], sizeof(BankHead)
    for slot in slots(kind):
        value = int.from_bytes(data[at : at + slot.length], "little")
        _check_value(kind, slot, value)
        found.append((slot, value))
        at += slot.length
    return found


def put(bank: Bank[Any], values: Sequence[tuple[Slot, int]], *, writable_only: bool) -> None:
    """Give each word its value, as the device and not as a guest: no hook runs.

    ``writable_only`` leaves the bits alone that a guest cannot change: they say what
    this device is.
    """
    for slot, value in values:
        word = bank.word(slot)
        if writable_only:
            fixed = access_mask(slot.word, Access.RO)
            value = int(word) & fixed | value & ~fixed
        put_raw(word, value)


def layout_of(kind: type[RegisterMap]) -> int:
    """A number that two maps share only if the same bits are at the same places."""
    told = [
        (slot.name, slot.index, slot.offset, slot.length, _bits(slot.word)) for slot in slots(kind)
    ]
    return zlib.crc32(repr(told).encode())


def _bits(word: type[Word]) -> list[tuple[str, int, int]]:
    return [(name, field.high, field.low) for name, field in fields_of(word).items()]


def _check_value(kind: type[RegisterMap], slot: Slot, value: int) -> None:
    fields = fields_of(slot.word)
    if value & ~sum(field.mask for field in fields.values()):
        raise StateError(f"{kind.__name__}.{slot} with reserved bits in {value:#x}")
    for name, field in fields.items():
        if issubclass(field.kind, enum.Enum):
            try:
                field.kind((value & field.mask) >> field.low)
            except ValueError as wrong:
                raise StateError(f"{kind.__name__}.{slot}.{name}: {wrong}") from None
