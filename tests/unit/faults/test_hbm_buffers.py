"""Flipped bits in buffers: met by whatever address reaches them, and gone with what is scrubbed."""

import pytest

from mdevemu.faults.commands import Faults
from mdevemu.faults.injection import Order
from mdevemu.units import PAGE
from tests.support.bench import Bench
from tests.support.buffers import (
    ALLOCATE,
    EXPORT,
    FREE,
    IMPORT,
    MAPPED,
    RELEASE,
    REVOKE,
    WRITABLE,
    Owner,
)
from tests.support.native import READ_FAULT, SUCCESS

HARDWARE_ERROR = 19


@pytest.fixture
def pair():
    bench = Bench()
    faults = Faults(bench.parent)
    both = Owner(bench), Owner(bench)
    yield *both, faults
    for each in both:
        each.close()


def flip(faults, owner, address):
    """Two bits, at an address of the aperture."""
    faults.inject(owner.mdev, "hbm-uncorrected", Order(address=address))


def guarded(*owners):
    return [bool(each.mdev.port.gate.guards) for each in owners]


def test_mapped_address_meets_the_error_where_the_page_is(pair):
    red, _, faults = pair
    red.must(ALLOCATE, PAGE)
    at = red.must(ALLOCATE | MAPPED, 2 * PAGE)  # whose pages come after that one
    flip(faults, red, 2 * PAGE + 8)
    done = red.run("copy", 1, source=at, destination=0x20_0000, length=2 * PAGE)
    assert (done.status, done.address, done.cause) == (READ_FAULT, at + PAGE + 8, HARDWARE_ERROR)
    assert red.look(at)[0] == SUCCESS
    assert red.fill(at, 2 * PAGE, 0x55) == SUCCESS
    assert red.look(at + PAGE) == (SUCCESS, b"\x55" * PAGE)
    assert guarded(red) == [False]


@pytest.mark.parametrize("first", ["import", "error"])
def test_importer_meets_the_owners_error(pair, first):
    red, blue, faults = pair
    red.must(ALLOCATE, PAGE)
    at = red.must(ALLOCATE, PAGE)
    handle = red.must(EXPORT, at, blue.number | WRITABLE)
    if first == "error":
        flip(faults, red, at + 16)
        assert guarded(red, blue) == [True, False]
    there = blue.must(IMPORT, handle)
    if first == "import":
        flip(faults, red, at + 16)
    assert guarded(red, blue) == [True, True]
    done = blue.run("copy", 1, source=there, destination=0x20_0000, length=PAGE)
    assert (done.status, done.address, done.cause) == (READ_FAULT, there + 16, HARDWARE_ERROR)
    assert blue.look(0)[0] == SUCCESS  # its own HBM has no error there
    assert faults.errors(red.mdev)["hbm-uncorrectable-errors"] == 1
    assert blue.fill(there, PAGE, 0x66) == SUCCESS
    assert red.look(at) == (SUCCESS, b"\x66" * PAGE)
    assert guarded(red, blue) == [False, False]


@pytest.mark.parametrize("end", ["revoke", "release", "reset"])
def test_who_imports_no_more_is_looked_at_no_more(pair, end):
    red, blue, faults = pair
    at = red.must(ALLOCATE, PAGE)
    handle = red.must(EXPORT, at, blue.number)
    there = blue.must(IMPORT, handle)
    flip(faults, red, at)
    if end == "revoke":
        red.must(REVOKE, handle)
    elif end == "release":
        blue.must(RELEASE, there)
    else:
        blue.reset()
    assert guarded(red, blue) == [True, False]
    faults.forget(red.mdev)
    assert guarded(red, blue) == [False, False]
    assert red.mdev.sharing.changed is None


def test_scrubbing_writes_every_word(pair):
    red, _, faults = pair
    at = red.must(ALLOCATE, 2 * PAGE)
    other = red.must(ALLOCATE, PAGE)
    for address in (at, at + 2 * PAGE - 8, other):
        flip(faults, red, address)
    red.must(FREE, at)
    red.bench.work()
    assert red.look(at, 2 * PAGE) == (SUCCESS, bytes(2 * PAGE))
    assert red.look(other)[0] == READ_FAULT
    faults.forget(red.mdev)  # puts bits back, but for those that were scrubbed
    assert red.look(at, 2 * PAGE) == (SUCCESS, bytes(2 * PAGE))
    assert red.look(other) == (SUCCESS, bytes(PAGE))
    assert not red.mdev.partition.observers


def test_write_that_fails_heals_nothing_of_a_scattered_buffer(pair):
    red, _, faults = pair
    pieces = [red.must(ALLOCATE, PAGE) for _ in range(1024)]
    for at in pieces[:4:2]:
        red.must(FREE, at)
    red.bench.work()
    at = red.must(ALLOCATE | MAPPED, 2 * PAGE)
    flip(faults, red, pieces[0] + PAGE - 8)
    flip(faults, red, pieces[2])
    done = red.run("fill", 2, destination=at + PAGE - 8, length=12, operand=1)
    assert done.status != SUCCESS  # half of the second word would have to be read
    assert red.look(pieces[0])[0] == READ_FAULT
    assert red.look(pieces[2])[0] == READ_FAULT
