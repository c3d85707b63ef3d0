"""How bytes and bits are laid out: structs and words, without behaviour."""

from mdevemu.layout.structs import (
    U8,
    U16,
    U32,
    U64,
    Scalar,
    Struct,
    members_of,
    pack,
    sizeof,
    u8,
    u16,
    u32,
    u64,
    unpack,
)
from mdevemu.layout.words import Access, Field, Word, bit, bits, code, fields_of, width_of

__all__ = [
    "U8",
    "U16",
    "U32",
    "U64",
    "Access",
    "Field",
    "Scalar",
    "Struct",
    "Word",
    "bit",
    "bits",
    "code",
    "fields_of",
    "members_of",
    "pack",
    "sizeof",
    "u8",
    "u16",
    "u32",
    "u64",
    "unpack",
    "width_of",
]
