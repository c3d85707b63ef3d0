"""Buffers in HBM: allocation, the slice's own MMU, scrubbing, and moves."""

from dataclasses import replace

import pytest

from mdevemu.accel.saving import Saved, save
from mdevemu.errors import DmaFault, StateError
from mdevemu.personalities.native.buffers import Buffers, HbmRange
from mdevemu.units import KIB, MIB, PAGE
from tests.support.bench import BASE, Bench
from tests.support.buffers import (
    ALLOCATE,
    DENIED,
    EXPORT,
    FREE,
    IMPORT,
    INVALID,
    MAPPED,
    MMU_AT,
    MMU_END,
    NO_BUFFER,
    NO_ROOM,
    RELEASE,
    REVOKE,
    Owner,
)
from tests.support.moving import load, saved, stopped
from tests.support.native import (
    DATA,
    HBM_RANGE,
    HBM_UNMAPPED,
    SOURCE_HBM,
    SUCCESS,
)

SIZE = 4 * MIB


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def owner(bench):
    made = Owner(bench)
    yield made
    made.close()


def test_lowest_place_is_allocated_and_usage_is_counted(owner):
    a, b = owner.must(ALLOCATE, 1), owner.must(ALLOCATE, PAGE + 1)
    assert (a, b) == (0, PAGE)
    assert owner.read(0xC0) == 2 * PAGE
    assert owner.used == (3 * PAGE, 3 * PAGE, 0, 0)
    owner.must(FREE, a)
    owner.bench.work()
    assert owner.used == (2 * PAGE, 3 * PAGE, 0, 0)
    assert owner.must(ALLOCATE, 2 * PAGE) == 3 * PAGE
    assert owner.must(ALLOCATE, PAGE) == 0


@pytest.mark.parametrize(
    ("operation", "argument", "status"),
    [
        (ALLOCATE, 0, INVALID),
        (ALLOCATE, SIZE + 1, NO_ROOM),
        (ALLOCATE, 2**64 - 1, NO_ROOM),
        (FREE, PAGE, NO_BUFFER),
        (FREE, 2**64 - 1, NO_BUFFER),
        (EXPORT, 0, NO_BUFFER),
        (REVOKE, 1, DENIED),
        (IMPORT, 0, DENIED),
        (RELEASE, 1 << 40, NO_BUFFER),
        (RELEASE, 0, NO_BUFFER),
        (ALLOCATE | MAPPED, 0, INVALID),
        (ALLOCATE | MAPPED, SIZE + 1, NO_ROOM),
        (ALLOCATE | MAPPED, 2**64 - 1, NO_ROOM),
        (FREE, MMU_AT, NO_BUFFER),
        (0, 0, INVALID),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(owner, operation, argument, status):
    assert owner.do(operation, argument) == (status, 0)
    assert owner.used == (0, 0, 0, 0)


def test_device_without_hbm_refuses_everything(bench):
    spec = {"name": "poor", "personality": "native"}
    poor = Owner(Bench(BASE | {"type": [spec]}), "poor")
    assert not poor.read(0x08) >> 29 & 1
    assert poor.do(ALLOCATE, 1) == (INVALID, 0)
    poor.close()


def test_freed_buffer_is_scrubbed_by_and_by_and_not_free_before(owner):
    at = owner.must(ALLOCATE, SIZE)
    assert owner.fill(0, SIZE, 0xAA) == SUCCESS
    owner.must(FREE, at)
    seen = [owner.used[2]]
    assert owner.do(ALLOCATE, PAGE) == (NO_ROOM, 0)
    while owner.bench.parent.step():
        seen.append(owner.used[2])
        if seen[-1]:
            assert owner.do(ALLOCATE, PAGE) == (NO_ROOM, 0)
    assert seen[0] == SIZE
    assert seen[-1] == 0
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == SIZE // (64 * KIB) + 1
    assert owner.must(ALLOCATE, SIZE) == 0
    assert owner.look(0, MIB) == (SUCCESS, bytes(MIB))


def test_reset_gives_buffers_up_and_scrubs_them(owner):
    owner.must(ALLOCATE, MIB)
    owner.must(FREE, owner.must(ALLOCATE, MIB))
    owner.fill(0, 2 * MIB, 0xAA)
    at = owner.must(ALLOCATE, PAGE)
    owner.fill(at, PAGE, 0xAA)
    owner.must(FREE, at)
    owner.reset()
    assert owner.used[0] == 0
    owner.bench.work()
    assert owner.used == (0, 0, 0, 0)
    assert owner.must(ALLOCATE, SIZE) == 0
    assert owner.look(0, MIB) == (SUCCESS, bytes(MIB))


# By addresses of the slice's MMU.


@pytest.fixture(params=["native", "rid"])
def either(bench, request):
    made = Owner(bench, request.param)
    yield made
    made.close()


def fragmented(owner):
    """All HBM in two-page buffers, and every other one free: their addresses, and the bytes."""
    taken = [owner.must(ALLOCATE, 2 * PAGE) for _ in range(SIZE // (2 * PAGE))]
    for at in taken[::2]:
        owner.must(FREE, at)
    owner.bench.work()
    return taken[1::2], SIZE // 2


def test_mapped_buffer_is_made_of_what_is_free_anywhere(either):
    kept, free = fragmented(either)
    for at in kept:
        assert either.fill(at, 2 * PAGE, 0x33) == SUCCESS
    assert either.do(ALLOCATE, 4 * PAGE) == (NO_ROOM, 0)
    assert either.do(ALLOCATE | MAPPED, free + PAGE) == (NO_ROOM, 0)
    at = either.must(ALLOCATE | MAPPED, free)
    assert MMU_AT <= at < MMU_END
    assert either.read(0xC0) == free
    assert either.used == (SIZE, SIZE, 0, 0)
    assert either.look(at, free) == (SUCCESS, bytes(free))
    assert either.fill(at, free, 0x44) == SUCCESS
    assert either.look(at, free) == (SUCCESS, b"\x44" * free)
    assert all(either.look(place, 2 * PAGE)[1] == b"\x33" * 2 * PAGE for place in kept)
    for place in kept:  # each piece is its own memory, by the aperture
        assert either.look(place - 2 * PAGE, 2 * PAGE)[1] == b"\x44" * 2 * PAGE


def test_unmapped_addresses_fault_with_the_first_of_them(either):
    at = either.must(ALLOCATE | MAPPED, 3 * PAGE)
    other = either.must(ALLOCATE | MAPPED, PAGE)
    assert other >= at + 4 * PAGE  # what runs over the end of one is not in the next
    for start, length, address in [
        (other - 1, 2, other - 1),
        (at + PAGE, 3 * PAGE, at + 3 * PAGE),
        (at + 3 * PAGE - 1, 2, at + 3 * PAGE),
        (at + 3 * PAGE, 1, at + 3 * PAGE),
        (MMU_END - 1, 4, MMU_END - 1),
    ]:
        done = either.run("copy", SOURCE_HBM, source=start, destination=DATA, length=length)
        assert (done.status, done.address, done.cause) == (HBM_UNMAPPED, address, 0)
    for start in (SIZE, MMU_AT - PAGE, MMU_END, 2**64 - 8):
        done = either.run("copy", SOURCE_HBM, source=start, destination=DATA, length=8)
        assert (done.status, done.address) == (HBM_RANGE, start)
    assert not either.bench.faults()


def test_mapped_buffer_that_was_freed_is_unmapped_before_it_is_scrubbed(either):
    at = either.must(ALLOCATE | MAPPED, MIB)
    either.fill(at, MIB, 0x11)
    either.must(FREE, at)
    assert either.used[2] == MIB
    done = either.run("copy", SOURCE_HBM, source=at, destination=DATA, length=8)
    assert (done.status, done.address) == (HBM_UNMAPPED, at)
    with pytest.raises(DmaFault):  # neither by an address that goes round the device's own check
        either.mdev.port.read(either.mdev.space.attached.hbm_at + at, 8)
    either.bench.work()
    assert either.look(0, MIB) == (SUCCESS, bytes(MIB))
    assert either.must(ALLOCATE | MAPPED, MIB) == at


def test_command_whose_buffer_is_freed_meanwhile_ends_there(either):
    at = either.must(ALLOCATE | MAPPED, MIB)
    queue = either.begin_copy(at, MIB)
    either.must(FREE, at)
    either.bench.work()
    (done,) = queue.reap()
    assert done.status == HBM_UNMAPPED
    assert at < done.address < at + MIB


def test_reset_unmaps_and_scrubs_what_was_mapped(either):
    at = either.must(ALLOCATE | MAPPED, MIB)
    either.fill(at, MIB, 0x11)
    either.reset()
    assert either.look(at, 8)[0] == HBM_UNMAPPED
    either.bench.work()
    assert either.must(ALLOCATE, SIZE) == 0
    assert either.look(0, MIB) == (SUCCESS, bytes(MIB))


def owner_of(size):
    """The owner of a slice with more HBM, in MiB."""
    accelerator = {**BASE["accelerator"], "hbm": f"{2 * size}MiB"}
    kind = {"name": "native", "hbm": f"{size}MiB"}
    return Owner(Bench({**BASE, "accelerator": accelerator, "type": [kind]}))


def test_large_mapping_has_large_pages():
    big = owner_of(16)
    big.must(ALLOCATE, PAGE)
    tables = big.bench.parent.host.frames.used
    big.must(ALLOCATE | MAPPED, 12 * MIB)
    assert big.bench.parent.host.frames.used - tables <= 5  # three levels, and two ragged ends
    big.close()


def test_large_piece_of_a_mapping_has_large_pages_though_a_small_one_is_before_it():
    big = owner_of(16)
    first = big.must(ALLOCATE, PAGE)
    big.must(ALLOCATE, PAGE)
    big.must(FREE, first)
    big.bench.work()
    tables = big.bench.parent.host.frames.used
    big.must(ALLOCATE | MAPPED, 16 * MIB - PAGE)  # both
    assert big.bench.parent.host.frames.used - tables <= 5
    big.close()


def test_mapped_buffer_has_so_many_pieces_and_no_more():
    big = owner_of(16)
    taken = [big.must(ALLOCATE, PAGE) for _ in range(4096)]
    for at in taken[::2]:
        big.must(FREE, at)
    big.bench.work()
    assert big.do(ALLOCATE | MAPPED, 1025 * PAGE) == (NO_ROOM, 0)
    assert big.used[0] == 2048 * PAGE
    for _ in range(2):
        big.must(ALLOCATE | MAPPED, 1024 * PAGE)
    big.close()


def test_state_fits_in_a_stream_however_much_is_allocated_and_freed():
    big = owner_of(128)
    mapped = [big.must(ALLOCATE | MAPPED, PAGE) for _ in range(4095)]
    pieces = len(mapped)
    while (found := big.do(ALLOCATE, PAGE))[0] != NO_ROOM:
        big.must(FREE, found[1])
        pieces += 1
    assert pieces == 16384
    assert stopped(big.bench, big.mdev) is None
    there = owner_of(128)
    load(there.bench, there.mdev, saved(big.mdev))
    there.function.write(7, 4, b"\x06\x00")
    assert there.used[:3] == big.used[:3] == (4095 * PAGE, 4096 * PAGE, (16384 - 4095) * PAGE)
    assert there.do(ALLOCATE, PAGE) == (NO_ROOM, 0)
    there.mdev.function.migration.run()
    there.bench.work()
    assert there.used[2] == 0
    there.must(ALLOCATE, PAGE)
    for each in (big, there):
        each.close()


def test_device_that_has_no_tables_left_maps_nothing(owner, monkeypatch):
    table = owner.mdev.space.attached.table
    owner.must(FREE, owner.must(ALLOCATE | MAPPED, PAGE))
    owner.bench.work()
    for spare in range(3):  # of the three that it takes
        with monkeypatch.context() as patch:
            patch.setattr(table, "_limit", len(table._valid) + spare)
            assert owner.do(ALLOCATE | MAPPED, PAGE) == (NO_ROOM, 0)
        assert owner.used == (0, PAGE, 0, 0)
    assert owner.look(owner.must(ALLOCATE | MAPPED, PAGE))[0] == SUCCESS


def test_windows_that_are_all_taken_away_leave_what_is_mapped(either):
    at = either.must(ALLOCATE | MAPPED, PAGE)
    assert either.fill(at, PAGE, 0x66) == SUCCESS
    either.mdev.space.clear()
    assert either.mdev.port.read(either.mdev.space.attached.hbm_at + at, 8) == b"\x66" * 8


def test_reset_of_many_mapped_buffers_leaves_none_reachable(either):
    places = [either.must(ALLOCATE | MAPPED, pages * PAGE) for pages in (1, 2, 300)]
    assert [either.look(at)[0] for at in places] == [SUCCESS] * 3  # and so they are cached
    either.reset()
    for at in places:
        assert either.look(at)[0] == HBM_UNMAPPED
        with pytest.raises(DmaFault):
            either.mdev.port.read(either.mdev.space.attached.hbm_at + at, 8)
    either.bench.work()
    assert [either.must(ALLOCATE | MAPPED, pages * PAGE) for pages in (1, 2, 300)] == places


def test_mdev_that_is_removed_while_its_limit_has_it_rest_scrubs_no_more(owner):
    owner.bench.parent.set_limit(owner.mdev, "bandwidth", MIB)
    owner.must(FREE, owner.must(ALLOCATE, MIB))
    owner.bench.work()
    assert 0 < owner.used[2] < MIB  # it rests
    owner.must(ALLOCATE, MIB)  # which the removal has to scrub
    owner.bench.parent.remove(owner.mdev)
    owner.bench.skip(10 * 10**9)
    assert not owner.bench.parent.step()


# Moves.


def moved(owner, change=lambda stream: stream):
    """The same buffers in another accelerator, at rest until it is released."""
    assert stopped(owner.bench, owner.mdev) is None
    there = Owner(Bench(), start=False)
    load(there.bench, there.mdev, change(saved(owner.mdev)))
    there.function.write(7, 4, b"\x06\x00")
    return there


def test_buffers_and_what_is_to_be_scrubbed_move(owner):
    kept, dirty = owner.must(ALLOCATE, PAGE), owner.must(ALLOCATE, SIZE - PAGE)
    owner.fill(kept, PAGE, 0x11)
    owner.fill(dirty, 8 * PAGE, 0x22)
    owner.must(FREE, dirty)
    owner.bench.parent.step()
    there = moved(owner)
    assert there.used[:2] == (PAGE, SIZE)
    assert there.do(ALLOCATE, PAGE) == (NO_ROOM, 0)
    there.mdev.function.migration.run()
    there.bench.work()
    assert there.used == (PAGE, SIZE, 0, 0)
    assert there.must(ALLOCATE, SIZE - PAGE) == dirty
    assert there.look(kept) == (SUCCESS, b"\x11" * PAGE)
    assert there.look(dirty, 8 * PAGE) == (SUCCESS, bytes(8 * PAGE))
    there.close()


def test_stopped_device_scrubs_on_when_it_runs_again(owner):
    owner.must(FREE, owner.must(ALLOCATE, SIZE))
    for _ in range(5):
        owner.bench.parent.step()
    assert stopped(owner.bench, owner.mdev) is None
    left = owner.used[2]
    owner.bench.work()
    assert 0 < owner.used[2] == left < SIZE
    owner.mdev.function.migration.run()
    owner.bench.work()
    assert owner.must(ALLOCATE, SIZE) == 0


def test_mapped_buffer_moves_to_its_address(owner):
    _, free = fragmented(owner)
    at = owner.must(ALLOCATE | MAPPED, free)
    owner.fill(at, free, 0x55)
    there = moved(owner)
    there.mdev.function.migration.run()
    assert there.used[:3] == owner.used[:3]
    assert there.look(at, free) == (SUCCESS, b"\x55" * free)
    assert there.look(at + free)[0] == HBM_UNMAPPED
    there.must(FREE, at)
    there.bench.work()
    assert there.must(ALLOCATE | MAPPED, free) == at
    there.close()


def test_state_comes_into_a_device_that_had_buffers(owner):
    at = owner.must(ALLOCATE | MAPPED, PAGE)
    owner.fill(at, PAGE, 0x77)
    used = Owner(Bench())
    used.must(FREE, used.must(ALLOCATE, MIB))
    used.must(ALLOCATE | MAPPED, MIB)
    assert stopped(owner.bench, owner.mdev) is None
    load(used.bench, used.mdev, saved(owner.mdev))
    used.function.write(7, 4, b"\x06\x00")
    assert used.used == (PAGE, PAGE, 0, 0)
    used.mdev.function.migration.run()
    assert used.look(at) == (SUCCESS, b"\x77" * PAGE)
    used.must(FREE, at)
    used.bench.work()
    assert used.must(ALLOCATE, SIZE) == 0
    used.close()


@pytest.mark.parametrize(
    "ranges",
    [
        [(PAGE, 0, 0)],
        [(1, PAGE, 0)],
        [(0, PAGE - 1, 0)],
        [(0, SIZE + PAGE, 0)],
        [(SIZE, PAGE, 0)],
        [(2**64 - PAGE, PAGE, 1)],
        [(0, PAGE, 5)],
        [(0, 2 * PAGE, 0), (PAGE, PAGE, 0)],
        [(0, 2 * PAGE, 0), (PAGE, PAGE, 1)],
        [(0, PAGE, 4)],
        [(MMU_AT, PAGE, 3)],
        [(MMU_AT, 2 * PAGE, 3), (0, PAGE, 4)],
        [(MMU_AT, PAGE, 3), (0, 2 * PAGE, 4)],
        [(MMU_AT, 2 * PAGE, 3), (0, PAGE, 4), (0, PAGE, 4)],
        [(MMU_AT, PAGE, 3), (SIZE, PAGE, 4)],
        [(MMU_AT + 1, PAGE, 3), (0, PAGE, 4)],
        [(MMU_END - PAGE, PAGE, 3), (0, PAGE, 4)],
        [(0, PAGE, 3), (0, PAGE, 4)],
        [(MMU_AT, PAGE, 3), (0, PAGE, 4), (MMU_AT, PAGE, 3), (PAGE, PAGE, 4)],
        [(0, 4 * PAGE, 0)],  # more than the high-water mark
    ],
)
def test_buffers_that_no_driver_could_have_are_refused(bench, ranges):
    device = Owner(bench).mdev.personality
    *_, high_water, end = list(device.save())
    bad = [replace(high_water, value=3 * PAGE), *(HbmRange(*each) for each in ranges), end]
    with pytest.raises(StateError, match="buffer"):
        Buffers(device).load(Saved(save(bad)))


def pages(count, state):
    """So many pages of HBM, none beside another."""
    return [HbmRange(2 * n * PAGE, PAGE, state) for n in range(count)]


@pytest.mark.parametrize(
    "ranges",
    [
        pages(4097, 0),
        [HbmRange(MMU_AT, 1025 * PAGE, 3), *pages(1025, 4)],
        pages(16385, 1),
    ],
    ids=["buffers", "pieces of one", "pieces to be scrubbed"],
)
def test_more_than_a_driver_could_have_is_refused(ranges):
    big = owner_of(256)
    *_, high_water, end = list(big.mdev.personality.save())
    state = save([replace(high_water, value=256 * MIB), *ranges, end])
    with pytest.raises(StateError, match="buffer"):
        Buffers(big.mdev.personality).load(Saved(state))
    big.close()
