"""Words: what the device does to bits, and what a guest does to them."""

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.layout import Access, Word, bit, bits, code, fields_of
from mdevemu.layout.words import access_mask, guest_read, guest_write, put_raw, reset_value


class Mode(enum.IntEnum):
    A = 0
    B = 1
    C = 2
    D = 3


class Everything(Word, width=32):
    ro = bits(3, 0, Access.RO, reset=5)
    rw = bits(7, 4)
    wo = bits(11, 8, Access.WO)
    w1c = bits(15, 12, Access.W1C)
    w1s = bits(19, 16, Access.W1S)
    rc = bits(23, 20, Access.RC)
    mode = code(25, 24, Mode)


def test_reset_value_is_that_of_the_fields():
    assert int(Everything()) == reset_value(Everything) == 5


def test_device_assigns_fields_without_touching_others():
    word = Everything()
    word.rw, word.mode = 0xF, Mode.C
    assert (word.ro, word.rw, word.mode) == (5, 0xF, Mode.C)
    assert int(word) == 5 | 0xF0 | 2 << 24


def test_assignment_wider_than_the_field_is_cut():
    word = Everything()
    word.rw = 0x1F
    assert word.rw == 0xF
    assert word.wo == 0


@given(
    before=st.integers(0, 2**32 - 1),
    value=st.integers(0, 2**32 - 1),
    lanes=st.integers(0, 2**32 - 1),
)
def test_guest_write_follows_each_access(before, value, lanes):
    word = Everything(before)
    guest_write(word, value, lanes)
    for field in fields_of(Everything).values():
        mask = field.mask & lanes
        expected = {
            Access.RO: before & mask,
            Access.RC: before & mask,
            Access.RW: value & mask,
            Access.WO: value & mask,
            Access.W1C: before & ~value & mask,
            Access.W1S: (before | value) & mask,
        }[field.access]
        assert int(word) & mask == expected
    assert int(word) & ~lanes == before & ~lanes


@given(before=st.integers(0, 2**32 - 1), lanes=st.integers(0, 2**32 - 1))
def test_guest_read_hides_write_only_bits_and_clears_rc(before, lanes):
    word = Everything(before)
    seen = guest_read(word, lanes)
    assert seen == before & ~access_mask(Everything, Access.WO)
    assert int(word) == before & ~(access_mask(Everything, Access.RC) & lanes)


def test_put_raw_replaces_all_bits():
    word = Everything()
    put_raw(word, 0xFFFF_FFFF)
    assert int(word) == 0xFFFF_FFFF


def test_overlapping_fields_are_refused_with_their_names():
    with pytest.raises(AssertionError, match=r"Twice\.b overlaps"):
        type("Twice", (Word,), {"a": bits(3, 0), "b": bit(3)}, width=8)


def test_field_beyond_the_word_is_refused():
    with pytest.raises(AssertionError, match=r"Small\.a does not fit"):
        type("Small", (Word,), {"a": bit(8)}, width=8)


def test_writable_code_with_unnamed_values_is_refused():
    class Half(enum.IntEnum):
        A = 0

    with pytest.raises(AssertionError, match="leaves codes unnamed"):
        code(1, 0, Half)
