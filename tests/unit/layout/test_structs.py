"""Structs: values that travel as bytes."""

import enum
from typing import Annotated

import pytest

from mdevemu.layout import U16, U32, Scalar, Struct, members_of, pack, sizeof, u8, u32, unpack


class Colour(enum.IntEnum):
    RED = 1


class Sample(Struct):
    small: u8
    colour: Annotated[Colour, U16]
    tag: Annotated[bytes, Scalar("3s")]
    number: u32


def test_layout_is_packed_and_little_endian():
    value = Sample(7, Colour.RED, b"abc", 0x01020304)
    assert pack(value) == b"\x07\x01\x00abc\x04\x03\x02\x01"
    assert unpack(Sample, pack(value)) == value
    assert sizeof(Sample) == 10
    assert members_of(Sample) == [
        ("small", 0, 1),
        ("colour", 1, 2),
        ("tag", 3, 3),
        ("number", 6, 4),
    ]


def test_unpack_at_an_offset():
    assert unpack(Sample, b"xx" + pack(Sample(7, Colour.RED, b"abc", 1)), 2).small == 7


def test_too_few_bytes_name_the_struct_and_both_sizes():
    with pytest.raises(ValueError, match="Sample is 10 bytes, got 9"):
        unpack(Sample, bytes(9))


def test_unknown_enum_value_is_a_value_error():
    with pytest.raises(ValueError, match="2 is not a valid Colour"):
        unpack(Sample, b"\0\x02\0abc\0\0\0\0")


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Request(Struct):
    rights: Annotated[Rights, U32]


def test_unknown_flags_are_kept_as_they_are_and_remembered_by_nobody():
    before = len(Rights._value2member_map_)
    for bits in range(1, 1000):
        rights = unpack(Request, (bits << 2 | 1).to_bytes(4, "little")).rights
        assert int(rights) == bits << 2 | 1
        assert Rights.READ in rights
        assert Rights.WRITE not in rights
        assert rights & (Rights.READ | Rights.WRITE) == Rights.READ
        assert rights > Rights.READ | Rights.WRITE
        assert pack(Request(rights)) == (bits << 2 | 1).to_bytes(4, "little")
    assert len(Rights._value2member_map_) <= before + 1
