"""What the author of a driver is told: places without a register, and waits for nothing."""

import pytest

from mdevemu.pci import watchdog
from mdevemu.pci.watchdog import MANY, PLACES
from mdevemu.personalities.ioat.layout import ChannelState
from tests.support.bench import Bench

CHANSTS = 0x88
STATUS, SCRATCH, COMPLETED = 0x24, 0x28, 0x1000
DOORBELLS = 2


@pytest.fixture
def native():
    return Bench().mdev("native")


def unmodelled(mdev):
    """(BAR, offset, bytes, write, count) of each place, in the order of their first use."""
    return [
        (place.bar, place.offset, place.length, place.write, count)
        for place, count in mdev.personality.accesses.unmodelled.items()
    ]


def spins(mdev):
    return list(mdev.personality.accesses.spins)


def events(mdev):
    trace = mdev.personality.slice.trace
    return [event.facts for event in trace.events if event.name == "device.spin"]


def read(mdev, times, offset=STATUS, length=4):
    for _ in range(times):
        mdev.function.read(0, offset, length)


def test_places_without_a_register_are_counted_by_how_they_are_reached(native):
    function = native.function
    function.read(0, 0x2000, 4)
    function.read(0, 0x2000, 4)
    function.read(0, 0x2000, 8)
    function.write(0, 0x2000, bytes(4))
    function.write(DOORBELLS, 0x8, bytes(4))
    assert unmodelled(native) == [
        (0, 0x2000, 4, False, 2),
        (0, 0x2000, 8, False, 1),
        (0, 0x2000, 4, True, 1),
        (2, 0x8, 4, True, 1),
    ]


def test_access_that_touches_a_register_is_none_of_them(native):
    native.function.read(0, STATUS, 4)
    native.function.read(0, STATUS + 1, 1)
    native.function.write(0, SCRATCH, bytes(16))
    native.function.read(7, 0xF00, 4)
    assert unmodelled(native) == []


def test_guest_that_touches_everything_takes_no_more_memory_than_others(native):
    for offset in range(0x2000, 0x3000, 4):
        native.function.read(0, offset, 4)
    native.function.read(0, 0x2000, 4)
    accesses = native.personality.accesses
    assert len(accesses.unmodelled) == 256
    assert accesses.others == 1024 - 256
    assert unmodelled(native)[0] == (0, 0x2000, 4, False, 2)


def test_reset_forgets_nothing(native):
    native.function.read(0, 0x2000, 4)
    native.function.reset()
    assert len(unmodelled(native)) == 1


def test_register_that_is_read_over_and_over_is_named_once_with_its_bits():
    mdev = Bench().mdev("ioat")
    read(mdev, MANY - 1, CHANSTS, 8)
    assert spins(mdev) == []
    read(mdev, 500, CHANSTS, 8)
    (spin,) = spins(mdev)
    assert (spin.register, spin.reading.count) == ("channel_status[0]", MANY + 499)
    assert spin.fields["state"] == ChannelState.HALTED.name
    assert spin.fields["completed"] == 0
    (facts,) = events(mdev)
    assert (facts["register"], facts["reads"]) == ("channel_status[0]", MANY)


def test_part_of_a_register_shows_the_fields_that_were_read():
    mdev = Bench().mdev("ioat")
    read(mdev, MANY, CHANSTS, 1)
    (spin,) = spins(mdev)
    assert set(spin.fields) == {"state", "unaffiliated_error", "soft_error"}
    read(mdev, MANY, CHANSTS + 4, 4)
    assert spins(mdev)[-1].register == "channel_status[0]"
    assert spins(mdev)[-1].fields == {}


def test_other_registers_may_be_read_in_between(native):
    for _ in range(MANY):
        read(native, 1)
        read(native, 1, SCRATCH)
        read(native, 1, COMPLETED, 8)
    assert sorted(spin.register for spin in spins(native)) == ["completed", "scratch", "status"]


def test_write_ends_the_wait(native):
    read(native, MANY - 1)
    native.function.write(0, SCRATCH, bytes(4))
    read(native, MANY - 1)
    assert spins(native) == []
    read(native, 1)
    assert len(spins(native)) == 1


def test_change_ends_the_wait(native):
    read(native, MANY - 1)
    native.personality.regs.status.state = 1
    read(native, MANY - 1)
    assert spins(native) == []


def test_guest_that_reads_everything_waits_for_nothing(native, monkeypatch):
    monkeypatch.setattr(watchdog, "MANY", 10)
    for _ in range(20):
        for offset in range(0x1000, 0x1000 + 4 * (PLACES + 1), 4):
            native.function.read(0, offset, 4)
    assert spins(native) == []


def test_latest_waits_are_kept(native, monkeypatch):
    monkeypatch.setattr(watchdog, "MANY", 10)
    for _ in range(70):
        read(native, 10)
        native.function.write(0, SCRATCH, bytes(4))
    assert len(spins(native)) == 64


def test_place_without_a_register_can_be_waited_for(native):
    read(native, MANY, 0x2000)
    (spin,) = spins(native)
    assert (spin.register, spin.fields) == (None, {})
    assert unmodelled(native) == [(0, 0x2000, 4, False, MANY)]
