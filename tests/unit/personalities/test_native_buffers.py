"""Buffers in HBM: allocation, scrubbing, and sharing by consent of both."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mdevemu.accel.saving import Saved, save
from mdevemu.errors import DmaFault, StateError
from mdevemu.personalities.native.buffers import Buffers, HbmRange
from mdevemu.units import KIB, MIB, PAGE
from tests.support.bench import BASE, Bench
from tests.support.moving import load, saved, stopped
from tests.support.native import (
    DATA,
    DESTINATION_HBM,
    HBM_RANGE,
    READ_FAULT,
    SOURCE_HBM,
    SUCCESS,
    WRITE_FAULT,
    Driver,
    descriptor,
)

ALLOCATE, FREE, EXPORT, REVOKE, IMPORT, RELEASE = range(1, 7)
OK, INVALID, NO_ROOM, NO_BUFFER, DENIED = range(5)
WRITABLE = 1 << 63
SIZE = 4 * MIB


class Owner(Driver):
    """A driver that keeps its HBM as buffers."""

    def do(self, operation, argument=0, peer=0):
        """(status, result) of a command about buffers."""
        self.write(0xA0, argument)
        self.write(0xA8, peer)
        self.write(0xB0, operation, 4)
        return self.read(0xB4, 4), self.read(0xB8)

    def must(self, operation, argument=0, peer=0):
        status, result = self.do(operation, argument, peer)
        assert status == OK
        return result

    @property
    def number(self):
        return self.read(0xC8, 4)

    @property
    def used(self):
        """(used, high water, being scrubbed, imported), in bytes."""
        return tuple(self.read(0x1050 + 8 * n) for n in range(4))

    def fill(self, at, length, byte):
        pattern = int.from_bytes(bytes([byte]) * 8, "little")
        done = self.run("fill", DESTINATION_HBM, destination=at, length=length, operand=pattern)
        return done.status

    def look(self, at, length=PAGE):
        """(status, bytes) of HBM, as the engines see it."""
        done = self.run("copy", SOURCE_HBM, source=at, destination=DATA, length=length)
        return done.status, self.ram.read(DATA, length)


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture(params=["native", "rid"])
def pair(bench, request):
    both = Owner(bench), Owner(bench, request.param)
    yield both
    for each in both:
        each.close()


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
        (0, 0, INVALID),
        (7, 0, INVALID),
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
    owner.function.reset()
    assert owner.read(0x1050) == 0
    owner.function.write(7, 4, b"\x06\x00")
    owner.write(0x20, 1, 4)
    owner.bench.work()
    assert owner.used == (0, 0, 0, 0)
    assert owner.must(ALLOCATE, SIZE) == 0
    assert owner.look(0, MIB) == (SUCCESS, bytes(MIB))


# Sharing.


def shared(red, blue, size=2 * PAGE, writable=WRITABLE):
    """Red's buffer full of 0x11, and what blue has of it: (buffer, handle, import)."""
    red.must(ALLOCATE, PAGE)  # so that the buffer is not where its slice begins
    at = red.must(ALLOCATE, size)
    assert red.fill(at, size, 0x11) == SUCCESS
    handle = red.must(EXPORT, at, blue.number | writable)
    return at, handle, blue.must(IMPORT, handle)


def test_both_work_on_the_same_memory(pair):
    red, blue = pair
    at, _, there = shared(red, blue)
    assert blue.read(0xC0) == 2 * PAGE
    assert blue.used[3] == 2 * PAGE
    assert blue.look(there, 2 * PAGE) == (SUCCESS, b"\x11" * 2 * PAGE)
    assert blue.fill(there + PAGE, PAGE, 0x22) == SUCCESS
    assert red.look(at, 2 * PAGE) == (SUCCESS, b"\x11" * PAGE + b"\x22" * PAGE)
    assert blue.look(0) == (SUCCESS, bytes(PAGE))


def test_nothing_around_the_buffer_is_reachable(pair):
    red, blue = pair
    red.must(ALLOCATE, MIB)
    assert red.fill(0, MIB, 0x77) == SUCCESS
    _, _, there = shared(red, blue, 2 * PAGE)
    for wrong in (there - PAGE, there - 1, there + PAGE + 1, there + 2 * PAGE, there + (1 << 37)):
        assert blue.look(wrong)[0] == HBM_RANGE


def test_import_without_consent_is_denied(bench):
    red, blue, third = Owner(bench), Owner(bench), Owner(bench)
    at = red.must(ALLOCATE, PAGE)
    handle = red.must(EXPORT, at, blue.number)
    assert third.do(IMPORT, handle) == (DENIED, 0)
    assert red.do(IMPORT, handle) == (DENIED, 0)
    assert third.do(REVOKE, handle) == (DENIED, 0)
    assert blue.do(REVOKE, handle) == (DENIED, 0)
    assert blue.look(1 << 40)[0] == HBM_RANGE  # nothing is there before it takes it
    assert not bench.faults()
    blue.must(IMPORT, handle)
    assert third.look(1 << 40)[0] == HBM_RANGE


def test_export_is_for_somebody_else_who_is_there(pair):
    red, _ = pair
    at = red.must(ALLOCATE, PAGE)
    for peer in (0, red.number, 77):
        assert red.do(EXPORT, at, peer) == (DENIED, 0)


def test_reader_cannot_write(pair):
    red, blue = pair
    at, _, there = shared(red, blue, writable=0)
    assert blue.look(there)[0] == SUCCESS
    assert blue.fill(there, PAGE, 0x22) == WRITE_FAULT
    assert red.look(at) == (SUCCESS, b"\x11" * PAGE)


@pytest.mark.parametrize("end", ["revoke", "free", "release", "red reset", "blue reset", "removal"])
def test_what_is_over_is_reachable_no_more(pair, end):
    red, blue = pair
    at, handle, there = shared(red, blue)
    assert blue.look(there)[0] == SUCCESS  # and so it is cached
    if end == "revoke":
        red.must(REVOKE, handle)
    elif end == "free":
        red.must(FREE, at)
    elif end == "release":
        blue.must(RELEASE, there)
    elif end == "removal":
        red.bench.parent.remove(red.mdev)
    else:
        who = red if end.startswith("red") else blue
        who.function.reset()
        who.function.write(7, 4, b"\x06\x00")
        who.write(0x20, 1, 4)
    assert blue.look(there)[0] == HBM_RANGE
    assert blue.used[3] == 0
    # Neither by an address that goes round the device's own check.
    with pytest.raises(DmaFault):
        blue.mdev.port.read(blue.mdev.space.attached.hbm_at + there, 8)
    taken = blue.do(IMPORT, handle)
    assert (taken[0] == OK) is (end in ("release", "blue reset"))


def test_buffer_revoked_in_the_middle_of_a_command_ends_it(pair):
    red, blue = pair
    _, handle, there = shared(red, blue, MIB)
    queue = blue.queue(0)
    copy = descriptor("copy", SOURCE_HBM, source=there, destination=DATA, length=MIB)
    queue.submit(copy)
    for _ in range(4):
        blue.bench.parent.step()
    red.must(REVOKE, handle)
    blue.bench.work()
    (done,) = queue.reap()
    assert done.status == READ_FAULT
    assert there <= done.address < there + MIB


def test_number_and_handle_are_never_another_s(bench):
    red, blue = Owner(bench), Owner(bench)
    at = red.must(ALLOCATE, PAGE)
    handle = red.must(EXPORT, at, blue.number)
    former = blue.number
    bench.parent.remove(blue.mdev)
    heir = Owner(bench)
    assert heir.number != former
    assert heir.do(IMPORT, handle) == (DENIED, 0)
    red.must(FREE, at)
    bench.work()
    assert red.must(EXPORT, red.must(ALLOCATE, PAGE), heir.number) != handle


def test_partition_goes_to_an_heir_without_its_sharers(bench):
    red, blue = Owner(bench), Owner(bench)
    _, _, there = shared(red, blue)
    bench.parent.remove(red.mdev)
    heir = Owner(bench)
    heir.fill(0, MIB, 0x55)
    assert blue.look(there)[0] == HBM_RANGE


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


def test_what_is_shared_does_not_move(pair):
    red, blue = pair
    if blue.mdev.type.name != "native":
        pytest.skip("a slice with PASIDs moves to its like")
    _, _, at = shared(red, blue)
    there = moved(blue)
    assert there.used[3] == 0
    there.mdev.function.migration.run()
    assert there.look(at)[0] == HBM_RANGE
    there.close()


@pytest.mark.parametrize(
    "ranges",
    [
        [(PAGE, 0, 0)],
        [(1, PAGE, 0)],
        [(0, PAGE - 1, 0)],
        [(0, SIZE + PAGE, 0)],
        [(SIZE, PAGE, 0)],
        [(2**64 - PAGE, PAGE, 1)],
        [(0, PAGE, 3)],
        [(0, 2 * PAGE, 0), (PAGE, PAGE, 0)],
        [(0, 2 * PAGE, 0), (PAGE, PAGE, 1)],
        [(0, 4 * PAGE, 0)],  # more than the high-water mark
    ],
)
def test_buffers_that_no_driver_could_have_are_refused(bench, ranges):
    device = Owner(bench).mdev.personality
    *_, high_water, end = list(device.save())
    bad = [replace(high_water, value=3 * PAGE), *(HbmRange(*each) for each in ranges), end]
    with pytest.raises(StateError, match="buffer"):
        Buffers(device).load(Saved(save(bad)))


class BufferMachine(RuleBasedStateMachine):
    """Two slices allocate, free, share and reset; what is found is what a model says."""

    def __init__(self):
        super().__init__()
        self.bench = Bench()
        self.owners = [Owner(self.bench), Owner(self.bench)]
        self.buffers = [{}, {}]  # address to (bytes, byte that it is full of)
        self.handles = {}  # handle to (who, address)
        self.imports = [{}, {}]  # address to handle
        self.byte = 0

    @rule(who=st.integers(0, 1), pages=st.integers(1, 400))
    def allocate(self, who, pages):
        owner = self.owners[who]
        status, at = owner.do(ALLOCATE, pages * PAGE)
        if status == OK:
            size = pages * PAGE
            for start, (count, _) in self.buffers[who].items():
                assert at + size <= start or start + count <= at
            assert owner.look(at, size)[1] == bytes(size)
            self.byte = self.byte % 255 + 1
            assert owner.fill(at, size, self.byte) == SUCCESS
            self.buffers[who][at] = size, self.byte

    @rule(who=st.integers(0, 1), data=st.data())
    def free(self, who, data):
        if self.buffers[who]:
            at = data.draw(st.sampled_from(sorted(self.buffers[who])))
            self.owners[who].must(FREE, at)
            del self.buffers[who][at]
            self._forget(lambda owner, buffer: (owner, buffer) == (who, at))

    @rule(who=st.integers(0, 1), data=st.data())
    def share(self, who, data):
        if self.buffers[who]:
            at = data.draw(st.sampled_from(sorted(self.buffers[who])))
            status, handle = self.owners[who].do(EXPORT, at, self.owners[1 - who].number)
            if status == OK:
                self.handles[handle] = who, at
                self.imports[1 - who][self.owners[1 - who].must(IMPORT, handle)] = handle

    @rule(who=st.integers(0, 1))
    def reset(self, who):
        owner = self.owners[who]
        owner.function.reset()
        owner.function.write(7, 4, b"\x06\x00")
        owner.write(0x20, 1, 4)
        self.buffers[who].clear()
        self.imports[who].clear()
        self._forget(lambda owner, _: owner == who)

    def _forget(self, gone):
        for handle in [h for h, (who, at) in self.handles.items() if gone(who, at)]:
            who, _ = self.handles.pop(handle)
            for at in [at for at, its in self.imports[1 - who].items() if its == handle]:
                del self.imports[1 - who][at]
                assert self.owners[1 - who].look(at)[0] == HBM_RANGE

    @invariant()
    def everything_is_where_the_model_has_it(self):
        for who, owner in enumerate(self.owners):
            assert owner.used[0] == sum(size for size, _ in self.buffers[who].values())
            for at, (_, byte) in self.buffers[who].items():
                assert owner.look(at) == (SUCCESS, bytes([byte]) * PAGE)
            for at, handle in self.imports[who].items():
                other, buffer = self.handles[handle]
                byte = self.buffers[other][buffer][1]
                assert owner.look(at) == (SUCCESS, bytes([byte]) * PAGE)

    def teardown(self):
        for owner in self.owners:
            owner.close()


TestBuffers = BufferMachine.TestCase
TestBuffers.settings = settings(
    max_examples=40,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
