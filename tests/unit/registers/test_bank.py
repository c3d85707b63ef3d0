"""The bank: any access at any offset reaches the right words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.layout import Access, Word, bits
from mdevemu.registers import Array, Bank, Reg, RegisterMap, slots


class Wide(Word, width=64):
    value = bits(63, 0)


class Small(Word, width=16):
    value = bits(15, 0)


class Fixed(Word, width=32):
    value = bits(31, 0, Access.RO, reset=0xAABBCCDD)


class Clears(Word, width=32):
    value = bits(31, 0, Access.RC)


class Map(RegisterMap, size=0x100):
    wide = Reg(0x00, Wide)
    small = Reg(0x0A, Small)
    fixed = Reg(0x10, Fixed)
    array = Array(0x20, Small, count=4, stride=8)
    clears = Reg(0x40, Clears)


class Seen:
    """Hooks that keep what they were told."""

    def __init__(self):
        self.reads, self.writes = [], []

    def reading(self, slot):
        self.reads.append(str(slot))

    def written(self, slot, word):
        self.writes.append((str(slot), int(word)))


@pytest.fixture
def bank():
    return Bank(Map, Seen())


def test_write_across_registers_and_gaps_reaches_each(bank):
    bank.write(0x06, bytes(range(1, 15)))
    assert bank.regs.wide.value == 0x0201 << 48
    assert bank.regs.small.value == 0x0605
    assert bank.regs.fixed.value == 0xAABBCCDD
    assert [name for name, _ in bank._hooks.writes] == ["wide", "small", "fixed"]


def test_hook_sees_the_new_value(bank):
    bank.write(0x04, b"\x01\0\0\0")
    assert bank._hooks.writes == [("wide", 1 << 32)]


def test_array_slots_are_told_apart(bank):
    bank.write(0x30, b"\x07\0")
    assert [word.value for word in bank.regs.array] == [0, 0, 7, 0]
    assert bank._hooks.writes == [("array[2]", 7)]


def test_read_of_part_clears_only_that_part(bank):
    bank.regs.clears.value = 0xFFFFFFFF
    assert bank.read(0x41, 2) == b"\xff\xff"
    assert bank.regs.clears.value == 0xFF0000FF


def test_reading_hook_runs_before_the_value_is_taken():
    class Refresh(Seen):
        def reading(self, slot):
            bank.regs.wide.value = 42

    bank = Bank(Map, Refresh())
    assert bank.read(0, 8) == (42).to_bytes(8, "little")


@given(offset=st.integers(0, 0x120), length=st.integers(0, 0x40))
def test_any_read_equals_the_bytes_of_a_whole_read(offset, length):
    bank = Bank(Map)
    bank.regs.wide.value, bank.regs.array[1].value = 0x1122334455667788, 0x99AA
    whole = bank.read(0, 0x200)
    assert bank.read(offset, length) == whole[offset : offset + length]


@given(offset=st.integers(0, 0x120), data=st.binary(max_size=0x40))
def test_any_write_equals_its_bytes_one_by_one(offset, data):
    once, single = Bank(Map), Bank(Map)
    once.write(offset, data)
    for at in range(len(data)):
        single.write(offset + at, data[at : at + 1])
    assert once.read(0, 0x100) == single.read(0, 0x100)


def test_reset_restores_every_register(bank):
    fresh = bank.read(0, 0x100)
    bank.write(0, b"\xff" * 0x100)
    assert bank.read(0, 0x100) != fresh
    bank.reset()
    assert bank.read(0, 0x100) == fresh


def test_overlap_is_refused_with_names():
    with pytest.raises(AssertionError, match=r"Bad\.b overlaps"):
        type("Bad", (RegisterMap,), {"a": Reg(0, Wide), "b": Reg(4, Fixed)}, size=0x10)


def test_misaligned_register_is_refused():
    with pytest.raises(AssertionError, match="not aligned"):
        Reg(2, Fixed)


def test_register_beyond_the_map_is_refused():
    with pytest.raises(AssertionError, match="does not fit"):
        type("Bad", (RegisterMap,), {"a": Reg(8, Wide)}, size=0x8)


def test_slots_are_in_order_of_offset():
    assert [slot.offset for slot in slots(Map)] == sorted(slot.offset for slot in slots(Map))
