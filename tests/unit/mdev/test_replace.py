"""Attach, replace, detach: which table answers for a PASID, and when what is given back."""

import contextlib
import itertools
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mdevemu.errors import DmaFault
from mdevemu.iommu import Cause
from mdevemu.iommu.registers import IommuRegisters
from mdevemu.mdev.attachment import OwnDevice
from mdevemu.mdev.tables import Exhausted, PageTable
from mdevemu.memory import Ram
from mdevemu.units import HBM_GPA, HBM_IOVA, MIB, PAGE, Hpa, Iova
from tests.support.host import DEVICE, Host, lent, ready

HBM = Hpa(1 << 40)
OWN = 0x0208
ATS_INVAL = 4 | DEVICE << 40
ATS_PRGR = 4 | 1 << 7 | DEVICE << 40
ILLEGAL = 0x7F


class Devices:
    """Devices that never answer an ATS invalidation, so that every fence waits."""

    def __init__(self):
        self.responses = []

    def invalidate(self, message):
        return True

    def respond(self, message):
        self.responses.append(message.index)


def cause(act) -> int:
    with pytest.raises(DmaFault) as caught:
        act()
    return caught.value.cause


def add(space, iova, size, file, offset=0):
    space.map(iova, size, file.duplicate(), offset, readable=True, writable=True)


@pytest.fixture
def host():
    made = Host(tables=8 * MIB, fabric=Devices())
    made.memory.add(HBM, Ram(4 * MIB), 4 * MIB)
    return made


@pytest.fixture(params=["pasid", "rid"])
def space(host, request):
    host.space()  # somebody else is there, too
    made = host.space() if request.param == "pasid" else host.own_space(OWN)
    made.map_hbm(HBM, 4 * MIB)
    return made


def hbm(space):
    return HBM_GPA if isinstance(space.attached, OwnDevice) else HBM_IOVA


def page_fault(space):
    own = isinstance(space.attached, OwnDevice)
    return Cause.READ_GUEST_PAGE_FAULT if own else Cause.READ_PAGE_FAULT


def stall(host):
    """Have a device owe an answer that every fence waits for."""
    host.driver.submit(ATS_INVAL)
    assert host.driver.halted


# Clearing.


def test_while_windows_go_the_hbm_is_there_and_nothing_is_given_back(host, space):
    file = lent(MIB)
    os.pwrite(file.fileno(), b"window", 0)
    port = ready(space)
    port.write(Iova(hbm(space)), b"slice")
    for number in range(64):
        add(space, number * 2 * MIB, PAGE, file)
    port.read(Iova(0), 1)
    driver, seen = host.driver, []
    used = driver.frames.used
    walks = [driver.walk(space.device_id, space.pasid, Iova(at * 2 * MIB)) for at in range(64)]
    entries = [walk.steps[-1] for walk in walks]

    def look(event):
        if event.name != "iommu.command":
            return
        with contextlib.suppress(DmaFault):
            # The one table, or the other.
            assert port.read(Iova(0), 6) == b"window"
        assert port.read(Iova(hbm(space)), 5) == b"slice"
        seen.append(event.facts["command"])
        assert driver.frames.used == used
        assert len(driver._files) == 1
        # Not entry by entry: what is given up stays as it was.
        assert all(host.memory.read_u64(each.address) == each.raw for each in entries)

    host.trace.want("iommu.command")
    host.trace.listen(look)
    space.clear()
    assert seen[-1] == "IOFENCE.C"
    assert driver.frames.used == used - 66
    assert not driver._files
    assert cause(lambda: port.read(Iova(0), 1)) == page_fault(space)
    assert port.read(Iova(hbm(space)), 5) == b"slice"


def test_clearing_needs_no_frame_however_often(host, space):
    file, port = lent(MIB), ready(space)
    taken = []
    for number in range(5):
        add(space, number * PAGE, PAGE, file)
        with contextlib.suppress(Exhausted):
            while True:
                taken.append(host.driver.frames.allocate())
        space.clear()
        assert cause(lambda at=number * PAGE: port.read(Iova(at), 1)) == page_fault(space)
        port.read(Iova(hbm(space) + 4 * MIB - 1), 1)
        for frame in taken:
            host.driver.frames.release(frame)
        taken.clear()
    walk = host.driver.walk(space.device_id, space.pasid, Iova(0))
    assert len(walk.steps) == (7 if space.pasid else 4)


def test_old_root_is_empty_when_it_is_used_again(host, space):
    file, port = lent(MIB), ready(space)
    add(space, 0, PAGE, file)
    space.clear()
    add(space, 1 << 40, PAGE, file)
    space.clear()
    assert cause(lambda: port.read(Iova(0), 1)) == page_fault(space)
    assert cause(lambda: port.read(Iova(1 << 40), 1)) == page_fault(space)
    before = host.driver.frames.used
    add(space, 0, PAGE, file)
    space.unmap(0, PAGE)
    assert host.driver.frames.used == before


def test_cleared_space_leaves_nothing_behind_when_it_closes(host):
    stays = host.space()
    before = host.driver.frames.used
    for own, clears in itertools.product((False, True), (0, 1, 2)):
        made = host.own_space(DEVICE + 1) if own else host.space()
        made.map_hbm(HBM, 4 * MIB)
        for _ in range(clears):
            add(made, 0, PAGE, lent(PAGE))
            made.clear()
        add(made, 0, PAGE, lent(PAGE))
        made.close()
        # Tables of the directories stay.
        assert host.driver.frames.used - before <= 1
    stays.close()


# A queue that does not complete its fence.


def register(host, name):
    which = getattr(IommuRegisters, name)
    return int.from_bytes(host.iommu.read_register(which.offset, which.length), "little")


def put(host, name, value):
    which = getattr(IommuRegisters, name)
    host.iommu.write_register(which.offset, value.to_bytes(which.length, "little"))


@pytest.mark.parametrize(
    "break_",
    [
        lambda host: put(host, "cqcsr", 0),
        lambda host: put(host, "cqb", 0x7FFF << 10 | 9),
        lambda host: put(host, "cqb", 1),
        lambda host: host.driver.submit(ILLEGAL),
        lambda host: put(host, "cqt", (register(host, "cqt") + 5) % 1024),
    ],
    ids=["off", "nowhere", "small", "illegal", "tail"],
)
def test_queue_that_was_stopped_is_started_anew_with_nothing_stale(host, space, break_):
    file, port = lent(MIB), ready(space)
    add(space, 0, PAGE, file)
    add(space, PAGE, PAGE, file)
    port.read(Iova(0), 1)
    break_(host)
    space.unmap(0, PAGE)
    assert not host.driver.halted
    assert cause(lambda: port.read(Iova(0), 1)) == page_fault(space)
    assert port.read(Iova(PAGE), 1) == b"\0"
    space.clear()
    space.close()
    assert not host.driver._files


@pytest.mark.parametrize("order", [(ILLEGAL, ATS_PRGR), (ATS_PRGR, ILLEGAL)])
def test_commands_beside_an_illegal_one_are_executed_once(order):
    devices = Devices()
    host = Host(fabric=devices)
    host.driver.submit(*order)
    assert devices.responses == [0]
    assert not host.driver.halted


def test_iommu_that_completes_no_fence_lets_nothing_through(host, space):
    file, port = lent(MIB), ready(space)
    os.pwrite(file.fileno(), b"window", 0)
    for number in range(3):
        add(space, number * PAGE, PAGE, file)
    port.read(Iova(0), 1)
    stall(host)
    used = host.driver.frames.used
    space.unmap(0, PAGE)
    for at in (0, PAGE, hbm(space)):
        assert (
            cause(lambda at=at: port.read(Iova(at), 1)) == Cause.ALL_INBOUND_TRANSACTIONS_DISALLOWED
        )
    space.clear()
    space.clear()
    add(space, 8 * PAGE, PAGE, file, PAGE)
    space.clear()
    add(space, 0, PAGE, file, PAGE)
    assert host.driver.frames.used >= used
    assert host.driver.halted
    assert host.faults()  # looking for faults tries again
    assert host.driver.halted
    host.iommu.invalidated()
    cause(lambda: port.read(Iova(0), 1))
    host.faults()
    assert not host.driver.halted
    assert port.read(Iova(0), 6) == bytes(6)
    assert port.read(Iova(hbm(space)), 1) == b"\0"
    assert cause(lambda: port.read(Iova(PAGE), 1)) == page_fault(space)
    space.clear()
    assert not host.driver._files
    space.close()


def test_answer_that_never_comes_is_reported_and_the_queue_goes_on(host, space):
    stall(host)
    host.iommu.invalidated(timeout=True)
    add(space, 0, PAGE, lent(PAGE))
    space.unmap(0, PAGE)
    assert not host.driver.halted


def test_files_and_frames_come_back_with_the_first_fence_that_completes(host, space):
    idle = host.driver.frames.used
    file, other = lent(MIB), lent(MIB)
    for number in range(4):
        add(space, number * 2 * MIB, PAGE, file)
        add(space, number * 2 * MIB + PAGE, PAGE, other)
    stall(host)
    for number in range(4):
        space.unmap(number * 2 * MIB, PAGE)
    add(space, 0, PAGE, file)
    space.unmap(0, PAGE)
    space.unmap(PAGE, PAGE)
    assert len(host.driver._files) == 2
    space.clear()
    host.iommu.invalidated()
    host.driver.submit()
    assert not host.driver._files
    assert host.driver.frames.used == idle


def test_pasid_is_not_used_again_before_its_fence(host):
    one, two = host.space(), host.space()
    two.close()
    stall(host)
    one.close()
    assert one.pasid == 1
    during = [host.space() for _ in range(2)]
    assert [each.pasid for each in during] == [2, 3]
    host.iommu.invalidated()
    host.driver.submit()
    assert host.space().pasid == 1


# Against a model.


class Replacements(RuleBasedStateMachine):
    """PASIDs of one device move between tables; the model knows who has which.

    Each table maps one page, which holds the table's number.
    """

    tables = st.integers(0, 3)

    @initialize()
    def begin(self):
        self.devices = Devices()
        self.host = Host(tables=2 * MIB, fabric=self.devices)
        self.driver = self.host.driver
        data = Ram(4 * PAGE)
        self.host.memory.add(HBM, data, 4 * PAGE)
        self.made = [PageTable(self.driver.frames, 16) for _ in range(4)]
        for number, table in enumerate(self.made):
            data.write(number * PAGE, bytes([number]))
            table.map(0, HBM + number * PAGE, PAGE, writable=True)
        self.where: dict[int, int] = {}
        self.owed: set[int] = set()
        self.done: list[int] = []
        self.count = 0
        self.stalled = False
        self.ports = {}
        self.frames = self.driver.frames.used

    def port(self, pasid):
        if pasid not in self.ports:
            self.ports[pasid] = self.driver.port(DEVICE, pasid)
            self.ports[pasid].enabled = True
        return self.ports[pasid]

    def then(self):
        """A callback that must have run by the end of the step, unless the queue stands."""
        self.count += 1
        number = self.count
        return lambda: self.done.append(number)

    @rule(table=tables)
    def attach(self, table):
        taken = self.where.keys() | self.owed
        pasid = self.driver.attach(DEVICE, self.made[table].root)
        assert pasid == next(each for each in itertools.count(1) if each not in taken)
        self.where[pasid] = table

    @precondition(lambda self: self.where)
    @rule(data=st.data(), table=tables)
    def replace(self, data, table):
        pasid = data.draw(st.sampled_from(sorted(self.where)))
        self.driver.replace(DEVICE, pasid, self.made[table].root, self.then())
        self.where[pasid] = table

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def detach(self, data):
        pasid = data.draw(st.sampled_from(sorted(self.where)))
        self.driver.detach(DEVICE, pasid, self.then())
        del self.where[pasid]
        self.port(pasid)
        if self.stalled:
            self.owed.add(pasid)

    @precondition(lambda self: not self.stalled)
    @rule()
    def stall(self):
        self.done_before = list(self.done)
        self.driver.submit(ATS_INVAL, then=self.then())
        self.stalled = True

    @precondition(lambda self: self.stalled)
    @rule(timeout=st.booleans())
    def answer(self, timeout):
        self.host.iommu.invalidated(timeout=timeout)
        assert self.driver.halted
        self.driver.submit()
        self.stalled = False
        self.owed.clear()

    @precondition(lambda self: not self.stalled)
    @rule(how=st.sampled_from(["off", "illegal", "lost"]))
    def stop(self, how):
        if how == "off":
            put(self.host, "cqcsr", 0)
        elif how == "lost":
            put(self.host, "cqb", 0x7FFF << 10 | 9)
        else:
            self.driver.submit(ILLEGAL)

    @invariant()
    def each_pasid_is_answered_by_its_table(self):
        if not hasattr(self, "ports"):
            return
        assert self.driver.halted == self.stalled
        for pasid in [*self.where, *self.ports]:
            port = self.port(pasid)
            if self.stalled or pasid not in self.where:
                with pytest.raises(DmaFault):
                    port.read(Iova(0), 1)
            else:
                assert port.read(Iova(0), 1) == bytes([self.where[pasid]])
        if self.stalled:
            assert self.done == self.done_before
        else:
            assert self.done == list(range(1, self.count + 1))
            self.host.faults()
            walks = (self.driver.walk(DEVICE, pasid, Iova(0)) for pasid in self.ports)
            assert not any(walk.stale for walk in walks)

    def teardown(self):
        if not hasattr(self, "ports"):
            return
        if self.stalled:
            self.answer(False)
        for pasid in list(self.where):
            self.driver.detach(DEVICE, pasid)
        for table in self.made:
            table.close()
        # What remains are queues and the device directory.
        assert self.driver.frames.used <= self.frames - 4 * 5 + 2


# Whoever only wants to know that a planted bug is found need not see its smallest example.
UNSHRUNK = (Phase.explicit, Phase.generate)

TestReplacements = Replacements.TestCase
TestReplacements.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    phases=UNSHRUNK if "MDEVEMU_PLANTED" in os.environ else tuple(Phase),
    suppress_health_check=[HealthCheck.too_slow],
)
