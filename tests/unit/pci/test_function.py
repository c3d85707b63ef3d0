"""Regions, dispatch, resets, bus mastering and power of a function."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.fds import Fd
from mdevemu.pci.config import Bar
from mdevemu.pci.function import CONFIG, REGIONS, Function
from mdevemu.trace import Trace
from tests.unit.pci import (
    BUS_MASTER,
    COMMAND,
    DEVICE_CONTROL,
    FLR,
    MEMORY,
    POWER_CONTROL,
    Board,
    functional,
    get,
    put,
)


def test_regions_are_the_bars_msix_and_config():
    sizes = [region.size for region in functional(Board()).regions]
    assert sizes == [0x10000, 0x1000, 0x10000, 0, 1 << 28, 0, 0, 4096, 0]


def test_interrupt_counts_are_those_of_each_index():
    assert list(functional(Board(5)).interrupts) == [1, 0, 5, 1, 1]
    assert list(functional(Board(0)).interrupts) == [1, 0, 0, 1, 1]


def test_bar_with_memory_offers_only_what_is_real():
    file = Fd(os.memfd_create("hbm"))
    os.truncate(file.fileno(), 0x3000)
    with file:
        partly = Bar(4, 0x4000, wide=True, memory=file, memory_size=0x3000)
        region = functional(Board(bars=[partly])).regions[4]
        assert region.memory is file
        assert region.areas == [(0, 0x3000)]
        whole = Bar(4, 0x4000, wide=True, memory=file)
        assert functional(Board(bars=[whole])).regions[4].areas == []


def test_bar_access_reaches_the_device():
    board = Board()
    function = functional(board)
    function.write(2, 0x1234, b"\x01\x02\x03")
    assert board.memory[2][0x1234:0x1237] == b"\x01\x02\x03"
    assert function.read(2, 0x1233, 5) == b"\0\x01\x02\x03\0"


@pytest.mark.parametrize("region", [3, 5, 6, 8])
def test_region_that_does_not_exist_reads_zero(region):
    function = functional(Board())
    function.write(region, 0, b"\xff" * 8)
    assert function.read(region, 0, 8) == bytes(8)


@settings(max_examples=100)
@given(
    accesses=st.lists(
        st.tuples(
            st.integers(0, REGIONS - 1),
            st.integers(0, 0x1000),
            st.binary(max_size=24) | st.integers(0, 64),
        ),
        max_size=20,
    )
)
def test_any_access_to_any_region_is_defined(accesses):
    function = functional(Board())
    for region, offset, what in accesses:
        if isinstance(what, bytes):
            function.write(region, offset, what)
        else:
            assert len(function.read(region, offset, what)) == what


def test_bus_master_tells_the_device_once_per_change():
    board = Board()
    function = functional(board)
    put(function, COMMAND, MEMORY)
    put(function, COMMAND, MEMORY | BUS_MASTER)
    put(function, COMMAND, BUS_MASTER)
    put(function, COMMAND, 0)
    assert board.told == [("enable", True), ("enable", False)]


def test_d3hot_takes_the_bus_away_and_d0_gives_it_back():
    board = Board()
    function = functional(board)
    put(function, COMMAND, BUS_MASTER)
    put(function, POWER_CONTROL, 3)
    assert board.told[-1] == ("enable", False)
    put(function, POWER_CONTROL, 0)
    assert board.told == [("enable", True), ("enable", False), ("enable", True)]


def test_flr_resets_device_and_config_space():
    board = Board()
    trace = Trace(lambda: 0)
    function = Function(board, trace, "board")
    fresh = function.read(CONFIG, 0, 4096)
    put(function, COMMAND, MEMORY | BUS_MASTER)
    put(function, 0x10, 0xFE00_0000, 4)
    put(function, POWER_CONTROL, 3)
    function.write(1, 0, b"\xff" * 16)
    put(function, DEVICE_CONTROL, FLR | 0x2810)
    assert function.read(CONFIG, 0, 4096) == fresh
    assert function.read(1, 0, 16) == bytes(12) + b"\x01\0\0\0"
    assert board.told[-2:] == [("enable", False), "reset"]
    assert trace.events[-1].facts["cause"] == "flr"


def test_flr_bit_reads_zero_and_the_other_bits_do_not_reset():
    board = Board()
    function = functional(board)
    put(function, DEVICE_CONTROL, 0x7FFF)
    assert get(function, DEVICE_CONTROL, 2) & FLR == 0
    assert board.told == []


def test_flr_by_its_byte_alone_resets():
    board = Board()
    put(functional(board), DEVICE_CONTROL + 1, 0x80, 1)
    assert board.told == [("enable", False), "reset"]


def test_reset_message_resets_device_and_config_space():
    board = Board()
    function = functional(board)
    fresh = function.read(CONFIG, 0, 4096)
    put(function, COMMAND, BUS_MASTER)
    function.reset()
    assert function.read(CONFIG, 0, 4096) == fresh
    assert board.told == [("enable", True), ("enable", False), "reset"]
    put(function, COMMAND, BUS_MASTER)
    assert board.told[-1] == ("enable", True)


def test_disconnect_keeps_device_and_config_space():
    board = Board()
    function = functional(board)
    put(function, COMMAND, BUS_MASTER)
    before = function.read(CONFIG, 0, 4096)
    function.disconnect()
    assert function.read(CONFIG, 0, 4096) == before
    assert "reset" not in board.told
