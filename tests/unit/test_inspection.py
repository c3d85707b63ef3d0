"""What operators look into: records, walks, contexts and caches of guests with PASIDs."""

import pytest

from mdevemu.errors import ConfigError, DmaFault
from mdevemu.inspection import RECORDS_KEPT, Inspection, Records
from mdevemu.mdev import contexts
from tests.support.guest_tables import PAGE, A, D, R, U, V
from tests.support.native import READ_PAGE_FAULT, SUCCESS, Driver
from tests.unit.personalities.test_native_pasids import (
    CONTEXT,
    DESTINATION,
    DIRECTORY,
    PAGES,
    SOURCE,
    SPACE,
    VALID,
    Guest,
    submit,
)

DEVICE = 0x101
HUGE = 1 << 21
SECOND_EVENT, IOTLB_MISS = 360, 4
"""Spec: RISC-V IOMMU 1.0, Register layout (iohpmevt2); Standard Events list."""
PDT_ENTRY_NOT_VALID, READ_GUEST_PAGE_FAULT = 266, 21


@pytest.fixture
def guest():
    found = Guest(name="red")
    yield found
    found.close()


class Operator:
    """Asks as a control client does, and hears the events."""

    def __init__(self, guest):
        self.events = []
        inspection = Inspection(guest.bench.parent, lambda *event: self.events.append(event))
        self._commands = {command.name: command.run for command in inspection.commands()}

    def ask(self, command, /, **arguments):
        return self._commands[command](**arguments)

    def walk(self, iova, pasid=5, **arguments):
        return self.ask("walk-iova", mdev="red", pasid=pasid, iova=iova, **arguments)


@pytest.fixture
def operator(guest):
    return Operator(guest)


def test_records_are_numbered_and_the_oldest_give_way():
    records = Records()
    for _ in range(RECORDS_KEPT + 3):
        records.add("a", {})
    records.add("b", {})
    assert records.count == RECORDS_KEPT + 4
    assert records.since(0, None)[0]["sequence"] == 5
    assert [each["sequence"] for each in records.since(0, "b")] == [RECORDS_KEPT + 4]
    assert records.since(RECORDS_KEPT + 4, None) == []


# Page requests and faults.


def test_page_request_is_told_and_kept(guest, operator):
    guest.tables.process(5)
    guest.take_page_requests()
    submit(guest, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    expected = {
        "sequence": 1,
        "mdev": "red",
        "device-id": DEVICE,
        "pasid": 5,
        "iova": SOURCE,
        "iova-hex": hex(SOURCE),
        "read": True,
        "write": False,
        "group": 1,
    }
    assert operator.events == [("IOMMU_PAGE_REQUEST", expected)]
    assert operator.ask("query-page-requests") == [expected]
    assert operator.ask("query-page-requests", mdev="red", since=1) == []
    assert operator.ask("query-faults") == []


def test_page_requests_are_told_apart_by_mdev(guest, operator):
    other = Guest(bench=guest.bench, name="blue")
    for each in (guest, other):
        each.tables.process(5)
        each.take_page_requests()
        submit(each, length=64, source=SOURCE, destination=DESTINATION, pasid=VALID | 5)
    assert [r["mdev"] for r in operator.ask("query-page-requests")] == ["red", "blue"]
    (found,) = operator.ask("query-page-requests", mdev="blue")
    assert (found["mdev"], found["device-id"]) == ("blue", DEVICE + 1)
    with pytest.raises(ConfigError, match="green"):
        operator.ask("query-page-requests", mdev="green")
    other.close()


def test_fault_is_told_when_it_is_collected(guest, operator):
    guest.tables.process(5)
    guest.copy(5)
    (fault,) = operator.ask("query-faults", mdev="red")
    assert (fault["pasid"], fault["iova"], fault["cause"]) == (5, SOURCE, READ_PAGE_FAULT)
    assert operator.events == [("IOMMU_FAULT", fault)]


# Walks.


def test_walk_names_the_guest_physical_address_of_each_entry(guest, operator):
    root = guest.process(5, 0)
    walk = operator.walk(SOURCE + 0x123)
    own = [step for step in walk["steps"] if step["table"] != "second"]
    assert [step["table"] for step in own] == ["DDT", "DDT", "DC", "PC", *["first"] * 3]
    assert [step["gpa"] for step in own[:3]] == [None] * 3
    assert own[3]["gpa"] == DIRECTORY + 5 * 16
    assert own[4]["gpa"] == root + (SOURCE >> 30) * 8
    assert walk["steps"][-1]["gpa"] == PAGES + 0x123
    for step, following in zip(walk["steps"], walk["steps"][1:], strict=False):
        if step["table"] == "second":
            assert following["gpa"] == step["gpa"] or step["leaf"]
    assert walk["hpa"] % PAGE == 0x123
    assert (walk["cause"], walk["where"]) == (None, None)


def test_walk_says_where_it_stopped(guest, operator):
    root = guest.process(5, 0)
    assert operator.walk(0)["where"] == "first stage, level 2"
    assert operator.walk(SOURCE + 2 * PAGE)["where"] == "first stage, level 0"
    assert operator.walk(SOURCE, pasid=6)["where"] == "process directory"
    assert operator.walk(SOURCE, pasid=256)["where"].startswith("device context")
    guest.tables.map(root, SOURCE, 1 << 40)
    walk = operator.walk(SOURCE + 8)
    assert (walk["cause"], walk["steps"][-1]["gpa"]) == (READ_GUEST_PAGE_FAULT, (1 << 40) + 8)
    assert walk["where"].startswith(f"second stage, guest-physical address {(1 << 40) + 8:#x}")
    guest.tables._put(root + (SOURCE >> 30) * 8, (1 << 40) >> 2 | V)
    walk = operator.walk(SOURCE)
    assert "where an entry is to be found" in walk["where"]
    assert walk["steps"][-1]["gpa"] == (1 << 40) + (SOURCE >> 21 & 511) * 8


def test_walk_of_a_superpage_names_the_address_within_it(guest, operator):
    root = guest.tables.process(5)
    table = guest.tables.frame()
    guest.tables._put(root + 8, table >> 2 | V)
    guest.tables._put(table, 0 >> 2 | V | R | U | A | D)
    within = PAGES % HUGE + 0x18
    walk = operator.walk((1 << 30) + within)
    assert walk["steps"][-1]["gpa"] == within
    assert walk["hpa"] is not None


def test_walk_without_a_pasid_is_the_devices_own(guest, operator):
    walk = operator.walk(PAGES, pasid=None)
    assert walk["pasid"] is None
    assert {step["table"] for step in walk["steps"]} == {"DDT", "DC", "second"}
    assert {step["gpa"] for step in walk["steps"] if step["table"] == "second"} == {PAGES}


def test_walk_for_writing_refuses_a_page_for_reading(guest, operator):
    root = guest.process(5, 0)
    guest.tables.map(root, SOURCE, PAGES, V | R | U | A)
    assert operator.walk(SOURCE)["hpa"] is not None
    assert operator.walk(SOURCE, write=True)["cause"] == 15


def test_walk_tells_what_the_iotlb_still_says(guest, operator):
    root = guest.process(5, 0)
    assert operator.walk(SOURCE)["cached"] is None
    guest.copy(5)
    walk = operator.walk(SOURCE + 8)
    assert (walk["cached"], walk["stale"]) == (walk["hpa"], False)
    guest.tables.unmap(root, SOURCE)
    stale = operator.walk(SOURCE + 8)
    assert (stale["hpa"], stale["cause"]) == (None, READ_PAGE_FAULT)
    assert (stale["cached"], stale["stale"], stale["outdated"]) == (walk["hpa"], True, [])
    guest.tables.map(root, SOURCE, PAGES + 8 * PAGE)
    moved = operator.walk(SOURCE + 8)
    assert (moved["hpa"], moved["stale"]) == (walk["hpa"] + 8 * PAGE, True)
    guest.invalidate(SPACE, 5)
    assert not operator.walk(SOURCE + 8)["stale"]


def test_walk_tells_of_an_old_process_context(guest, operator):
    guest.process(5, 0)
    guest.copy(5)
    guest.tables.forget(5)
    guest.invalidate(SPACE, 5)
    walk = operator.walk(SOURCE)
    assert (walk["cause"], walk["cached"]) == (PDT_ENTRY_NOT_VALID, None)
    assert (walk["outdated"], walk["stale"]) == (["PDT"], True)
    assert guest.copy(5).status == SUCCESS
    guest.invalidate(CONTEXT, 5)
    assert operator.walk(SOURCE)["outdated"] == []


def test_walk_changes_and_reports_nothing(guest, operator):
    guest.process(5, 0)
    iommu = guest.bench.parent.iommu
    before = len(iommu.iotlb), dict(iommu.processes.entries), dict(iommu.devices.entries)
    operator.walk(SOURCE)
    operator.walk(0, write=True)
    operator.ask("query-contexts")
    after = len(iommu.iotlb), dict(iommu.processes.entries), dict(iommu.devices.entries)
    assert after == before
    assert operator.ask("query-faults") == []


# Contexts.


def listed(operator, **arguments):
    found = operator.ask("query-contexts", **arguments)
    assert found["complete"]
    return found["contexts"]


def test_contexts_of_a_guest_are_those_in_its_memory(guest, operator):
    root = guest.process(5, 0)
    guest.process(255, 1)
    device, five, other = listed(operator)
    assert (device["device-id"], device["pasid"], device["mdev"]) == (DEVICE, None, "red")
    assert device["directory"] == {"mode": "PD8", "root": DIRECTORY, "guest": True}
    assert (device["first"], device["second"]["mode"]) == (None, "Sv48x4")
    assert (device["gscid"], device["pscid"], device["attach"]) == (DEVICE, None, "rid")
    assert (five["pasid"], five["pscid"], five["mdev"]) == (5, 5, "red")
    assert five["first"] == {"mode": "Sv39", "root": root, "guest": True}
    assert (other["pasid"], other["cached"]) == (255, False)
    guest.copy(5)
    assert [each["cached"] for each in listed(operator)] == [True, True, False]


def test_context_that_only_a_cache_has_is_listed(guest, operator):
    guest.process(5, 0)
    guest.copy(5)
    guest.tables.forget(5)
    _, stale = listed(operator)
    assert (stale["pasid"], stale["valid"], stale["cached"]) == (5, False, True)
    guest.invalidate(CONTEXT, 5)
    assert len(listed(operator)) == 1


def test_contexts_of_shared_pasids_are_the_hosts(guest, operator):
    shared = Driver(bench=guest.bench, name="blue")
    contexts = listed(operator)
    assert [(each["device-id"], each["mdev"]) for each in contexts] == [
        (0x100, None),
        (0x100, "blue"),
        (DEVICE, "red"),
    ]
    first = contexts[1]
    assert (first["attach"], first["first"]["mode"], first["first"]["guest"]) == (
        "pasid",
        "Sv48",
        False,
    )
    assert first["second"]["mode"] == "Bare"
    assert [each["mdev"] for each in listed(operator, mdev="blue")] == ["blue"]
    shared.close()


@pytest.mark.parametrize("mode", [2, 3])
def test_endless_directory_is_listed_in_part(guest, operator, mode, monkeypatch):
    """Every entry of the root leads to one page, full of valid contexts."""
    monkeypatch.setattr(contexts, "MOST_TABLES", 8)
    monkeypatch.setattr(contexts, "MOST_CONTEXTS", 700)
    page, root = DIRECTORY + 64 * PAGE, DIRECTORY + 65 * PAGE
    middle = root if mode == 2 else DIRECTORY + 66 * PAGE
    guest.ram.write(page, (b"\1" + bytes(15)) * 256)
    guest.ram.write(middle, (page >> 2 | V).to_bytes(8, "little") * 512)
    if mode == 3:
        guest.ram.write(root, (middle >> 2 | V).to_bytes(8, "little") * 512)
    guest.write(0x68, root | mode)
    found = operator.ask("query-contexts")
    assert not found["complete"]
    assert [each["pasid"] for each in found["contexts"][1:]] == list(range(700))


def test_directory_that_is_nowhere_has_no_contexts(guest, operator):
    guest.write(0x68, 1 << 40 | 2)
    assert len(listed(operator)) == 1
    guest.ram.write(DIRECTORY, ((1 << 50) >> 2 | V).to_bytes(8, "little"))
    guest.write(0x68, DIRECTORY | 2)
    assert len(listed(operator)) == 1


# The IOMMU as a whole.


def test_iommu_counts_records_and_what_its_caches_hold(guest, operator):
    guest.process(5, 0)
    guest.copy(5)
    guest.copy(6)
    found = operator.ask("query-iommu")
    assert (found["mode"], found["faults"], found["page-requests"]) == ("three-levels", 1, 0)
    assert found["fault-queue-overflows"] == found["page-request-queue-overflows"] == 0
    sizes = {cache["name"]: (cache["entries"], cache["size"]) for cache in found["caches"]}
    assert sizes["device contexts"][0] == 1
    assert sizes["process contexts"] == (1, 256)
    assert 2 <= sizes["translations"][0] <= sizes["translations"][1]


def test_fault_queue_that_overflowed_is_told(guest, operator):
    port = guest.mdev.port.tagged(6)
    for _ in range(1100):
        with pytest.raises(DmaFault):
            port.read(SOURCE, 1)
    found = operator.ask("query-iommu")
    assert (found["faults"], found["fault-queue-overflows"]) == (1023, 1)
    again = operator.ask("query-iommu")
    assert (again["faults"], again["fault-queue-overflows"]) == (1023, 1)


def test_performance_counters_in_use_are_shown(guest, operator):
    iommu = guest.bench.parent.iommu
    if not iommu.regs.capabilities.hpm:
        pytest.skip("this IOMMU has no performance monitor")
    assert operator.ask("query-iommu")["monitor"]["counters"] == []
    iommu.write_register(SECOND_EVENT, IOTLB_MISS.to_bytes(8, "little"))
    guest.process(5, 0)
    guest.copy(5)
    monitor = operator.ask("query-iommu")["monitor"]
    assert monitor["cycles"] > 0
    (counter,) = monitor["counters"]
    assert (counter["number"], counter["event"]) == (2, IOTLB_MISS)
    assert counter["value"] >= 2
