"""Iovas and interrupts."""

import os
import threading
import time

import pytest

from guest.access import PAGE, Interrupt, IovaSpace, whole_pages
from guest.errors import DeviceError


def test_take_never_gives_an_address_twice_and_leaves_a_gap():
    space = IovaSpace(0x10000)
    ends = 0
    for size in (PAGE, 3 * PAGE, PAGE, 4 << 20, PAGE):
        start = space.take(size)
        assert start % PAGE == 0
        assert start >= 0x10000
        assert start >= ends + PAGE or not ends
        ends = start + size


def test_take_large_sizes_are_aligned_for_superpages():
    space = IovaSpace(PAGE)
    assert space.take(2 << 20) % (2 << 20) == 0


def test_take_jumps_over_reserved_ranges():
    space = IovaSpace(0xFEDF_F000, [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 39) - 1)])
    assert space.take(PAGE) == 0xFEDF_F000
    assert space.take(PAGE) == 0xFEF0_0000


def test_take_beyond_the_last_range_is_refused():
    space = IovaSpace(0, [(0, 8 * PAGE - 1)])
    with pytest.raises(DeviceError, match="no Iovas left"):
        space.take(16 * PAGE)


def test_whole_pages_rounds_up_and_is_never_nothing():
    assert [whole_pages(n) for n in (0, 1, PAGE, PAGE + 1)] == [PAGE, PAGE, PAGE, 2 * PAGE]


def test_interrupt_counts_all_that_came_and_resets():
    fileno = os.eventfd(0, os.EFD_NONBLOCK)
    interrupt = Interrupt(fileno)
    assert interrupt.take() == 0
    os.eventfd_write(fileno, 1)
    os.eventfd_write(fileno, 1)
    assert interrupt.wait(0) == 2
    assert interrupt.take() == 0
    assert interrupt.total == 2
    os.close(fileno)


def test_interrupt_wait_wakes_when_it_comes():
    fileno = os.eventfd(0, os.EFD_NONBLOCK)
    interrupt = Interrupt(fileno)
    timer = threading.Timer(0.05, lambda: os.eventfd_write(fileno, 1))
    timer.start()
    begun = time.monotonic()
    assert interrupt.wait(10) == 1
    assert time.monotonic() - begun < 5
    timer.join()
    os.close(fileno)
