"""The commands of each operation of the host driver: those that it owes, and no more.

The queue is read as the IOMMU reads it, and expected bit by bit.

Spec: RISC-V IOMMU 1.0, Guidelines for invalidations; Command-Queue
"""

import errno

import pytest

from mdevemu.errors import RequestError
from mdevemu.iommu.registers import IommuRegisters
from mdevemu.memory import Ram
from mdevemu.units import GIB, MIB, PAGE, Hpa
from tests.support.host import Host, lent

HBM = Hpa(1 << 40)
OWN = 0x0208
FENCE = "fence"


def vma(pscid=None, gscid=None, page=None, napot=False):
    """IOTINVAL.VMA."""
    return _iotinval(0, pscid, gscid, page, napot)


def gvma(gscid, page=None, napot=False):
    """IOTINVAL.GVMA."""
    return _iotinval(1, None, gscid, page, napot)


def _iotinval(function, pscid, gscid, page, napot):
    command = 1 | function << 7
    if pscid is not None:
        command |= 1 << 32 | pscid << 12
    if gscid is not None:
        command |= 1 << 33 | gscid << 44
    if page is not None:
        command |= 1 << 10 | page << 64 + 10
    return command | napot << 64 + 9


def ddt(device_id):
    """IODIR.INVAL_DDT."""
    return 3 | 1 << 33 | device_id << 40


def pdt(device_id, pasid):
    """IODIR.INVAL_PDT."""
    return 3 | 1 << 7 | 1 << 33 | device_id << 40 | pasid << 12


@pytest.fixture
def host():
    made = Host()
    made.memory.add(HBM, Ram(4 * MIB), 4 * MIB)
    return made


class Queue:
    """What is added to the command queue of a host."""

    def __init__(self, host):
        self._host = host
        self._seen = self._tail()

    def taken(self):
        """Commands since the last look, in order; each fence must have its own number."""
        host, end = self._host, self._tail()
        base = self._register(IommuRegisters.cqb)
        at, size = base >> 10 << 12, 2 << (base & 0x1F)
        found, numbers = [], set()
        while self._seen != end:
            raw = host.memory.read(at + self._seen * 16, 16)
            command = int.from_bytes(raw, "little")
            if command & 0x7F == 2:
                assert command & 0xFFFF_FFFF == 2 | 1 << 10 | 1 << 12 | 1 << 13
                numbers.add(command >> 32 & 0xFFFF_FFFF)
                command = FENCE
            found.append(command)
            self._seen = (self._seen + 1) % size
        assert len(numbers) == found.count(FENCE)
        assert self._register(IommuRegisters.cqh) == end
        return found

    def _tail(self):
        return self._register(IommuRegisters.cqt)

    def _register(self, register):
        raw = self._host.iommu.read_register(register.offset, register.length)
        return int.from_bytes(raw, "little")


def add(space, iova, size, file, offset=0):
    space.map(iova, size, file.duplicate(), offset, readable=True, writable=True)


def test_what_was_not_there_before_needs_no_invalidation(host):
    queue = Queue(host)
    for space in (host.space(), host.own_space(OWN), host.space()):
        space.map_hbm(HBM, 4 * MIB)
        add(space, 0, 4 * MIB, lent(4 * MIB))
        space.map(GIB, PAGE, None, 0, readable=True, writable=True)
    assert queue.taken() == []


# (Iova, bytes) of a window, and (page number, S) of the command; None is every page.
UNMAPPED = [
    ((5 * PAGE, PAGE), (5, False)),
    ((511 * PAGE, PAGE), (511, False)),
    ((4 * PAGE, 4 * PAGE), (4 | 1, True)),
    ((6 * PAGE, 2 * PAGE), (6, True)),
    ((2 * MIB, 2 * MIB), (512 | 255, True)),
    ((4 * MIB, 4 * MIB), (1024 | 511, True)),
    ((GIB, GIB), (1 << 18 | (1 << 17) - 1, True)),
    ((4 * PAGE, 3 * PAGE), None),
    ((5 * PAGE, 2 * PAGE), None),
    ((2 * MIB, 6 * MIB), None),
]


@pytest.mark.parametrize(("window", "range_"), UNMAPPED)
@pytest.mark.parametrize("own", [False, True])
def test_unmapping_invalidates_exactly_the_window(host, own, window, range_):
    space = host.own_space(OWN) if own else host.space()
    file = lent(2 * GIB)
    # Neighbours in each table, so that none becomes empty.
    for iova, size in ((0, PAGE), (16 * MIB, 2 * MIB), (4 * GIB, GIB)):
        add(space, iova, size, file)
    iova, size = window
    add(space, iova, size, file, iova % GIB)
    queue = Queue(host)
    space.unmap(iova, size)
    page, napot = range_ or (None, False)
    wanted = gvma(OWN, page, napot) if own else vma(space.pasid, None, page, napot)
    assert queue.taken() == [wanted, FENCE]


@pytest.mark.parametrize("own", [False, True])
def test_table_that_became_empty_needs_more_than_its_address(host, own):
    space = host.own_space(OWN) if own else host.space()
    add(space, 0, PAGE, lent(PAGE))
    queue = Queue(host)
    space.unmap(0, PAGE)
    assert queue.taken() == [gvma(OWN) if own else vma(space.pasid), FENCE]


def test_window_that_no_entry_stands_for_needs_none(host):
    space = host.space()
    space.map(0, PAGE, None, 0, readable=True, writable=True)
    space.map(PAGE, PAGE, lent(PAGE), 0, readable=False, writable=False)
    queue = Queue(host)
    space.unmap(0, PAGE)
    space.clear()
    space.clear()
    assert queue.taken() == []


@pytest.mark.parametrize("windows", [1, 2, 1000])
@pytest.mark.parametrize("own", [False, True])
def test_clearing_is_one_replacement_however_many_windows_there_are(host, own, windows):
    host.space()
    space, file = host.own_space(OWN) if own else host.space(), lent(MIB)
    for number in range(windows):
        add(space, 3 * number * PAGE, PAGE, file)
    queue = Queue(host)
    space.clear()
    if own:
        assert queue.taken() == [ddt(OWN), vma(gscid=OWN), gvma(OWN), FENCE]
    else:
        assert queue.taken() == [pdt(host.device_id, space.pasid), vma(space.pasid), FENCE]


def test_replacing_changes_one_process_context(host):
    first, other = host.space(), host.space()
    queue = Queue(host)
    host.driver.replace(host.device_id, first.pasid, other.attached.table.root)
    assert queue.taken() == [pdt(host.device_id, first.pasid), vma(first.pasid), FENCE]


def test_detaching_takes_the_pasid_and_with_the_last_one_the_device(host):
    first, last = host.space(), host.space()
    add(last, 0, PAGE, lent(PAGE))
    queue = Queue(host)
    first.close()
    assert queue.taken() == [pdt(host.device_id, first.pasid), vma(first.pasid), FENCE]
    last.close()
    assert queue.taken() == [
        pdt(host.device_id, last.pasid),
        vma(last.pasid),
        FENCE,
        ddt(host.device_id),
        vma(),
        FENCE,
    ]


def test_device_of_its_own_is_detached_at_once(host):
    space = host.own_space(OWN)
    queue = Queue(host)
    space.close()
    assert queue.taken() == [ddt(OWN), vma(gscid=OWN), gvma(OWN), FENCE]


def test_commands_for_a_guest_name_its_gscid(host):
    attached = host.own_space(OWN).attached
    queue = Queue(host)
    attached.set_directory(1, 0x5000)
    assert queue.taken() == [ddt(OWN), vma(gscid=OWN), gvma(OWN), FENCE]
    attached.invalidate_process(7)
    assert queue.taken() == [pdt(OWN, 7), FENCE]
    attached.invalidate_pages(None, None)
    assert queue.taken() == [vma(gscid=OWN), FENCE]
    attached.invalidate_pages(9, None)
    assert queue.taken() == [vma(9, OWN), FENCE]
    attached.invalidate_pages(0, 0x7FFF_1234_5678)
    assert queue.taken() == [vma(0, OWN, 0x7FFF_1234_5), FENCE]
    attached.invalidate_pages(None, (1 << 64) - 1)
    assert queue.taken() == [vma(None, OWN, (1 << 52) - 1), FENCE]
    attached.respond(3, 0x1FF, 1)
    response = 4 | 1 << 7 | 1 << 32 | 3 << 12 | OWN << 40
    assert queue.taken() == [response | (0x1FF << 32 | 1 << 44) << 64, FENCE]


def test_map_that_fails_halfway_invalidates_what_the_device_may_have_seen():
    host = Host(tables=64 * PAGE)
    space = host.space()
    add(space, 0, PAGE, lent(PAGE))
    queue = Queue(host)
    with pytest.raises(RequestError) as caught:
        add(space, PAGE, 256 * MIB, lent(256 * MIB))
    assert caught.value.number == errno.ENOSPC
    assert queue.taken() == [vma(space.pasid), FENCE]
