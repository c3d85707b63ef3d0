"""Who works next, and what becomes of work that fails or is cancelled."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.accel.scheduler import LONGEST_NS, PIECE, Scheduler
from mdevemu.errors import CommandFault
from mdevemu.units import KIB


def scheduler():
    return Scheduler(itertools.count().__next__)


def pieces(done, who, costs):
    for cost in costs:
        done.append(who)
        yield cost


def busy(done, who, cost):
    return pieces(done, who, itertools.repeat(cost))


@pytest.mark.parametrize(("weights", "cost"), [((3, 1), PIECE), ((3, 1), 1000), ((5, 2, 1), PIECE)])
def test_work_is_shared_by_weight(weights, cost):
    work, done = scheduler(), []
    for who, weight in enumerate(weights):
        work.flow(weight).lane(pytest.fail).submit(busy(done, who, cost))
    for _ in range(sum(weights) * 20 * max(1, PIECE // cost)):
        work.step()
    counts = Counter(done)
    for who, weight in enumerate(weights):
        assert counts[who] / len(done) == pytest.approx(weight / sum(weights), rel=0.05)


def test_unequal_pieces_are_shared_by_cost():
    work, done = scheduler(), []
    work.flow(1).lane(pytest.fail).submit(busy(done, "large", PIECE))
    work.flow(1).lane(pytest.fail).submit(busy(done, "small", PIECE // 16))
    for _ in range(1700):
        work.step()
    counts = Counter(done)
    assert counts["small"] / counts["large"] == pytest.approx(16, rel=0.05)


class Watch:
    """A clock that work moves on."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def takes(self, done, who, *costs):
        """Pieces for ever, each as (cost in copy-bytes, nanoseconds)."""
        for cost, nanoseconds in itertools.cycle(costs):
            self.now += nanoseconds
            done[who] += nanoseconds
            yield cost


def test_turns_are_for_the_time_that_pieces_take_whatever_they_were_reckoned_to():
    clock, done = Watch(), Counter()
    work = Scheduler(clock)
    work.flow(1).lane(pytest.fail).submit(clock.takes(done, "as reckoned", (PIECE, 10_000)))
    work.flow(1).lane(pytest.fail).submit(clock.takes(done, "slower", (PIECE, 30_000)))
    work.flow(2).lane(pytest.fail).submit(clock.takes(done, "wild", (KIB, 90_000), (PIECE, 9_000)))
    for _ in range(2000):
        work.step()
    assert done["slower"] == pytest.approx(done["as reckoned"], rel=0.02)
    assert done["wild"] == pytest.approx(2 * done["slower"], rel=0.02)


def test_machine_that_stands_still_costs_a_flow_one_long_piece_at_most():
    clock, done = Watch(), Counter()
    work = Scheduler(clock)
    hit, other = work.flow(1), work.flow(1)
    hit.lane(pytest.fail).submit(clock.takes(done, "hit", (PIECE, 10**10)))
    work.step()
    other.lane(pytest.fail).submit(clock.takes(done, "other", (PIECE, 10_000)))
    done.clear()
    while not done["hit"]:
        work.step()
    assert done["other"] == pytest.approx(LONGEST_NS, rel=0.02)
    assert hit.busy_ns == 2 * LONGEST_NS


def test_clock_that_stands_still_leaves_turns_to_the_costs():
    clock, done = Watch(), []
    work = Scheduler(clock)
    work.flow(1).lane(pytest.fail).submit(busy(done, "large", PIECE))
    work.flow(1).lane(pytest.fail).submit(busy(done, "small", PIECE // 4))
    for _ in range(500):
        work.step()
    assert done.count("small") == pytest.approx(4 * done.count("large"), rel=0.02)


def test_idle_flow_saves_up_nothing():
    work, done = scheduler(), []
    idle, busy_flow = work.flow(1), work.flow(1)
    lane = idle.lane(pytest.fail)
    lane.submit(pieces(done, "idle", [PIECE]))
    busy_flow.lane(pytest.fail).submit(busy(done, "busy", PIECE))
    for _ in range(100):
        work.step()
    done.clear()
    lane.submit(busy(done, "idle", PIECE))
    for _ in range(20):
        work.step()
    assert abs(done.count("idle") - done.count("busy")) <= 2


def test_flow_that_wakes_up_waits_for_one_piece_of_a_heavy_one():
    work, done = scheduler(), []
    light, heavy = work.flow(1).lane(pytest.fail), work.flow(1000).lane(pytest.fail)
    heavy.submit(busy(done, "heavy", PIECE))
    for _ in range(50):
        work.step()
    for _ in range(5):
        done.clear()
        light.submit(pieces(done, "light", [KIB]))
        # It has had its share only when the heavy one has had a thousand times as much.
        for _ in range(1000 * KIB // PIECE + 10):
            work.step()
        assert done[0] == "light"


def test_flow_that_wakes_up_is_before_all_who_would_start_with_it():
    work, done = scheduler(), []
    for who in range(3):
        work.flow(1).lane(pytest.fail).submit(busy(done, who, PIECE))
    for _ in range(3):
        work.step()
    # All three are at the same place now; the fourth gets to it as the first of them works.
    work.step()
    work.flow(1).lane(pytest.fail).submit(pieces(done, "new", [KIB]))
    work.step()
    assert done[-1] == "new"


def test_flow_that_sleeps_between_its_pieces_gets_no_more_than_its_share():
    work, done = scheduler(), []
    sleepy = work.flow(1).lane(pytest.fail)
    work.flow(1).lane(pytest.fail).submit(busy(done, "busy", PIECE))
    for _ in range(400):
        if not sleepy.busy:
            sleepy.submit(pieces(done, "sleepy", [PIECE]))
        work.step()
    assert done.count("sleepy") <= done.count("busy") + 2


def test_new_weight_counts_from_the_next_piece_on():
    work, done = scheduler(), []
    first, second = work.flow(1), work.flow(1)
    for who, flow in (("first", first), ("second", second)):
        flow.lane(pytest.fail).submit(busy(done, who, PIECE))
    for _ in range(100):
        work.step()
    first.weight = 3
    done.clear()
    for _ in range(400):
        work.step()
    assert done.count("first") == pytest.approx(300, abs=3)


def test_work_that_comes_while_a_flow_works_does_not_put_it_first():
    work, done = scheduler(), []
    flow = work.flow(1)
    lane, other = flow.lane(pytest.fail), flow.lane(pytest.fail)

    def submits():
        other.submit(busy(done, "other", PIECE))
        yield 10 * PIECE

    lane.submit(submits())
    work.flow(1).lane(pytest.fail).submit(busy(done, "neighbour", PIECE))
    for _ in range(10):
        work.step()
    assert "other" not in done


def test_work_is_counted_in_copy_bytes():
    work = scheduler()
    flow = work.flow(7)
    flow.lane(pytest.fail).submit(pieces([], "", [100, 23]))
    while work.step():
        pass
    assert flow.work == 123


def test_lanes_of_a_flow_take_turns():
    work, done = scheduler(), []
    flow = work.flow(1)
    for who in "ab":
        flow.lane(pytest.fail).submit(busy(done, who, 10))
    for _ in range(10):
        work.step()
    assert "".join(done) == "ababababab"


def test_lane_keeps_the_order_of_its_work():
    work, done = scheduler(), []
    lane = work.flow(1).lane(pytest.fail)
    for who in "abc":
        lane.submit(pieces(done, who, [1, 1]))
    while work.step():
        pass
    assert "".join(done) == "aabbcc"
    assert not work.busy


def test_fault_ends_one_work_and_is_told_once():
    work, done, faults = scheduler(), [], []

    def fails():
        yield 1
        raise CommandFault(3, "no")

    lane = work.flow(1).lane(faults.append)
    lane.submit(fails())
    lane.submit(pieces(done, "next", [1]))
    while work.step():
        pass
    assert [fault.code for fault in faults] == [3]
    assert done == ["next"]


def test_cancel_closes_what_runs_and_forgets_what_waits():
    work, done, closed = scheduler(), [], []

    def held():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    lane = work.flow(1).lane(pytest.fail)
    lane.submit(held())
    lane.submit(pieces(done, "waits", [1]))
    work.step()
    lane.cancel()
    while work.step():
        pass
    assert closed == [True]
    assert done == []


def test_cancel_from_within_the_fault_is_safe():
    work = scheduler()

    def fails():
        raise CommandFault(0, "no")
        yield

    lane = work.flow(1).lane(lambda fault: lane.cancel())
    lane.submit(fails())
    while work.step():
        pass
    assert not lane.busy


def test_time_is_counted_for_flow_and_meter():
    class Engine:
        busy_ns = 0

    work, engine = scheduler(), Engine()
    flow = work.flow(1)
    lane = flow.lane(pytest.fail)

    def metered():
        lane.meter = engine
        yield 1
        yield 1

    lane.submit(metered())
    while work.step():
        pass
    assert engine.busy_ns == flow.busy_ns == 3


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3 * PIECE)), max_size=40))
def test_all_submitted_work_is_done_exactly_once(jobs):
    work, done = scheduler(), []
    lanes = [work.flow(weight).lane(pytest.fail) for weight in (1, 2, 7)]
    for number, (who, cost) in enumerate(jobs):
        lanes[who].submit(pieces(done, number, [cost]))
    while work.step():
        pass
    assert sorted(done) == list(range(len(jobs)))


def test_parked_lane_waits_until_it_is_woken():
    work, done = scheduler(), []
    lane = work.flow(1).lane(pytest.fail)

    def waits():
        done.append("before")
        lane.park()
        yield 1
        done.append("after")

    lane.submit(waits())
    lane.submit(pieces(done, "next", [1]))
    while work.step():
        pass
    assert done == ["before"]
    assert lane.busy
    lane.wake()
    while work.step():
        pass
    assert done == ["before", "after", "next"]


def test_cancelled_lane_is_not_parked_any_more():
    work, done = scheduler(), []
    lane = work.flow(1).lane(pytest.fail)

    def waits():
        lane.park()
        yield 1

    lane.submit(waits())
    work.step()
    lane.cancel()
    lane.submit(pieces(done, "new", [1]))
    while work.step():
        pass
    assert done == ["new"]


def test_alarms_ring_in_order_once_they_are_due():
    now, rung = [0], []
    work = Scheduler(lambda: now[0])
    work.after(20, lambda: rung.append(20))
    work.after(10, lambda: rung.append(10))
    gone = work.after(15, lambda: rung.append(15))
    assert work.ring_due() == 10
    gone.cancel()
    now[0] = 12
    assert work.ring_due() == 8
    assert rung == [10]
    now[0] = 30
    assert work.ring_due() is None
    assert rung == [10, 20]
