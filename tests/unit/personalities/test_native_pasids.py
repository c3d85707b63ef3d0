"""PASIDs of the guest: processes with tables of their own, page requests, stale translations."""

from struct import Struct

import pytest

from tests.support.guest_tables import PAGE, A, D, GuestTables, R, U, V
from tests.support.native import (
    FAILED,
    INVALID_FIELD,
    READ_FAULT,
    READ_PAGE_FAULT,
    RING_READ,
    SUCCESS,
    WRITE_FAULT,
    WRITE_PAGE_FAULT,
    Driver,
    descriptor,
)

PAGE_REQUEST = Struct("<QIHH")
DIRECTORY, PAGES = 0x10_0000, 0x30_0000
VALID = 1 << 31
SOURCE, DESTINATION = 0x7000_0000, 0x7000_1000
CONTEXT, SPACE, EACH_PAGE = 1, 2, 3
PAGE_REQUESTS = 0x38_0000
READ_GUEST_PAGE_FAULT = 21
TRANSACTION_TYPE_DISALLOWED, PDT_ENTRY_NOT_VALID = 260, 266


class Guest(Driver):
    """A guest with a process directory."""

    def __init__(self, **wanted):
        super().__init__(kind="rid", **wanted)
        self.tables = GuestTables(self.ram, DIRECTORY)
        self.write(0x68, DIRECTORY | 1)

    def process(self, pasid, number):
        """A process whose two pages are pages 2n and 2n+1 of PAGES."""
        root = self.tables.process(pasid)
        self.tables.map(root, SOURCE, PAGES + 2 * number * PAGE)
        self.tables.map(root, DESTINATION, PAGES + (2 * number + 1) * PAGE)
        return root

    def copy(self, pasid, length=64, source=SOURCE, destination=DESTINATION):
        """What becomes of a copy between addresses of a process."""
        return self.run(
            "copy", length=length, source=source, destination=destination, pasid=VALID | pasid
        )

    def invalidate(self, kind, number, address=0):
        self.write(0x70, address)
        self.write(0x78, kind | number << 12, 4)

    def take_page_requests(self):
        self.write(0x80, PAGE_REQUESTS)
        self.write(0x88, 3, 4)
        self.write(0x8C, 1, 4)

    def page_requests(self):
        """Page requests that were not taken yet: (address, pasid, group, flags)."""
        head, tail = self.read(0x94, 4), self.read(0x90, 4)
        found = []
        for index in range(head, tail):
            data = self.ram.read(PAGE_REQUESTS + (index & 7) * 16, 16)
            found.append(PAGE_REQUEST.unpack(data))
        self.write(0x94, tail, 4)
        return found

    def answer(self, pasid, group, code=0):
        self.write(0x98, group | pasid << 12 | code << 32)
        self.work()


@pytest.fixture
def guest():
    found = Guest()
    yield found
    found.close()


def test_capabilities_tell_of_pasids(guest):
    assert guest.read(0x60, 4) == 20 | 1 << 8
    other = Driver()
    assert other.read(0x60, 4) == 0
    other.close()


def test_two_processes_have_different_pages_at_one_address(guest):
    guest.process(5, 0)
    guest.process(9, 1)
    guest.ram.write(PAGES, b"five" * 16)
    guest.ram.write(PAGES + 2 * PAGE, b"nine" * 16)
    assert guest.copy(5).status == guest.copy(9).status == SUCCESS
    assert guest.ram.read(PAGES + PAGE, 64) == b"five" * 16
    assert guest.ram.read(PAGES + 3 * PAGE, 64) == b"nine" * 16


def test_hardware_sets_accessed_and_dirty(guest):
    root = guest.process(5, 0)
    guest.tables.map(root, SOURCE, PAGES, V | R | U)
    guest.copy(5)
    assert guest.tables.flags(root, SOURCE) & (A | D) == A
    assert guest.tables.flags(root, DESTINATION) & (A | D) == A | D


@pytest.mark.parametrize(
    ("pasid", "source", "destination", "status", "cause"),
    [
        (5, SOURCE + 0x10_0000, DESTINATION, READ_FAULT, READ_PAGE_FAULT),
        (5, SOURCE, SOURCE + 0x10_0000, WRITE_FAULT, WRITE_PAGE_FAULT),
        (6, SOURCE, DESTINATION, READ_FAULT, PDT_ENTRY_NOT_VALID),
        (256, SOURCE, DESTINATION, READ_FAULT, TRANSACTION_TYPE_DISALLOWED),
    ],
)
def test_fault_is_told_to_guest_and_host_alike(guest, pasid, source, destination, status, cause):
    guest.process(5, 0)
    done = guest.copy(pasid, source=source, destination=destination)
    wrong = source if status == READ_FAULT else destination
    assert (done.status, done.cause, done.address) == (status, cause, wrong)
    (record,) = guest.bench.faults()
    assert (record.device_id, record.pasid) == (guest.mdev.space.device_id, pasid)
    assert (int(record.cause), record.iova) == (cause, wrong)


def test_first_stage_that_leads_out_of_the_guest_faults_in_the_second(guest):
    root = guest.process(5, 0)
    guest.tables.map(root, SOURCE, 1 << 40)
    done = guest.copy(5)
    assert (done.status, done.cause) == (READ_FAULT, READ_GUEST_PAGE_FAULT)


def test_guest_cannot_reach_a_neighbour_by_any_table(guest):
    """Every address of the host's tables, files and HBM, named as guest-physical, is none."""
    neighbour = Guest(bench=guest.bench)
    neighbour.ram.write(PAGES, b"secret" * 10)
    root = guest.process(5, 0)
    for physical in (0x8000_0000, 1 << 40, 1 << 44, (1 << 44) + PAGES, (1 << 44) + (1 << 30)):
        guest.tables.map(root, SOURCE, physical)
        guest.invalidate(SPACE, 5)
        assert guest.copy(5).status == READ_FAULT
    neighbour.close()


def test_unmap_without_invalidation_leaves_the_stale_page(guest):
    root = guest.process(5, 0)
    assert guest.copy(5).status == SUCCESS
    guest.tables.unmap(root, SOURCE)
    assert guest.copy(5).status == SUCCESS
    guest.invalidate(EACH_PAGE, 5, SOURCE)
    done = guest.copy(5)
    assert (done.status, done.address) == (READ_FAULT, SOURCE)


@pytest.mark.parametrize(("kind", "number"), [(SPACE, 5), (SPACE | 4, 0), (EACH_PAGE, 5)])
def test_each_invalidation_forgets_what_it_names(guest, kind, number):
    root = guest.process(5, 0)
    guest.copy(5)
    guest.tables.unmap(root, SOURCE)
    guest.invalidate(kind, number, SOURCE)
    assert guest.copy(5).status == READ_FAULT


def test_invalidation_of_another_process_forgets_nothing(guest):
    root = guest.process(5, 0)
    guest.copy(5)
    guest.tables.unmap(root, SOURCE)
    guest.invalidate(SPACE, 6)
    guest.invalidate(EACH_PAGE, 5, DESTINATION)
    assert guest.copy(5).status == SUCCESS


def test_invalidation_means_nothing_to_another_guest(guest):
    other = Guest(bench=guest.bench)
    root = guest.process(5, 0)
    guest.copy(5)
    guest.tables.unmap(root, SOURCE)
    other.invalidate(SPACE | 4, 0)
    other.invalidate(CONTEXT, 5)
    assert guest.copy(5).status == SUCCESS
    other.close()


def test_context_is_cached_until_it_is_invalidated(guest):
    guest.process(5, 0)
    guest.copy(5)
    guest.tables.forget(5)
    assert guest.copy(5).status == SUCCESS
    guest.invalidate(CONTEXT, 5)
    guest.invalidate(SPACE, 5)
    assert guest.copy(5).cause == PDT_ENTRY_NOT_VALID


def test_new_directory_takes_effect_at_once(guest):
    guest.process(5, 0)
    assert guest.copy(5).status == SUCCESS
    guest.write(0x68, 0)
    assert guest.copy(5).cause == TRANSACTION_TYPE_DISALLOWED


def test_reset_forgets_the_directory(guest):
    guest.process(5, 0)
    guest.copy(5)
    guest.mdev.function.reset()
    assert guest.read(0x68) == 0
    walk = guest.bench.parent.host.walk(guest.mdev.space.device_id, 5, SOURCE)
    assert int(walk.fault.cause) == TRANSACTION_TYPE_DISALLOWED


def test_window_that_is_taken_back_is_gone_from_every_process(guest):
    guest.process(5, 0)
    assert guest.copy(5).status == SUCCESS
    guest.mdev.space.unmap(0, guest.ram.size)
    port = guest.mdev.port.tagged(5)
    assert not port.granted(SOURCE, write=False)


def test_user_queue_has_rings_and_operands_of_its_process(guest):
    root = guest.process(5, 0)
    for page in range(4):
        guest.tables.map(root, 0x10_0000 + page * PAGE, 0x20_0000 + page * PAGE)
    guest.ram.write(PAGES, b"mine" * 16)
    block = 0x4000
    guest.write(block + 0x00, 0x10_0000)
    guest.write(block + 0x08, 0x10_1000)
    guest.write(block + 0x18, 4, 4)
    guest.write(block + 0x2C, VALID | 5, 4)
    guest.write(block + 0x1C, 1, 4)
    command = {"length": 64, "source": SOURCE, "destination": DESTINATION}
    guest.ram.write(0x20_0000, descriptor("copy", **command))
    guest.ram.write(0x20_0040, descriptor("copy", **command, pasid=VALID | 9))
    guest.write(0, 2, 4, bar=2)
    guest.work()
    assert guest.ram.read(PAGES + PAGE, 64) == b"mine" * 16
    statuses = [guest.ram.read(0x20_1000 + n * 32 + 28, 2)[0] for n in range(2)]
    assert statuses == [SUCCESS, INVALID_FIELD]


def test_user_queue_whose_ring_is_not_mapped_fails_alone(guest):
    guest.process(5, 0)
    block = 0x4000
    guest.write(block + 0x18, 4, 4)
    guest.write(block + 0x2C, VALID | 5, 4)
    guest.write(block + 0x1C, 1, 4)
    guest.write(0, 1, 4, bar=2)
    guest.work()
    assert guest.read(block + 0x20, 4) == FAILED | RING_READ << 8
    assert guest.copy(5).status == SUCCESS


@pytest.mark.parametrize("pasid", [5, VALID | 1 << 20, VALID | 1 << 30])
def test_malformed_pasid_is_an_invalid_field(guest, pasid):
    done = guest.run("copy", length=1, source=0, destination=PAGE, pasid=pasid)
    assert done.status == INVALID_FIELD


def test_pasid_in_a_slice_without_any_is_an_invalid_field():
    driver = Driver()
    assert driver.run("nop", pasid=VALID | 1).status == INVALID_FIELD
    driver.close()


def test_hbm_is_reached_beside_a_process(guest):
    guest.process(5, 0)
    guest.ram.write(PAGES, b"to hbm" * 10)
    to_hbm = {"length": 60, "source": SOURCE, "destination": 0x100, "pasid": VALID | 5}
    assert guest.run("copy", 2, **to_hbm).status == SUCCESS
    assert guest.function.read(4, 0x100, 60) == b"to hbm" * 10


def submit(guest, **values):
    queue = guest.queue(1)
    queue.submit(descriptor("copy", **values))
    guest.work()
    return queue


def test_page_is_supplied_on_demand(guest):
    root = guest.tables.process(5)
    guest.take_page_requests()
    guest.ram.write(PAGES, b"late" * 16)
    command = {"length": 64, "source": SOURCE, "destination": DESTINATION, "pasid": VALID | 5}
    queue = submit(guest, **command)
    assert guest.page_requests() == [(SOURCE, 5, 1, 1)]
    assert queue.reap() == []
    guest.tables.map(root, SOURCE, PAGES)
    guest.answer(5, 1)
    assert guest.page_requests() == [(DESTINATION, 5, 1, 2)]
    guest.tables.map(root, DESTINATION, PAGES + PAGE)
    guest.answer(5, 1)
    (done,) = queue.reap()
    assert done.status == SUCCESS
    assert guest.ram.read(PAGES + PAGE, 64) == b"late" * 16
    assert guest.bench.faults() == []


def test_page_that_is_refused_faults(guest):
    guest.tables.process(5)
    guest.take_page_requests()
    queue = submit(guest, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    guest.page_requests()
    guest.answer(5, 1, code=1)
    (done,) = queue.reap()
    assert (done.status, done.address) == (READ_FAULT, SOURCE)


def test_guest_that_says_yes_and_supplies_nothing_gets_its_fault(guest):
    guest.tables.process(5)
    guest.take_page_requests()
    queue = submit(guest, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    for _ in range(4):
        assert len(guest.page_requests()) == 1
        guest.answer(5, 1)
    (done,) = queue.reap()
    assert done.status == READ_FAULT


def test_guest_that_never_answers_stalls_one_queue_until_the_limit(guest):
    guest.tables.process(5)
    guest.take_page_requests()
    queue = submit(guest, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    neighbour = Driver(bench=guest.bench)
    assert neighbour.run("nop").status == SUCCESS
    assert guest.run("nop").status == SUCCESS
    assert queue.reap() == []
    guest.bench.skip(11 * 10**9)
    guest.work()
    (done,) = queue.reap()
    assert (done.status, done.address) == (READ_FAULT, SOURCE)
    guest.answer(5, 1)
    assert queue.reap() == []
    neighbour.close()


def test_page_request_that_finds_no_room_is_answered_for_the_guest(guest):
    guest.tables.process(5)
    guest.take_page_requests()
    guest.write(0x94, -8 & 0xFFFFFFFF, 4)
    queue = submit(guest, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    (done,) = queue.reap()
    assert done.status == READ_FAULT


def test_reset_while_a_page_is_awaited_leaves_nothing(guest):
    guest.tables.process(5)
    guest.take_page_requests()
    submit(guest, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    guest.mdev.function.reset()
    guest.answer(5, 1)
    guest.work()
    assert guest.bench.parent.scheduler.ring_due() is None
    assert guest.read(0x90, 4) == 0


def test_removal_gives_everything_back():
    guest = Guest()
    parent = guest.bench.parent
    guest.process(5, 0)
    guest.copy(5)
    used, device = parent.host.frames.used, guest.mdev.space.device_id
    parent.remove(guest.mdev)
    assert parent.host.frames.used < used
    walk = parent.host.walk(device, 5, SOURCE)
    assert walk.fault is not None
    again = Guest(bench=guest.bench)
    assert again.mdev.space.device_id == device
    assert again.copy(5).status == READ_FAULT
    guest.close()
    again.close()
