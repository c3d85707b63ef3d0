"""The performance monitor: what is counted, for whom, and the interrupt of an overflow."""

import pytest

from mdevemu.iommu import Access, Cause, Fault, Iommu, Request, capabilities_of
from mdevemu.iommu.monitoring import Event
from mdevemu.iommu.registers import IommuRegisters as Regs
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.trace import Trace
from mdevemu.units import MIB, Hpa

DDT, PDT, FIRST, SECOND = 0x1000, 0x2000, 0x10000, 0x20000
V, R, W, X, U, G, A, D = (1 << n for n in range(8))
PAGE = V | R | W | U | A | D
DEVICE, PROCESS, PSCID, GSCID = 9, 5, 0x77, 0x33
OVERFLOW = 1 << 63


class Machine:
    """Device 9, process 5: Sv39 in a guest whose low 2 MiB are where they are.

    Device 10 is the same without a second stage.
    """

    def __init__(self, **fields):
        self.now = 1000
        self.memory = PhysicalMemory()
        self.memory.add(Hpa(0), Ram(MIB), MIB)
        trace = Trace(lambda: self.now)
        self.iommu = Iommu(self.memory, trace, capabilities=capabilities_of(**fields))
        for device, guest in ((DEVICE, 8 << 60 | GSCID << 44 | SECOND >> 12), (DEVICE + 1, 0)):
            tc = 1 | 1 << 1 | 1 << 5
            for at, word in enumerate((tc, guest, 0, 1 << 60 | PDT >> 12)):
                self.memory.write_u64(DDT + device * 64 + at * 8, word)
        self.memory.write_u64(PDT + PROCESS * 16, 1 | PSCID << 12)
        self.memory.write_u64(PDT + PROCESS * 16 + 8, 8 << 60 | FIRST >> 12)
        for root, pages in (
            (FIRST, [(3, 0x80), (4, 0x81)]),
            (SECOND, [(n, n) for n in range(512)]),
        ):
            self.memory.write_u64(root, (root >> 12) + 4 << 10 | V)
            self.memory.write_u64(root + 0x4000, (root >> 12) + 5 << 10 | V)
            for page, to in pages:
                self.memory.write_u64(root + 0x5000 + page * 8, to << 10 | PAGE)
        self.write(Regs.ddtp, DDT >> 12 << 10 | 2)

    def write(self, register, value, index=0):
        at = register.offset + index * register.stride
        self.iommu.write_register(at, value.to_bytes(register.length, "little"))

    def read(self, register, index=0):
        at = register.offset + index * register.stride
        return int.from_bytes(self.iommu.read_register(at, register.length), "little")

    def count(self, event, index=0, **filters):
        """Let a counter count an event; the filters are fields of the selector."""
        places = {"dmask": 15, "process": 16, "device": 36, "pv": 60, "dv": 61, "idt": 62}
        word = event + sum(value << places[name] for name, value in filters.items())
        self.write(Regs.iohpmevt, word, index)

    def counted(self, index=0):
        return self.read(Regs.iohpmctr, index)

    def ask(self, iova=0x3000, device=DEVICE, process=PROCESS, **more):
        self.iommu.translate(Request(device, process, iova, Access.READ, **more))


@pytest.fixture
def machine():
    return Machine()


# A walk: DC; PC through the second stage; three first-stage entries and the page, each
# through three second-stage entries.
WHOLE = {
    Event.UNTRANSLATED_REQUEST: 1,
    Event.TRANSLATED_REQUEST: 0,
    Event.ATS_REQUEST: 0,
    Event.IOTLB_MISS: 1,
    Event.DEVICE_DIRECTORY_WALK: 1,
    Event.PROCESS_DIRECTORY_WALK: 1,
    Event.FIRST_STAGE_WALK: 3,
    Event.SECOND_STAGE_WALK: 3 + 3 * 3 + 3,
}


@pytest.mark.parametrize(("event", "times"), WHOLE.items())
def test_first_request_counts_every_entry_on_its_way(machine, event, times):
    machine.count(event)
    machine.ask()
    assert machine.counted() == times


@pytest.mark.parametrize(("event", "times"), WHOLE.items())
def test_request_that_the_caches_answer_is_a_request_and_nothing_else(machine, event, times):
    machine.ask()
    machine.count(event)
    machine.ask()
    assert machine.counted() == (event == Event.UNTRANSLATED_REQUEST)


def test_next_page_walks_page_tables_only(machine):
    machine.ask()
    for index, event in enumerate(Event):
        machine.count(event, index)
    machine.ask(0x4000)
    assert [machine.counted(index) for index in range(len(Event))] == [0, 1, 0, 0, 1, 0, 0, 3, 12]


def test_hits_of_every_way_in_are_counted(machine):
    requester = machine.iommu.requester(DEVICE, PROCESS)
    requester.translate(0x3000, 1)
    machine.count(Event.UNTRANSLATED_REQUEST)
    requester.translate(0x3000, 1)
    requester.translate_many([0x3000, 0x3008, 0x4000], 1)
    machine.iommu.line(DEVICE, PROCESS, 0x3000, 1)
    assert machine.counted() == 5
    machine.count(Event.NONE)
    requester.translate(0x3000, 1)
    requester.translate(0x3000, 1)
    assert requester.pages[1]
    assert machine.counted() == 5


def test_each_kind_of_request_has_its_event(machine):
    for index, event in enumerate((1, 2, 3)):
        machine.count(event, index)
    machine.ask()
    machine.ask(translated=True)
    machine.ask(translated=True)
    machine.iommu.ask(Request(DEVICE, PROCESS, 0x3000, Access.READ, asks=True))
    assert [machine.counted(index) for index in range(3)] == [1, 2, 1]


def test_request_that_faults_counts_as_far_as_it_came(machine):
    machine.count(Event.UNTRANSLATED_REQUEST, 0)
    machine.count(Event.FIRST_STAGE_WALK, 1)
    machine.count(Event.FIRST_STAGE_WALK, 2, idt=1, pv=1, process=PSCID)
    with pytest.raises(Fault):
        machine.ask(0x9000)
    assert [machine.counted(index) for index in range(3)] == [1, 3, 3]
    with pytest.raises(Fault) as caught:
        machine.ask(device=63)
    assert caught.value.cause == Cause.DDT_ENTRY_NOT_VALID
    assert [machine.counted(index) for index in range(3)] == [2, 3, 3]


@pytest.mark.parametrize(
    ("filters", "event", "counted"),
    [
        ({}, 1, True),
        ({"dv": 1, "device": DEVICE}, 1, True),
        ({"dv": 1, "device": DEVICE + 1}, 1, False),
        ({"dv": 1, "device": DEVICE ^ 2}, 1, False),
        ({"dv": 1, "device": DEVICE & ~0xF | 0b011, "dmask": 1}, 1, False),
        ({"dv": 1, "device": DEVICE & ~7 | 0b0111, "dmask": 1}, 1, True),
        ({"dv": 1, "device": 0x7FFFFF, "dmask": 1}, 1, True),
        ({"dv": 1, "device": 0xFFFFFF, "dmask": 1}, 1, True),
        ({"dv": 1, "device": 0b10111, "dmask": 1}, 1, False),
        ({"device": 0xFFF, "process": 0xFFF}, 1, True),
        ({"pv": 1, "process": PROCESS}, 1, True),
        ({"pv": 1, "process": PROCESS + 1}, 1, False),
        ({"pv": 1, "process": PROCESS, "dv": 1, "device": DEVICE + 1}, 1, False),
        ({"pv": 1, "process": PROCESS, "dv": 1, "device": DEVICE}, 6, True),
        ({"idt": 1}, 1, False),
        ({"idt": 1}, 5, False),
        ({"idt": 1}, 6, False),
        ({"idt": 1}, 4, True),
        ({"idt": 1, "pv": 1, "process": PSCID}, 4, True),
        ({"idt": 1, "pv": 1, "process": PROCESS}, 4, False),
        ({"idt": 1, "dv": 1, "device": GSCID}, 8, True),
        ({"idt": 1, "dv": 1, "device": DEVICE}, 8, False),
        ({"idt": 1, "dv": 1, "device": GSCID, "pv": 1, "process": PSCID}, 7, True),
        ({"idt": 1, "dv": 1, "device": 0x3F, "dmask": 1}, 7, True),
    ],
)
def test_selector_filters_by_its_ids(machine, filters, event, counted):
    machine.count(event, **filters)
    machine.ask()
    assert bool(machine.counted()) == counted


def test_request_without_an_id_matches_no_filter_for_it(machine):
    machine.count(Event.UNTRANSLATED_REQUEST, 0, pv=1, process=0)
    machine.count(Event.IOTLB_MISS, 1, idt=1, dv=1, device=0)
    machine.count(Event.IOTLB_MISS, 2, idt=1, pv=1, process=0)
    machine.count(Event.IOTLB_MISS, 3)
    machine.ask(device=DEVICE + 1)  # has no GSCID
    machine.ask(process=None)  # has no process id, and no first stage
    assert [machine.counted(index) for index in range(4)] == [0, 0, 0, 2]


def test_event_that_is_not_there_is_none(machine):
    machine.write(Regs.iohpmevt, 9 | 1 << 61, 4)
    assert machine.read(Regs.iohpmevt, 4) == 1 << 61
    machine.write(Regs.iohpmevt, 0x7FFF, 4)
    assert machine.read(Regs.iohpmevt, 4) == 0


def test_inhibited_counter_keeps_its_value(machine):
    machine.count(Event.UNTRANSLATED_REQUEST, 0)
    machine.count(Event.UNTRANSLATED_REQUEST, 30)
    machine.write(Regs.iohpmctr, 100, 30)
    machine.write(Regs.iocountinh, 1 << 31)
    machine.ask()
    assert (machine.counted(0), machine.counted(30)) == (1, 100)
    machine.write(Regs.iocountinh, 0)
    machine.ask()
    assert (machine.counted(0), machine.counted(30)) == (2, 101)


def test_overflow_wraps_sets_its_bit_and_interrupts_once(machine):
    wires = []
    machine.iommu.interrupts.wire = lambda vector, level: wires.append((vector, level))
    machine.write(Regs.fctl, 2)
    machine.write(Regs.icvec, 0x0500)
    machine.count(Event.UNTRANSLATED_REQUEST, 3)
    machine.write(Regs.iohpmctr, (1 << 64) - 1, 3)
    machine.ask()
    assert machine.counted(3) == 0
    assert machine.read(Regs.iohpmevt, 3) == 1 | OVERFLOW
    assert machine.read(Regs.iocountovf) == 1 << 4
    assert machine.read(Regs.ipsr) == 1 << 2
    assert wires == [(5, True)]
    machine.write(Regs.ipsr, 1 << 2)
    machine.write(Regs.iohpmctr, (1 << 64) - 1, 3)
    machine.ask()  # its OF is still there
    assert (machine.counted(3), machine.read(Regs.ipsr)) == (0, 0)
    assert wires == [(5, True), (5, False)]
    machine.count(Event.UNTRANSLATED_REQUEST, 3)
    assert machine.read(Regs.iocountovf) == 0
    machine.write(Regs.iohpmctr, (1 << 64) - 1, 3)
    machine.ask()
    assert machine.read(Regs.ipsr) == 1 << 2


def test_several_at_once_overflow_as_one_by_one(machine):
    machine.count(Event.SECOND_STAGE_WALK)
    machine.write(Regs.iohpmctr, (1 << 64) - 10)
    machine.ask()
    assert machine.counted() == 5
    assert machine.read(Regs.iocountovf) == 2


def test_clock_runs_stops_and_can_be_set(machine):
    first = machine.read(Regs.iohpmcycles)
    machine.now += 500
    assert machine.read(Regs.iohpmcycles) == first + 500
    machine.write(Regs.iocountinh, 1)
    machine.now += 500
    assert machine.read(Regs.iohpmcycles) == first + 500
    machine.write(Regs.iohpmcycles, 7)
    machine.write(Regs.iocountinh, 0)
    machine.now += 1
    assert machine.read(Regs.iohpmcycles) == 8


def test_half_of_the_clock_can_be_written(machine):
    machine.write(Regs.iohpmcycles, 0x1_0000_0000)
    machine.iommu.write_register(Regs.iohpmcycles.offset, (5).to_bytes(4, "little"))
    machine.now += 2
    assert machine.read(Regs.iohpmcycles) == 0x1_0000_0007


@pytest.mark.parametrize("notice", ["read", "walk"])
def test_overflow_of_the_clock_is_noticed(machine, notice):
    machine.write(Regs.iohpmcycles, (1 << 63) - 10)
    machine.now += 9
    assert machine.read(Regs.iocountovf) == 0
    machine.now += 3
    if notice == "walk":
        machine.ask()
        assert int(machine.iommu.regs.ipsr) == 1 << 2
    assert machine.read(Regs.iohpmcycles) == 2 | OVERFLOW
    assert machine.read(Regs.iocountovf) == 1
    assert machine.read(Regs.ipsr) == 1 << 2
    machine.write(Regs.ipsr, 1 << 2)
    machine.write(Regs.iohpmcycles, (1 << 63) - 1 | OVERFLOW)
    machine.now += 2
    assert machine.read(Regs.iohpmcycles) == 1 | OVERFLOW
    assert machine.read(Regs.ipsr) == 0


def test_looking_counts_nothing(machine):
    for index, event in enumerate(Event):
        machine.count(event, index)
    machine.iommu.explain(Request(DEVICE, PROCESS, 0x3000))
    machine.ask()
    assert [machine.counted(index) for index in range(len(Event))] == [0, *WHOLE.values()]


def test_monitor_that_is_not_there_reads_zero_and_ignores_writes():
    machine = Machine(hpm=0)
    for register, index in ((Regs.iohpmcycles, 0), (Regs.iohpmctr, 3), (Regs.iohpmevt, 3)):
        machine.write(register, 1, index)
        assert machine.read(register, index) == 0
    machine.write(Regs.iocountinh, 1)
    assert machine.read(Regs.iocountinh) == machine.read(Regs.iocountovf) == 0
    machine.ask()
    assert machine.read(Regs.iohpmctr, 3) == 0
