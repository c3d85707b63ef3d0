"""The physical address space: ranges side by side."""

import pytest

from mdevemu.memory import Miss, PhysicalMemory, Ram
from mdevemu.units import MIB, PAGE, Hpa


@pytest.fixture
def memory():
    space = PhysicalMemory()
    space.add(Hpa(MIB), Ram(PAGE), PAGE)
    space.add(Hpa(MIB + PAGE), Ram(PAGE), PAGE)
    space.add(Hpa(4 * MIB), Ram(2 * PAGE), PAGE)
    return space


def test_ranges_do_not_share_bytes(memory):
    memory.write(MIB, b"one")
    memory.write(MIB + PAGE, b"two")
    memory.write(4 * MIB, b"three")
    assert memory.read(MIB, 3) == b"one"
    assert memory.read(MIB + PAGE, 3) == b"two"
    assert memory.read(4 * MIB, 5) == b"three"
    assert memory.read(MIB + 3, 3) == bytes(3)


@pytest.mark.parametrize(
    ("at", "length"),
    [
        (0, 1),
        (MIB - 1, 1),
        (MIB - 1, 2),
        (MIB + 2 * PAGE, 1),
        (MIB + 2 * PAGE - 1, 2),
        (4 * MIB + PAGE, 1),
        (1 << 60, 8),
    ],
)
def test_access_outside_every_range_misses(memory, at, length):
    for _ in range(2):  # whatever range the access before it found
        with pytest.raises(Miss):
            memory.read(at, length)
        with pytest.raises(Miss):
            memory.write(at, bytes(length))
        with pytest.raises(Miss):
            memory.view(at, length, write=False)
        assert not memory.present(at, length, write=False)
        assert memory.read(MIB, 1) == b"\0"


def test_access_across_two_ranges_misses(memory):
    assert memory.read(MIB + PAGE - 4, 4) == bytes(4)
    with pytest.raises(Miss):
        memory.read(MIB + PAGE - 4, 8)
    with pytest.raises(Miss):
        memory.write(MIB + PAGE - 4, bytes(8))


def test_removed_range_misses_at_once(memory):
    memory.write(MIB, b"one")
    memory.remove(Hpa(MIB))
    with pytest.raises(Miss):
        memory.read(MIB, 3)
    assert memory.read(MIB + PAGE, 3) == bytes(3)


def test_u64_is_little_endian(memory):
    memory.write_u64(MIB + 8, 0x0102030405060708)
    assert memory.read(MIB + 8, 8) == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    assert memory.read_u64(MIB + 8) == 0x0102030405060708


def test_view_is_the_memory_itself(memory):
    view = memory.view(4 * MIB + 16, 4, write=False)
    view[:] = b"view"
    assert memory.read(4 * MIB + 16, 4) == b"view"


@pytest.mark.parametrize(
    ("base", "size"), [(MIB, PAGE), (MIB - PAGE, 2 * PAGE), (MIB + PAGE - 16, 16)]
)
def test_overlapping_range_is_a_bug_of_ours(memory, base, size):
    with pytest.raises(AssertionError):
        memory.add(Hpa(base), Ram(size), size)
