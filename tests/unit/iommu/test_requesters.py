"""A requester's own cache: a hit is what the IOTLB would say, and commands empty it."""

from array import array

import pytest

from mdevemu.iommu import Access, Cause, Fault, Request
from mdevemu.iommu.caches import CacheSizes
from mdevemu.iommu.registers import IommuRegisters as Regs
from mdevemu.iommu.requesters import BATCH
from mdevemu.units import PAGE
from tests.unit.iommu.test_translation import DDT, FIRST, PAGE_RW, A, Machine, R, U, V, entry

PDT, DEEP = 0x18000, 0x60000
READ, WRITE, EXECUTE = 1, 2, 4


@pytest.fixture
def machine():
    """Device 1, process 5: pages 0 to 511 somewhere, odd ones read-only; then a superpage."""
    made = Machine()
    made.put(FIRST, entry(FIRST + 0x1000, V))
    made.put(FIRST + 0x1000, entry(DEEP, V), entry(0x4000_0000, PAGE_RW))
    for number in range(512):
        bits = V | R | U | A if number % 2 else PAGE_RW
        made.put(DEEP + number * 8, entry((0x1000 + (number * 7 % 512)) << 12, bits))
    made.put(DEEP + 511 * 8, 0)
    made.put(PDT + 5 * 16, 1 | 9 << 12, 8 << 60 | FIRST >> 12)
    made.device(1, 1 | 1 << 5, 0, 0, 1 << 60 | PDT >> 12)
    return made


@pytest.fixture
def requester(machine):
    return machine.iommu.requester(1, 5)


def where(iova):
    return 0x1000 + (iova // PAGE * 7 % 512) << 12 | iova % PAGE


def test_requester_is_the_same_each_time(machine):
    assert machine.iommu.requester(1, 5) is machine.iommu.requester(1, 5)
    assert machine.iommu.requester(1, 5) is not machine.iommu.requester(1, None)


def test_hit_is_the_translation_again(machine, requester):
    assert [requester.translate(0x2008, READ) for _ in range(3)] == [where(0x2008)] * 3
    assert requester.translate(0x2010, READ) == where(0x2010)
    assert machine.iommu.iotlb.by_tag
    assert requester.line(0x20_1234, READ).high == 0x40_0000
    assert requester.translate(0x20_1234, READ) == 0x4000_1234


def test_permission_is_asked_for_each_kind_of_access(requester):
    requester.translate(0x1000, READ)
    for _ in range(2):
        with pytest.raises(Fault) as caught:
            requester.translate(0x1000, WRITE)
        assert caught.value.cause == Cause.WRITE_AMO_PAGE_FAULT
        with pytest.raises(Fault) as caught:
            requester.translate(0x1000, EXECUTE)
        assert caught.value.cause == Cause.INSTRUCTION_PAGE_FAULT
    assert requester.pages == {1: {1: where(0x1000) - 0x1000}, 2: {}, 4: {}}


@pytest.mark.parametrize("kind", [list, lambda each: array("Q", each), tuple])
def test_batch_is_what_one_by_one_would_be(requester, kind):
    iovas = [number * 24 % (510 * PAGE) for number in range(0, 200_000, 77)]
    assert requester.translate_many(kind(iovas), READ) == [where(iova) for iova in iovas]
    assert requester.translate_many(kind(iovas), READ) == [where(iova) for iova in iovas]
    assert requester.translate_many(kind([]), READ) == []


def test_batch_stops_at_the_first_that_faults_and_names_it(machine, requester):
    iovas = [0x2000, 0x4000, 0x1010, 0x6000, 0x3000]
    with pytest.raises(Fault) as caught:
        requester.translate_many(iovas, WRITE)
    assert (caught.value.iova, caught.value.cause) == (0x1010, Cause.WRITE_AMO_PAGE_FAULT)
    assert machine.read(Regs.fqt) == 1
    assert requester.translate_many(iovas[:2], WRITE) == [where(0x2000), where(0x4000)]


def test_batch_larger_than_the_cache_is_whole(machine):
    requester = machine.iommu.requester(1, 5)
    iovas = [0x20_0000 + number * PAGE for number in range(500)] * 3
    iovas += [number * PAGE for number in range(500)] * 8
    assert len(iovas) > 2 * BATCH
    found = requester.translate_many(iovas, READ)
    assert found[0] == 0x4000_0000
    assert found[-1] == where(499 * PAGE)
    assert found == [machine.to(iova, process_id=5) for iova in iovas]


def test_cache_is_bounded_and_forgets_all_at_once(machine):
    requester = machine.iommu.requester(1, 5)
    made = type(requester)(machine.iommu, 1, 5, 0)
    for number in range(500):
        made.translate(number * PAGE, READ)
        made.translate(0x20_0000 + number * PAGE, READ)
    for _ in range(3):
        for number in range(512):
            made.translate(0x20_0000 + number * PAGE, READ)
    assert len(made.pages[READ]) <= BATCH
    assert CacheSizes().pages >= BATCH


@pytest.mark.parametrize(
    ("command", "forgets"),
    [
        ((1 | 1 << 10 | 9 << 12 | 1 << 32, 2 << 10), True),  # IOTINVAL.VMA of the page
        ((1, 0), True),  # IOTINVAL.VMA of everything
        ((3 | 1 << 7 | 5 << 12 | 1 << 33 | 1 << 40, 0), False),  # IODIR.INVAL_PDT
        ((1 | 1 << 10 | 8 << 12 | 1 << 32, 2 << 10), False),  # another process
        ((2, 0), False),  # IOFENCE.C
    ],
)
def test_what_changed_is_seen_after_its_invalidation(machine, requester, command, forgets):
    before = requester.translate(0x2000, READ)
    machine.put(DEEP + 2 * 8, entry(0x7777_0000, PAGE_RW))
    assert requester.translate(0x2000, READ) == before
    machine.command(*command)
    assert requester.translate(0x2000, READ) == (0x7777_0000 if forgets else before)


def test_context_that_is_gone_is_seen_after_its_invalidation(machine, requester):
    requester.translate(0x2000, READ)
    machine.put(PDT + 5 * 16, 0)
    machine.command(1)
    requester.translate(0x2000, READ)
    machine.command(3 | 1 << 7 | 5 << 12 | 1 << 33 | 1 << 40)
    with pytest.raises(Fault) as caught:
        requester.translate(0x2000, READ)
    assert caught.value.cause == Cause.PDT_ENTRY_NOT_VALID


def test_off_is_seen_at_once_and_nothing_is_kept_while_it_lasts(machine, requester):
    requester.translate(0x2000, READ)
    machine.write(Regs.ddtp, 0)
    for ask in (
        lambda: requester.translate(0x2000, READ),
        lambda: requester.translate_many([0], 1),
    ):
        with pytest.raises(Fault) as caught:
            ask()
        assert caught.value.cause == Cause.ALL_INBOUND_TRANSACTIONS_DISALLOWED
    machine.write(Regs.ddtp, 1)
    assert requester.translate_many([0x2000, 0x5000], WRITE) == [0x2000, 0x5000]
    assert not any(requester.pages.values())
    machine.write(Regs.ddtp, 0)
    machine.write(Regs.ddtp, DDT >> 12 << 10 | 2)
    assert requester.translate(0x2000, READ) == where(0x2000)


def test_requester_without_a_process_id_has_the_devices_own_table(machine):
    machine.device(2, 1, 0, 0, 8 << 60 | FIRST >> 12)
    requester = machine.iommu.requester(2, None)
    assert requester.translate_many([0x2008, 0x4000], READ) == [where(0x2008), where(0x4000)]
    with pytest.raises(Fault):
        machine.iommu.requester(2, 5).translate(0x2008, READ)


def test_caches_alone_answer_what_they_hold(machine):
    def request(**more):
        return Request(1, 5, 0x2008, Access.READ, **more)

    assert machine.iommu.cached(request()) is None
    machine.to(0x2000, process_id=5)
    machine.put(DEEP + 2 * 8, 0)
    assert machine.iommu.cached(request()).delta + 0x2008 == where(0x2008)
    assert machine.iommu.cached(request(supervisor=True)) is None
    assert machine.iommu.explain(request())[2].cause == Cause.READ_PAGE_FAULT
    machine.command(1)
    assert machine.iommu.cached(request()) is None
