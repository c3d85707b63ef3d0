"""Who gets a place, who waits, and that reserved places are there whatever the others do."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.accel.admission import Admission, Places, enter, leave
from mdevemu.accel.scheduler import Scheduler
from mdevemu.units import KIB


@dataclass
class Hall:
    """Admissions of one accelerator, and commands that stay until they are told to go."""

    work: Scheduler = field(default_factory=lambda: Scheduler(lambda: 0))
    inside: list = field(default_factory=list)

    def come(self, *admissions, flow=None):
        """A command that wants in; its lane."""
        lane = (flow or self.work.flow(1)).lane(pytest.fail)
        lane.submit(self._visit(lane, admissions))
        self.run()
        return lane

    def _visit(self, lane, admissions):
        yield from enter(admissions, lane)
        try:
            self.inside.append(lane)
            lane.park()
            yield KIB
        finally:
            self.inside.remove(lane)
            leave(admissions)

    def go(self, lane):
        lane.wake()
        self.run()

    def cancel(self, lane):
        lane.cancel()
        self.run()

    def run(self):
        while self.work.step():
            pass


@pytest.fixture
def hall():
    return Hall()


def test_reserved_places_are_free_whatever_the_others_take(hall):
    places = Places(5)
    one, other = Admission(places, 2), Admission(places)
    greedy = [hall.come(other) for _ in range(9)]
    assert hall.inside == greedy[:3]
    mine = [hall.come(one) for _ in range(3)]
    assert hall.inside == [*greedy[:3], *mine[:2]]
    hall.go(greedy[0])
    assert greedy[3] in hall.inside, "who came first is first"
    assert mine[2] not in hall.inside


def test_rest_is_for_whoever_comes_first(hall):
    places = Places(4)
    one, other = Admission(places, 1), Admission(places, 1)
    first = [hall.come(one) for _ in range(4)]
    assert hall.inside == first[:3]
    second = [hall.come(other) for _ in range(2)]
    assert hall.inside == [*first[:3], second[0]]
    hall.go(first[0])
    assert hall.inside == [*first[1:3], second[0], first[3]]
    hall.go(first[1])
    assert second[1] in hall.inside


def test_own_bound_holds_with_places_left(hall):
    places = Places(8)
    bound, all_of_them = Admission(Places(2)), Admission(places, 1)
    visitors = [hall.come(bound, all_of_them) for _ in range(3)]
    assert hall.inside == visitors[:2]
    hall.go(visitors[0])
    assert hall.inside == visitors[1:]


def test_who_waits_with_nobody_before_him_does_not_wait_for_those_who_cannot_go(hall):
    places = Places(2)
    one, other = Admission(places, 1), Admission(places)
    mine, theirs = hall.come(one), hall.come(other)
    late = hall.come(other)
    again = hall.come(one)
    assert hall.inside == [mine, theirs]
    hall.go(mine)
    assert hall.inside == [theirs, again]
    hall.go(theirs)
    assert hall.inside == [again, late]


def test_place_of_one_that_is_cancelled_on_its_way_in_is_for_the_next(hall):
    admission = Admission(Places(1))
    first, second, third = (hall.come(admission) for _ in range(3))
    first.wake()
    hall.work.step()
    assert hall.inside == []
    hall.cancel(second)
    assert hall.inside == [third]


def test_reserved_place_waits_for_nobody_whose_turn_does_not_come(hall):
    """Who is limited has to rest, and may be next for a shared place meanwhile."""
    places = Places(2)
    one, other = Admission(places, 1), Admission(places)
    theirs, slow = hall.come(other), hall.work.flow(1)
    late = hall.come(other, flow=slow)
    slow.pace = lambda cost: 1000
    hall.come(flow=slow)
    hall.go(theirs)
    mine = hall.come(one)
    assert mine in hall.inside
    assert late not in hall.inside
    next_one = hall.come(one)
    hall.go(mine)
    assert next_one in hall.inside
    slow.resume()
    hall.run()
    assert late in hall.inside


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["come", "go", "cancel"]), st.integers(0, 9)), max_size=60),
)
def test_as_many_are_inside_as_can_be(reserved, shared, steps):
    """Nobody waits while there is a place for him, and there are never more than places."""
    hall, places = Hall(), Places(sum(reserved) + shared)
    admissions = [Admission(places, each) for each in reserved]
    wanted = []
    for what, which in steps:
        if what == "come":
            mine = admissions[which % len(admissions)]
            wanted.append((mine, hall.come(mine)))
        elif what == "go" and hall.inside:
            gone = hall.inside[which % len(hall.inside)]
            wanted = [each for each in wanted if each[1] is not gone]
            hall.go(gone)
        elif what == "cancel" and wanted:
            _, gone = wanted.pop(which % len(wanted))
            hall.cancel(gone)
        inside = [mine for mine, lane in wanted if lane in hall.inside]
        outside = [mine for mine, lane in wanted if lane not in hall.inside]
        beyond = sum(max(0, inside.count(each) - each.reserved) for each in admissions)
        assert [each.taken for each in admissions] == [inside.count(each) for each in admissions]
        assert beyond <= shared
        if beyond < shared:
            assert not outside
        assert all(inside.count(each) >= each.reserved for each in outside)
    for _, lane in list(wanted):
        hall.cancel(lane)
    assert places.taken == 0
