"""The loop: who is called back when, and that work and sockets do not keep each other waiting."""

import itertools
import os
import socket
import threading
import time

import pytest

from mdevemu.loop import BURST_NS, READY, Loop


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def test_readable_descriptor_is_called_back_until_it_is_read(loop, pair):
    ours, theirs = pair
    seen = []
    loop.watch(ours.fileno(), lambda: seen.append("ready"))
    loop.turn(0)
    assert seen == []
    theirs.send(b"x")
    loop.turn(0)
    loop.turn(0)
    assert seen == ["ready"] * 2
    ours.recv(1)
    loop.turn(0)
    assert len(seen) == 2


def test_writable_is_called_only_when_asked_for(loop, pair):
    ours, _ = pair
    seen = []
    loop.watch(ours.fileno(), lambda: seen.append("r"))
    loop.turn(0)
    loop.watch(ours.fileno(), lambda: seen.append("r"), lambda: seen.append("w"))
    loop.turn(0)
    assert seen == ["w"]
    loop.watch(ours.fileno(), lambda: seen.append("r"))
    loop.turn(0)
    assert seen == ["w"]


def test_watching_again_replaces_the_callbacks(loop, pair):
    ours, theirs = pair
    seen = []
    loop.watch(ours.fileno(), lambda: seen.append("first"))
    loop.watch(ours.fileno(), lambda: seen.append("second"))
    theirs.send(b"x")
    loop.turn(0)
    assert seen == ["second"]


def test_forgetting_ends_callbacks_and_may_come_twice(loop, pair):
    ours, theirs = pair
    loop.watch(ours.fileno(), pytest.fail)
    loop.forget(ours.fileno())
    loop.forget(ours.fileno())
    theirs.send(b"x")
    loop.turn(0)


def test_callback_of_a_descriptor_that_another_callback_forgot_is_not_made(loop):
    pairs = [socket.socketpair() for _ in range(2)]
    seen = []

    def first_wins(me, other):
        seen.append(me)
        loop.forget(pairs[other][0].fileno())

    for me in (0, 1):
        loop.watch(pairs[me][0].fileno(), lambda me=me: first_wins(me, 1 - me))
        pairs[me][1].send(b"x")
    loop.turn(0)
    assert len(seen) == 1
    for end in itertools.chain(*pairs):
        end.close()


def test_descriptor_number_that_is_reused_in_the_same_turn_gets_no_foreign_callback(loop):
    """One callback closes a ready socket; what takes over its number is not ready."""
    pairs = [socket.socketpair() for _ in range(2)]
    seen, fresh = [], []

    def close_other(me):
        seen.append(me)
        other = pairs[1 - me][0]
        number = other.fileno()
        loop.forget(number)
        other.close()
        fresh.extend(socket.socketpair())
        assert number in (fresh[0].fileno(), fresh[1].fileno())
        loop.watch(number, lambda: pytest.fail("called for what is not ready"))

    for me in (0, 1):
        loop.watch(pairs[me][0].fileno(), lambda me=me: close_other(me))
        pairs[me][1].send(b"x")
    loop.turn(0)
    assert len(seen) == 1
    for end in itertools.chain(*pairs, fresh):
        end.close()


def test_writable_is_not_called_once_readable_dropped_it(loop, pair):
    ours, theirs = pair
    theirs.send(b"x")
    loop.watch(
        ours.fileno(),
        lambda: loop.watch(ours.fileno(), lambda: None),
        lambda: pytest.fail("no longer asked for"),
    )
    loop.turn(0)


def test_whoever_is_to_come_last_lets_a_turn_pass_and_others_go_first(loop, pair):
    new, client = pair
    here, other = socket.socketpair()
    called = []
    loop.watch(new.fileno(), lambda: called.append("new"), last=True)
    loop.watch(here.fileno(), lambda: called.append("here"))
    client.send(b"x")
    loop.turn(0)
    assert called == []
    other.send(b"x")
    loop.turn(0)
    assert called == ["here", "new"]
    loop.turn(0)
    loop.turn(0)
    assert called == ["here", "new", "here", "here", "new"]
    loop.forget(here.fileno())
    loop.watch(new.fileno(), lambda: called.append("again"))
    loop.turn(0)
    assert called[5:] == ["again"], "it is not last any more"
    here.close()
    other.close()


def test_whoever_is_to_come_last_comes_in_the_end_however_many_others_are_always_ready(loop):
    """One look tells of some of those that are ready, and not of two newcomers at once."""
    called = {"one": 0, "other": 0}
    ready = []

    def always_ready(readable, **how):
        ready.append(os.eventfd(1))
        loop.watch(ready[-1], readable, **how)

    for name in called:
        always_ready(lambda name=name: called.update({name: called[name] + 1}), last=True)
        for _ in range(READY - 1):
            always_ready(lambda: None)
    for _ in range(8):
        loop.turn(0)
    assert called == {"one": 2, "other": 2}
    for each in ready:
        os.close(each)


def test_last_that_another_callback_forgot_is_not_called(loop, pair):
    new, client = pair
    here, other = socket.socketpair()
    called = []
    loop.watch(new.fileno(), lambda: called.append("new"), last=True)
    loop.watch(here.fileno(), lambda: loop.forget(new.fileno()))
    client.send(b"x")
    loop.turn(0)
    other.send(b"x")
    loop.turn(0)
    loop.turn(0)
    assert called == []
    here.close()
    other.close()


def test_run_works_until_there_is_no_work_and_then_sleeps(pair):
    ours, theirs = pair
    loop, done = Loop(), []

    def work():
        done.append(time.monotonic())
        return len(done) < 50

    loop.watch(ours.fileno(), loop.stop)
    loop.work(work)
    timer = threading.Timer(0.1, lambda: theirs.send(b"x"))
    before = time.process_time()
    timer.start()
    loop.run()
    assert time.process_time() - before < 0.08, "an idle loop sleeps"
    assert 50 <= len(done) <= 52
    timer.join()
    loop.close()


def test_work_that_never_ends_does_not_keep_a_socket_waiting(pair):
    """Bounded by a clock that the test owns: a burst, then a look at the sockets."""
    ours, theirs = pair
    now = itertools.count(step=BURST_NS // 10)
    loop, done, seen = Loop(now.__next__), [], []

    def work():
        done.append(None)
        return True

    def readable():
        ours.recv(1)
        seen.append(len(done))
        if len(seen) == 5:
            loop.stop()
        theirs.send(b"x")

    loop.watch(ours.fileno(), readable)
    loop.work(work)
    theirs.send(b"x")
    loop.run()
    assert [b - a for a, b in itertools.pairwise(seen)] == [10] * 4
    loop.close()


def test_busy_socket_does_not_keep_work_waiting(pair):
    ours, theirs = pair
    loop, turns, done = Loop(), [], []

    def work():
        done.append(len(turns))
        return True

    def always_ready():
        turns.append(None)
        if len(turns) == 20:
            loop.stop()

    theirs.send(b"x")
    loop.watch(ours.fileno(), always_ready)
    loop.work(work)
    loop.run()
    assert set(done) == set(range(1, 21))
    loop.close()


def test_stop_that_comes_before_run_counts(loop):
    loop.stop()
    loop.run()


def test_closed_loop_has_given_its_descriptor_back():
    before = len(os.listdir("/proc/self/fd"))
    Loop().close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_alarm_in_a_century_is_waited_for(loop, pair):
    ours, theirs = pair
    loop.after(1 << 62, loop.stop)
    loop.watch(ours.fileno(), loop.stop)
    later = threading.Timer(0.05, lambda: theirs.send(b"x"))
    later.start()
    loop.run()
    later.join()
    assert ours.recv(1) == b"x"


def test_an_alarm_rings_when_its_time_has_come_and_not_once_it_is_cancelled():
    loop, rung = Loop(), []
    loop.after(3_000_000, lambda: rung.append("second"))
    loop.after(1_000_000, lambda: rung.append("first"))
    loop.after(2_000_000, lambda: rung.append("cancelled")).cancel()
    loop.after(4_000_000, loop.stop)
    loop.run()
    loop.close()
    assert rung == ["first", "second"]
