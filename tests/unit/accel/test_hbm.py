"""Partitions of the HBM: where they lie, what a new owner finds, what an old one keeps."""

import mmap
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mdevemu.accel.hbm import GRANULE, Hbm
from mdevemu.errors import RequestError
from mdevemu.memory import Miss, PhysicalMemory
from mdevemu.units import GIB, MIB, Hpa
from tests.support.limits import few_descriptors

BASE = Hpa(1 << 40)
SIZE = 8 * GRANULE


def hbm(size=SIZE):
    memory = PhysicalMemory()
    return Hbm(memory, BASE, size), memory


def lowest(made, size):
    """Where the lowest hole of ``size`` bytes is; None if there is none."""
    return next((at for at, count in made.holes() if count >= size), None)


def take(made, size):
    """A partition in the lowest hole; None if none fits."""
    offset = lowest(made, size)
    return None if offset is None else made.create(offset, size)


def test_what_is_not_free_cannot_be_taken():
    made, _ = hbm()
    made.create(2 * GRANULE, 2 * GRANULE)
    for offset, size in ((2, 1), (3, 2), (1, 2), (0, 8), (8, 1), (7, 2)):
        with pytest.raises(AssertionError):
            made.create(offset * GRANULE, size * GRANULE)
    assert made.holes() == [(0, 2 * GRANULE), (4 * GRANULE, 4 * GRANULE)]


def test_lowest_hole_that_fits_is_taken():
    made, _ = hbm()
    a, b, c = (take(made, count * GRANULE) for count in (1, 2, 1))
    assert [each.offset // GRANULE for each in (a, b, c)] == [0, 1, 3]
    made.remove(b)
    assert take(made, 3 * GRANULE).offset == 4 * GRANULE
    assert take(made, GRANULE).offset == 1 * GRANULE
    assert take(made, GRANULE).offset == 2 * GRANULE


def test_bytes_that_are_free_but_apart_do_not_make_a_partition():
    made, _ = hbm()
    all_of_it = [take(made, GRANULE) for _ in range(8)]
    for partition in all_of_it[::2]:
        made.remove(partition)
    assert made.free_bytes == 4 * GRANULE
    assert made.holes() == [(at * GRANULE, GRANULE) for at in (0, 2, 4, 6)]
    assert take(made, 2 * GRANULE) is None
    made.remove(all_of_it[1])
    assert take(made, 3 * GRANULE).offset == 0


def test_full_hbm_has_no_room():
    made, _ = hbm(GRANULE)
    partition = take(made, GRANULE)
    assert (made.free_bytes, made.holes()) == (0, [])
    assert take(made, GRANULE) is None
    made.remove(partition)
    assert made.holes() == [(0, GRANULE)]


def test_hbm_of_no_bytes_has_no_room():
    made, _ = hbm(0)
    assert take(made, GRANULE) is None


def test_partition_is_at_its_place_in_physical_memory_and_nowhere_after_removal():
    made, memory = hbm()
    take(made, GRANULE)
    partition = take(made, 2 * GRANULE)
    assert partition.base == BASE + GRANULE
    memory.write(partition.base + 5, b"through memory")
    assert os.pread(partition.file.fileno(), 14, 5) == b"through memory"
    made.remove(partition)
    with pytest.raises(Miss):
        memory.read(partition.base, 1)


def test_owner_of_a_file_cannot_change_its_size():
    partition = hbm()[0].create(0, GRANULE)
    for size in (0, GRANULE - 1, 2 * GRANULE):
        with pytest.raises(PermissionError):
            os.ftruncate(partition.file.fileno(), size)


def test_partitions_are_files_of_their_own():
    made, _ = hbm()
    first, second = (os.fstat(take(made, GRANULE).file.fileno()) for _ in range(2))
    assert first.st_ino != second.st_ino
    assert first.st_size == second.st_size == GRANULE


def test_freed_memory_goes_back_to_the_machine():
    made, _ = hbm()
    partition = take(made, GRANULE)
    kept = partition.file.duplicate()
    os.pwrite(kept.fileno(), b"x" * GRANULE, 0)
    assert os.fstat(kept.fileno()).st_blocks * 512 >= GRANULE
    made.remove(partition)
    assert os.fstat(kept.fileno()).st_blocks == 0
    kept.close()


@pytest.mark.parametrize("left", [0, 1])
def test_partition_that_the_machine_has_no_descriptor_for_is_refused_whole(left):
    made, _ = hbm()
    with few_descriptors(left), pytest.raises(RequestError):
        take(made, GRANULE)
    assert made.free_bytes == SIZE
    assert take(made, GRANULE).offset == 0


def test_partition_is_scrubbed_even_if_no_descriptor_is_left():
    made, _ = hbm()
    partition = take(made, GRANULE)
    with mmap.mmap(partition.file.fileno(), GRANULE) as mapping:
        mapping[:5] = b"bytes"
        with few_descriptors(0):
            made.remove(partition)
        assert mapping[:5] == bytes(5)


class Owner:
    """A tenant's hold on a partition: what it put there, and the mapping that it never gives up."""

    def __init__(self, partition, mark):
        self.partition = partition
        self.mark = mark
        self.file = partition.file.duplicate()
        self.mapping = mmap.mmap(self.file.fileno(), partition.size)

    def close(self):
        self.mapping.close()
        self.file.close()


class Partitions(RuleBasedStateMachine):
    """Tenants come and go; each marks every page it has, and keeps its mapping for ever."""

    owners = Bundle("owners")

    def __init__(self):
        super().__init__()
        self.hbm, self.memory = hbm()
        self.cells = [None] * (SIZE // GRANULE)  # the model: who owns each granule
        self.gone = []
        self.count = 0

    def fits(self, granules):
        """Where the model would put it."""
        for at in range(len(self.cells) - granules + 1):
            if not any(self.cells[at : at + granules]):
                return at
        return None

    @rule(target=owners, granules=st.integers(1, 4))
    def create(self, granules):
        expected = self.fits(granules)
        partition = take(self.hbm, granules * GRANULE)
        if expected is None:
            assert partition is None
            return None
        assert partition.offset == expected * GRANULE
        assert partition.size == granules * GRANULE
        self.count += 1
        owner = Owner(partition, bytes([self.count % 255 + 1]))
        assert not any(owner.mapping[at] for at in range(0, partition.size, 4096))
        assert self.memory.read(partition.base, 4096) == bytes(4096)
        for at in range(0, partition.size, 4096):
            owner.mapping[at] = owner.mark[0]
        self.cells[expected : expected + granules] = [owner] * granules
        return owner

    @rule(owner=consumes(owners))
    def remove(self, owner):
        if owner is None:
            return
        self.hbm.remove(owner.partition)
        self.cells = [None if each is owner else each for each in self.cells]
        self.gone.append(owner)

    @invariant()
    def counts_agree(self):
        assert self.hbm.free_bytes == self.cells.count(None) * GRANULE
        holes = [None if each else "free" for each in self.cells]
        for at, count in self.hbm.holes():
            assert at % GRANULE == count % GRANULE == 0
            for cell in range(at // GRANULE, (at + count) // GRANULE):
                assert holes[cell] == "free"
                holes[cell] = None
        assert not any(holes)

    @invariant()
    def everybody_sees_his_own_and_nobody_what_was_given_up(self):
        for owner in set(self.cells) - {None}:
            for at in range(0, owner.partition.size, 64 * 4096):
                assert owner.mapping[at : at + 1] == owner.mark
                assert self.memory.read(owner.partition.base + at, 1) == owner.mark
        for owner in self.gone:
            assert not any(owner.mapping[at] for at in range(0, owner.partition.size, 4096))
            assert os.pread(owner.file.fileno(), 4096, 0) == bytes(4096)

    def teardown(self):
        for owner in {*self.cells, *self.gone} - {None}:
            owner.close()


TestPartitions = Partitions.TestCase
TestPartitions.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_granule_and_base_allow_large_pages():
    assert GRANULE % (2 * MIB) == 0
    assert BASE % GIB == 0
