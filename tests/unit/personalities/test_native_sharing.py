"""HBM that two slices share: by consent of both, of the very buffer, and until it is revoked."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mdevemu.errors import DmaFault
from mdevemu.units import MIB, PAGE
from tests.support.bench import Bench
from tests.support.buffers import (
    ALLOCATE,
    DENIED,
    EXPORT,
    FREE,
    IMPORT,
    JOIN,
    MAPPED,
    MMU_AT,
    OK,
    RELEASE,
    REVOKE,
    WRITABLE,
    Owner,
)
from tests.support.moving import load, saved, stopped
from tests.support.native import (
    DESTINATION_HBM,
    HBM_UNMAPPED,
    SUCCESS,
    WRITE_FAULT,
)


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture(params=["native", "rid"])
def pair(bench, request):
    both = Owner(bench), Owner(bench, request.param)
    yield both
    for each in both:
        each.close()


def shared(red, blue, size=2 * PAGE, writable=WRITABLE, how=0):
    """Red's buffer full of 0x11, and what blue has of it: (buffer, handle, import)."""
    red.must(ALLOCATE, PAGE)  # so that the buffer is not where its slice begins
    at = red.must(ALLOCATE | how, size)
    assert red.fill(at, size, 0x11) == SUCCESS
    handle = red.must(EXPORT, at, blue.number | writable)
    return at, handle, blue.must(IMPORT, handle)


@pytest.mark.parametrize("how", [0, MAPPED])
def test_both_work_on_the_same_memory(pair, how):
    red, blue = pair
    at, _, there = shared(red, blue, how=how)
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
    red.must(EXPORT, 0, blue.number)  # so that there is something below it
    blue.must(IMPORT, red.read(0xB8))
    _, _, there = shared(red, blue, 2 * PAGE)
    for wrong in (there - PAGE, there - 1, there + PAGE + 1, there + 2 * PAGE, there + (1 << 37)):
        assert blue.look(wrong)[0] == HBM_UNMAPPED
    for wrong in (there - 8, there + 2 * PAGE):
        with pytest.raises(DmaFault):
            blue.mdev.port.read(blue.mdev.space.attached.hbm_at + wrong, 8)


def test_buffer_of_many_pieces_is_shared_as_one(pair):
    red, blue = pair
    pieces = [red.must(ALLOCATE, PAGE) for _ in range(1024)]
    for at in pieces[::2]:
        red.must(FREE, at)
    red.bench.work()
    at = red.must(ALLOCATE | MAPPED, 512 * PAGE)
    assert red.fill(at, 512 * PAGE, 0x11) == SUCCESS
    there = blue.must(IMPORT, red.must(EXPORT, at, blue.number))
    assert blue.look(there, 512 * PAGE) == (SUCCESS, b"\x11" * 512 * PAGE)
    assert blue.fill(there, 8, 0x22) == WRITE_FAULT


def test_import_without_consent_is_denied(bench):
    red, blue, third = Owner(bench), Owner(bench), Owner(bench)
    at = red.must(ALLOCATE, PAGE)
    handle = red.must(EXPORT, at, blue.number)
    assert third.do(IMPORT, handle) == (DENIED, 0)
    assert red.do(IMPORT, handle) == (DENIED, 0)
    assert third.do(REVOKE, handle) == (DENIED, 0)
    assert blue.do(REVOKE, handle) == (DENIED, 0)
    assert blue.look(MMU_AT)[0] == HBM_UNMAPPED  # nothing is there before it takes it
    assert not bench.faults()
    blue.must(IMPORT, handle)
    assert third.look(MMU_AT)[0] == HBM_UNMAPPED


def test_export_is_for_somebody_else_who_is_there(pair):
    red, _ = pair
    at = red.must(ALLOCATE, PAGE)
    for peer in (0, red.number, 77, red.number ^ 1):
        assert red.do(EXPORT, at, peer) == (DENIED, 0)


def test_number_stays_until_the_reset_and_is_none_before_it_is_asked_for(pair):
    red, blue = pair
    exchange = red.bench.parent.exchange
    assert not exchange.parties
    number = blue.must(JOIN)
    assert blue.must(JOIN) == number
    assert list(exchange.parties) == [number]
    blue.function.reset()
    assert not exchange.parties


def test_reader_cannot_write(pair):
    red, blue = pair
    at, _, there = shared(red, blue, writable=0)
    assert blue.look(there)[0] == SUCCESS
    assert blue.fill(there, PAGE, 0x22) == WRITE_FAULT
    done = blue.run("fill", DESTINATION_HBM, destination=there + 8, length=8)
    assert (done.status, done.address) == (WRITE_FAULT, there + 8)
    assert red.look(at) == (SUCCESS, b"\x11" * PAGE)


@pytest.mark.parametrize("how", [0, MAPPED])
@pytest.mark.parametrize("end", ["revoke", "free", "release", "red reset", "blue reset", "removal"])
def test_what_is_over_is_reachable_no_more(pair, end, how):
    red, blue = pair
    at, handle, there = shared(red, blue, how=how)
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
        (red if end.startswith("red") else blue).reset()
    assert blue.look(there)[0] == HBM_UNMAPPED
    assert blue.used[3] == 0
    # Neither by an address that goes round the device's own check.
    with pytest.raises(DmaFault):
        blue.mdev.port.read(blue.mdev.space.attached.hbm_at + there, 8)
    taken = blue.do(IMPORT, handle)
    assert taken[0] == (OK if end == "release" else DENIED)


def test_buffer_revoked_in_the_middle_of_a_command_ends_it(pair):
    red, blue = pair
    _, handle, there = shared(red, blue, MIB)
    queue = blue.begin_copy(there, MIB)
    red.must(REVOKE, handle)
    blue.bench.work()
    (done,) = queue.reap()
    assert done.status == HBM_UNMAPPED
    assert there < done.address < there + MIB


def test_reset_makes_somebody_new(pair):
    red, blue = pair
    at, former = red.must(ALLOCATE, PAGE), blue.number
    handle = red.must(EXPORT, at, former)
    blue.reset()
    assert blue.number != former
    assert blue.do(IMPORT, handle) == (DENIED, 0)  # it was for whoever was there before
    assert red.do(REVOKE, handle) == (DENIED, 0)
    assert red.do(EXPORT, at, former) == (DENIED, 0)
    assert blue.must(IMPORT, red.must(EXPORT, at, blue.number))


def test_accelerator_that_is_started_again_has_other_numbers(bench):
    found = [Owner(each).number for each in (bench, Bench(), Bench())]
    assert len(set(found)) == 3
    assert 0 < min(found) <= max(found) < 1 << 63


def test_exports_and_imports_are_64_at_most(bench):
    red, blue, third = Owner(bench), Owner(bench), Owner(bench)
    at = red.must(ALLOCATE, PAGE)
    handles = [red.must(EXPORT, at, blue.number) for _ in range(64)]
    assert red.do(EXPORT, at, blue.number) == (DENIED, 0)
    places = {blue.must(IMPORT, handle) for handle in handles}
    assert len(places) == 64
    more = third.must(EXPORT, third.must(ALLOCATE, PAGE), blue.number)
    assert blue.do(IMPORT, more) == (DENIED, 0)
    red.must(REVOKE, handles[0])
    assert blue.must(IMPORT, more) in places


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
    assert blue.look(there)[0] == HBM_UNMAPPED


def test_what_is_shared_does_not_move(pair):
    red, blue = pair
    if blue.mdev.type.name != "native":
        pytest.skip("a slice with PASIDs moves to its like")
    _, _, at = shared(red, blue)
    assert stopped(blue.bench, blue.mdev) is None
    there = Owner(Bench(), start=False)
    load(there.bench, there.mdev, saved(blue.mdev))
    there.function.write(7, 4, b"\x06\x00")
    assert there.used[3] == 0
    there.mdev.function.migration.run()
    assert there.look(at)[0] == HBM_UNMAPPED
    there.close()


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

    @rule(who=st.integers(0, 1), pages=st.integers(1, 400), how=st.sampled_from([0, MAPPED]))
    def allocate(self, who, pages, how):
        owner = self.owners[who]
        size, (used, _, scrubbing, _) = pages * PAGE, owner.used
        status, at = owner.do(ALLOCATE | how, size)
        if how:  # however scattered what is free may be
            assert (status == OK) is (used + scrubbing + size <= 4 * MIB)
        if status == OK:
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
            if at >= MMU_AT:
                assert self.owners[who].look(at)[0] == HBM_UNMAPPED
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
        self.owners[who].reset()
        mapped = [at for at in (*self.buffers[who], *self.imports[who]) if at >= MMU_AT]
        self.buffers[who].clear()
        self._forget(lambda *_: True)  # one side's end is the other's, and there are two
        for at in mapped:
            assert self.owners[who].look(at)[0] == HBM_UNMAPPED

    def _forget(self, gone):
        for handle in [h for h, (who, at) in self.handles.items() if gone(who, at)]:
            who, _ = self.handles.pop(handle)
            for at in [at for at, its in self.imports[1 - who].items() if its == handle]:
                del self.imports[1 - who][at]
                assert self.owners[1 - who].look(at)[0] == HBM_UNMAPPED

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
