"""Token buckets: how much gets through, and how long one rests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.accel.limits import SECOND, TokenBucket
from mdevemu.accel.scheduler import PIECE, Scheduler


class Clock:
    """Time that passes only while somebody works or rests."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def paced(*, cost=PIECE, took=1000, command_every=None, **rates):
    """What a flow that wants everything did in a second of its own."""
    clock = Clock()
    work = Scheduler(clock)
    flow = work.flow(1)
    for name, rate in rates.items():
        getattr(flow.limits, name).set(rate)

    def busy():
        for number in range(1 << 30):
            clock.now += took
            flow.commands += bool(command_every) and number % command_every == 0
            yield cost

    flow.lane(pytest.fail).submit(busy())
    while clock.now < SECOND:
        if not work.step():
            clock.now += work.ring_due() or 0
            work.ring_due()
    return flow


def test_without_a_limit_nobody_rests():
    assert paced().work == PIECE * (SECOND // 1000)


@pytest.mark.parametrize("rate", [PIECE // 2, 10 * PIECE, 1000 * PIECE, 12_345_678])
def test_bandwidth_over_a_second_is_the_limit_and_a_hundredth(rate):
    assert rate <= paced(bandwidth=rate).work <= rate * 1.01 + 2 * PIECE


@pytest.mark.parametrize("rate", [1, 70, 5000])
def test_commands_over_a_second_are_the_limit_and_a_hundredth(rate):
    assert rate <= paced(commands=rate, command_every=3).commands <= rate * 1.01 + 2


def test_both_limits_hold():
    flow = paced(bandwidth=100 * PIECE, commands=7, command_every=1)
    assert flow.commands <= 9
    assert flow.work <= 9 * PIECE


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, SECOND)), max_size=30),
    st.integers(1, 10**9),
)
def test_never_more_than_the_rate_and_one_bucket_whatever_the_waits(uses, rate):
    """As long as one rests when told to, and a use is not cut."""
    bucket, now, used, last = TokenBucket(), 0, 0, 0
    bucket.set(rate)
    for tokens, pause in uses:
        now += bucket.take(tokens, now) + pause
        used, last = used + tokens, tokens
        assert (used - last) * SECOND <= rate * now + rate * (SECOND // 100)


def test_new_rate_counts_from_now_on():
    bucket = TokenBucket()
    bucket.set(1)
    assert bucket.take(100, 0) > 90 * SECOND
    bucket.set(0)
    assert bucket.take(100, 0) == 0
    bucket.set(100)
    assert bucket.take(1, 0) == 0
