"""Free ranges, against a set of free bytes."""

from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mdevemu.accel.ranges import Ranges

TOTAL = 24


class RangesMachine(RuleBasedStateMachine):
    """Any takes and gives; two free bytes side by side are in one range."""

    def __init__(self):
        super().__init__()
        self.ranges = Ranges(TOTAL)
        self.free = set(range(TOTAL))

    @rule(start=st.integers(0, TOTAL), size=st.integers(1, TOTAL))
    def take(self, start, size):
        wanted = set(range(start, start + size))
        assert self.ranges.free(start, size) is (wanted <= self.free)
        if wanted <= self.free:
            self.ranges.take(start, size)
            self.free -= wanted

    @rule(start=st.integers(0, TOTAL - 1), size=st.integers(1, TOTAL))
    def give(self, start, size):
        taken = set(range(start, min(start + size, TOTAL)))
        if not taken & self.free:
            self.ranges.give(start, len(taken))
            self.free |= taken

    @rule()
    def copy(self):
        before = self.ranges
        self.ranges = before.copy()
        if size := next((count for _, count in before), 0):
            before.take(before.find(size), size)  # which the copy does not notice

    @rule(size=st.integers(1, TOTAL))
    def find(self, size):
        fits = (at for at in range(TOTAL) if set(range(at, at + size)) <= self.free)
        assert self.ranges.find(size) == next(fits, None)

    @rule(size=st.integers(1, TOTAL))
    def gather(self, size):
        if size <= len(self.free):
            found = self.ranges.gather(size)
            gathered = {byte for at, count in found for byte in range(at, at + count)}
            assert gathered <= self.free
            assert len(gathered) == sum(count for _, count in found) == size
            assert found == sorted(found)
            largest = sorted((count for _, count in self.ranges), reverse=True)
            assert sum(largest[: len(found) - 1]) < size  # fewer would not have done

    @invariant()
    def ranges_are_the_free_bytes(self):
        found = list(self.ranges)
        assert {byte for at, size in found for byte in range(at, at + size)} == self.free
        assert all(at + size < then for (at, size), (then, _) in pairwise(found))
        assert self.ranges.free_bytes == len(self.free)


TestRanges = RangesMachine.TestCase


@pytest.mark.parametrize(("start", "size"), [(0, 5), (3, 2), (4, 1), (7, 2)])
def test_what_is_free_cannot_be_given_back(start, size):
    ranges = Ranges(10)
    ranges.take(4, 4)
    if (start, size) == (4, 1):
        ranges.give(4, 1)
    with pytest.raises(AssertionError):
        ranges.give(start, size)


def test_nothing_of_nothing_is_free():
    assert list(Ranges(0)) == []
    assert Ranges(0).find(1) is None
    assert not Ranges(0).free(0, 1)
