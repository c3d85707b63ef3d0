"""Rings: free-running indices, phases, and the obligation to complete."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.accel.ring import CompletionRing, Ring
from mdevemu.errors import CommandFault, DmaFault
from mdevemu.layout import Struct, pack, sizeof, u16, u64
from mdevemu.units import Iova
from tests.support.plain import PlainMemory, Waiting, now


class Job(Struct):
    number: u64


class Done(Struct):
    number: u64
    spare: u16
    phase: u16


def filled(entries=4, start=0):
    memory = PlainMemory()
    ring = Ring(Waiting(memory), Iova(0), entries, Job)
    ring.head = ring.tail = start
    return memory, ring


@given(start=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(0, 4), max_size=20))
def test_commands_come_out_once_and_in_order_across_wraps(start, counts):
    memory, ring = filled(start=start)
    sent, got, tail = 0, [], start
    for count in counts:
        for _ in range(count):
            at = (tail & 3) * sizeof(Job)
            memory.bytes[at : at + 8] = pack(Job(sent))
            sent, tail = sent + 1, (tail + 1) & 0xFFFFFFFF
        ring.announce(tail)
        while not ring.empty:
            popped = now(ring.pop())
            got.append(popped.command.number)
            popped.settle()
    assert got == list(range(sent))


def test_tail_beyond_the_ring_is_refused_and_changes_nothing():
    _, ring = filled()
    ring.announce(4)
    with pytest.raises(CommandFault, match="tail 5 with head 0 in a ring of 4"):
        ring.announce(5)
    assert ring.tail == 4


def test_tail_that_goes_back_is_refused():
    _, ring = filled(start=2)
    with pytest.raises(CommandFault):
        ring.announce(1)


def test_unreadable_command_stays_in_the_ring():
    ring = Ring(Waiting(PlainMemory(size=4)), Iova(0), 4, Job)
    ring.announce(1)
    with pytest.raises(DmaFault):
        now(ring.pop())
    assert ring.head == 0


def test_command_that_was_never_completed_is_our_bug():
    _, ring = filled()
    ring.announce(2)
    now(ring.pop())
    with pytest.raises(AssertionError, match="never completed"):
        now(ring.pop())


def test_command_completed_twice_is_our_bug():
    _, ring = filled()
    ring.announce(1)
    popped = now(ring.pop())
    popped.settle()
    with pytest.raises(AssertionError, match="completed twice"):
        popped.settle()


@given(st.integers(0, 40))
def test_phase_changes_with_every_pass(count):
    memory, ring = filled(entries=64)
    completions = CompletionRing(Waiting(memory), Iova(1024), 4, Done)
    ring.announce(count)
    for number in range(count):
        now(completions.put(now(ring.pop()), Done(number, 0, completions.phase)))
        completions.take(completions.tail)
        at = 1024 + (number & 3) * sizeof(Done)
        assert memory.bytes[at + 10] == 1 - (number // 4 & 1)


def test_completion_ring_is_full_until_the_guest_takes():
    memory, ring = filled(entries=8)
    completions = CompletionRing(Waiting(memory), Iova(1024), 2, Done)
    ring.announce(3)
    for number in range(2):
        now(completions.put(now(ring.pop()), Done(number, 0, 1)))
    assert completions.full
    completions.take(1)
    assert not completions.full
    with pytest.raises(CommandFault, match="took 3 with 2 written"):
        completions.take(3)


def test_record_that_cannot_be_written_leaves_the_command_open():
    memory, ring = filled()
    completions = CompletionRing(Waiting(memory), Iova(1 << 20), 2, Done)
    ring.announce(1)
    popped = now(ring.pop())
    with pytest.raises(DmaFault):
        now(completions.put(popped, Done(0, 0, 1)))
    assert not popped.settled
    assert completions.tail == 0
