"""Events of walks, hits and commands: there when they are wanted, and only then."""

import pytest

from mdevemu.errors import DmaFault
from mdevemu.iommu import Access, Cause, Iommu, Request
from mdevemu.iommu.observing import DETAILS, decode
from mdevemu.iommu.registers import IommuRegisters
from mdevemu.units import MIB, PAGE, Iova
from tests.support.host import Host, lent, ready


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def space(host):
    made = host.space()
    made.map(0, 4 * PAGE, lent(MIB), 0, readable=True, writable=True)
    return made


def events(host, *names):
    """The facts of all events so far with these names, and forget them."""
    found = [event for event in host.trace.events if event.name in names]
    host.trace.events.clear()
    return [dict(event.facts) for event in found]


def test_nothing_is_told_unless_it_is_wanted(host, space):
    port = ready(space)
    port.read(Iova(0), 8)
    port.read(Iova(0), 8)
    space.unmap(0, 4 * PAGE)
    assert not events(host, *DETAILS)
    for name in DETAILS:
        host.trace.want(name)
        host.trace.want(name, False)
    with pytest.raises(DmaFault):
        port.read(Iova(0), 8)
    assert [event.name for event in host.trace.events] == ["iommu.fault"]


def test_walk_tells_who_where_and_how_many_entries(host, space):
    host.trace.want("iommu.walk")
    port = ready(space)
    port.read(Iova(8), 8)
    who = {"device_id": space.device_id, "pasid": space.pasid}
    hpa = host.driver.walk(space.device_id, space.pasid, Iova(8)).hpa
    # Three levels each of the directories, four of the table.
    whole = {**who, "iova": 8, "access": "read", "result": "hpa", "hpa": hpa, "entries": 10}
    assert events(host, *DETAILS) == [whole]
    port.read(Iova(8), 8)
    assert not events(host, *DETAILS)
    port.write(Iova(PAGE), b"x")
    [second] = events(host, *DETAILS)
    assert (second["iova"], second["access"], second["entries"]) == (PAGE, "write", 4)


def test_walk_that_faults_tells_the_cause(host, space):
    host.trace.want("iommu.walk")
    port = ready(space)
    with pytest.raises(DmaFault):
        port.read(Iova(64 * PAGE), 1)
    assert [event.name for event in host.trace.events] == ["iommu.fault", "iommu.walk"]
    [fault] = events(host, "iommu.walk")
    assert (fault["result"], fault["cause"]) == ("fault", Cause.READ_PAGE_FAULT)
    assert fault["cause_name"] == Cause.READ_PAGE_FAULT.title
    assert "hpa" not in fault


def test_every_hit_is_told_even_of_the_requesters_own_cache(host, space):
    port = ready(space)
    port.read(Iova(0), 8)
    port.read(Iova(0), 8)
    host.trace.want("iommu.hit")
    hpa = host.driver.walk(space.device_id, space.pasid, Iova(0)).hpa
    for count in range(3):
        port.read(Iova(count), 1)
    assert events(host, *DETAILS) == [
        {
            "device_id": space.device_id,
            "pasid": space.pasid,
            "iova": count,
            "access": "read",
            "hpa": hpa + count,
        }
        for count in range(3)
    ]
    requester = host.iommu.requester(space.device_id, space.pasid)
    requester.translate_many([0, 8, 16], Access.READ)
    assert [hit["iova"] for hit in events(host, *DETAILS)] == [0, 8, 16]
    assert not any(requester.pages.values())
    host.trace.want("iommu.hit", False)
    port.read(Iova(0), 8)
    port.read(Iova(0), 8)
    assert not events(host, *DETAILS)
    assert requester.pages[Access.READ]


def test_hits_do_not_change_what_is_counted_as_a_walk(host, space):
    host.trace.want("iommu")
    port = ready(space)
    port.read(Iova(0), 8)
    port.read(Iova(0), 8)
    assert [event.name for event in host.trace.events] == ["iommu.walk", "iommu.hit"]


def test_hits_stay_slow_when_translation_is_turned_on_meanwhile(host, space):
    """A register write sets the hit path up anew, and must not forget who watches."""
    host.trace.want("iommu.hit")
    register = IommuRegisters.ddtp
    before = host.iommu.read_register(register.offset, register.length)
    host.iommu.write_register(register.offset, before)
    port = ready(space)
    port.read(Iova(0), 8)
    port.read(Iova(0), 8)
    assert len(events(host, "iommu.hit")) == 1


def test_question_of_a_devices_cache_is_told(host, space):
    host.trace.want("iommu.walk")
    request = Request(space.device_id, space.pasid, 0, Access.READ, asks=True)
    host.iommu.ask(request)
    [asked] = events(host, "iommu.walk")
    # The host does not let its accelerator ask (EN_ATS): that much the device context says.
    assert (asked["result"], asked["entries"]) == ("question", 3)


def test_access_without_translation_is_neither_walk_nor_hit(host):
    iommu = Iommu(host.memory, host.trace)
    host.trace.want("iommu")
    register = IommuRegisters.ddtp
    iommu.write_register(register.offset, (1).to_bytes(register.length, "little"))
    iommu.translate(Request(1, None, 0x8000_0000))
    assert not events(host, *DETAILS)


def test_commands_are_told_in_order_with_their_operands(host, space):
    host.trace.want("iommu.command")
    space.unmap(0, 4 * PAGE)
    invalidation, fence = events(host, *DETAILS)
    assert invalidation == {
        "command": "IOTINVAL.VMA",
        "operands": {"pscid": space.pasid, "pscv": 1},
        "outcome": "done",
    }
    assert (fence["command"], fence["outcome"]) == ("IOFENCE.C", "done")
    assert fence["operands"].keys() == {"av", "pr", "pw", "data", "addr"}


@pytest.mark.parametrize(
    ("raw", "name", "operands"),
    [
        (0x0001, "IOTINVAL.VMA", {}),
        (0x0001 | 1 << 10, "IOTINVAL.VMA", {"av": 1, "addr": 0}),
        (
            0x0081 | 1 << 33 | 5 << 44 | 1 << 10 | 7 << 74,
            "IOTINVAL.GVMA",
            {"av": 1, "gv": 1, "gscid": 5, "addr": 7},
        ),
        (0x0002, "IOFENCE.C", {}),
        (0x0003, "IODIR.INVAL_DDT", {}),
        (0x0003 | 1 << 33, "IODIR.INVAL_DDT", {"dv": 1, "did": 0}),
        (0x0083 | 1 << 33 | 9 << 40, "IODIR.INVAL_PDT", {"pid": 0, "dv": 1, "did": 9}),
        (0x0004 | 3 << 40, "ATS.INVAL", {"rid": 3}),
        (0x0084 | 1 << 32, "ATS.PRGR", {"pv": 1, "pid": 0}),
        (0x0102, "reserved", {"dw0": 0x102, "dw1": 0}),
        (0x0303 | 1 << 127, "reserved", {"dw0": 0x303, "dw1": 1 << 63}),
        (0x007F | 2 << 64, "reserved", {"dw0": 0x7F, "dw1": 2}),
    ],
)
def test_commands_are_decoded(raw, name, operands):
    assert decode(raw) == (name, operands)


@pytest.mark.parametrize(("raw", "outcome"), [(0x7F, "illegal"), (0x3, "done")])
def test_command_that_stops_the_queue_is_told(host, raw, outcome):
    host.trace.want("iommu.command")
    host.driver.submit(raw)
    assert events(host, *DETAILS)[0]["outcome"] == outcome
