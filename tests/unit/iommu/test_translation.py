"""What the vectors leave out: MSIs, byte orders, RV32 tables, ATS commands, caches at work."""

import pytest

from mdevemu.iommu import Access, Cause, Fault, Iommu, Request, capabilities_of
from mdevemu.iommu.ats import Invalidation, PageResponse
from mdevemu.iommu.registers import IommuRegisters as Regs
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.trace import Trace
from mdevemu.units import MIB, Hpa

DDT, FIRST, SECOND, MSI_TABLE = 0x1000, 0x10000, 0x20000, 0x30000
QUEUE, FAULTS = 0x40000, 0x50000
V, R, W, X, U, G, A, D = (1 << n for n in range(8))
PAGE_RW = V | R | W | U | A | D


def entry(at: int, bits: int) -> int:
    """A table entry for the page or table at a physical address."""
    return at >> 12 << 10 | bits


class Machine:
    """An IOMMU with a one-level directory at DDT, and whoever writes its tables."""

    def __init__(self, *, fctl=0, **fields):
        self.order = "big" if fctl & 1 else "little"
        self.memory = PhysicalMemory()
        self.memory.add(Hpa(0), Ram(MIB), MIB)
        self.sent = []
        self.iommu = Iommu(
            self.memory,
            Trace(lambda: 0),
            capabilities=capabilities_of(sv32=1, sv32x4=1, end=1, **fields),
            fabric=self,
        )
        self.commands = 0
        for register, value in (
            (Regs.fctl, fctl),
            (Regs.cqb, QUEUE >> 12 << 10 | 5),
            (Regs.cqcsr, 1),
            (Regs.fqb, FAULTS >> 12 << 10 | 5),
            (Regs.fqcsr, 1),
            (Regs.ddtp, DDT >> 12 << 10 | 2),
        ):
            self.write(register, value)

    def invalidate(self, message):
        self.sent.append(message)
        return True

    def respond(self, message):
        self.sent.append(message)

    def write(self, register, value):
        self.iommu.write_register(register.offset, value.to_bytes(register.length, "little"))

    def read(self, register):
        data = self.iommu.read_register(register.offset, register.length)
        return int.from_bytes(data, "little")

    def put(self, at, *words, size=8, order=None):
        for number, word in enumerate(words):
            data = word.to_bytes(size, order or self.order)
            self.memory.write(at + number * size, data)

    def device(self, device_id, *words):
        self.put(DDT + device_id * 64, *words)

    def command(self, low, high=0):
        self.put(QUEUE + self.commands * 16, low, high)
        self.commands += 1
        self.write(Regs.cqt, self.commands)

    def to(self, iova, access=Access.READ, device_id=1, **more):
        request = Request(device_id, more.pop("process_id", None), iova, access, **more)
        return iova + self.iommu.translate(request).delta

    def cause(self, iova, access=Access.READ, **more):
        with pytest.raises(Fault) as caught:
            self.to(iova, access, **more)
        return caught.value.cause


def sv39(machine, root, pages, order=None):
    """Tables at root, root + 0x4000 and root + 0x5000 for pages of the first 2 MiB."""
    machine.put(root, entry(root + 0x4000, V), order=order)
    machine.put(root + 0x4000, entry(root + 0x5000, V), order=order)
    for number, (at, bits) in pages.items():
        machine.put(root + 0x5000 + number * 8, entry(at, bits), order=order)


def sv39x4(machine, pages):
    sv39(machine, SECOND, pages)
    return 8 << 60 | SECOND >> 12


class TestMsi:
    """A guest's interrupt files: guest pages 0x100 to 0x103."""

    @pytest.fixture
    def machine(self):
        made = Machine()
        guest = sv39x4(made, {1: (0x70000, PAGE_RW)})
        pointer = 1 << 60 | MSI_TABLE >> 12
        made.device(1, 1, guest, 0, 0, pointer, 0x3, 0x100)
        made.put(MSI_TABLE, entry(0x9000_0000, V | 3 << 1), 0)
        made.put(MSI_TABLE + 2 * 16, entry(0x9000_2000, V | 3 << 1), 0)
        made.put(MSI_TABLE + 3 * 16, entry(0x9000_3000, V | 1 << 1), 0)
        return made

    def test_write_goes_to_the_interrupt_file(self, machine):
        assert machine.to(0x100004, Access.WRITE) == 0x9000_0004
        assert machine.to(0x102000, Access.WRITE) == 0x9000_2000

    def test_pattern_counts_where_the_mask_is_zero_only(self, machine):
        guest = 8 << 60 | SECOND >> 12
        machine.device(2, 1, guest, 0, 0, 1 << 60 | MSI_TABLE >> 12, 0x3, 0x101)
        assert machine.to(0x102000, Access.WRITE, device_id=2) == 0x9000_2000
        assert machine.cause(0x105000, device_id=2) == Cause.READ_GUEST_PAGE_FAULT

    def test_other_memory_takes_the_second_stage(self, machine):
        assert machine.to(0x1008) == 0x70008
        assert machine.cause(0x104000) == Cause.READ_GUEST_PAGE_FAULT

    def test_entry_that_is_not_valid_or_not_supported_faults(self, machine):
        assert machine.cause(0x101000, Access.WRITE) == Cause.MSI_PTE_NOT_VALID
        assert machine.cause(0x103000, Access.WRITE) == Cause.MSI_PTE_MISCONFIGURED
        machine.put(MSI_TABLE + 16, entry(0x9000_1000, V | 3 << 1) | 1 << 60, 0)
        assert machine.cause(0x101000, Access.WRITE) == Cause.MSI_PTE_MISCONFIGURED
        machine.put(MSI_TABLE + 16, entry(0x9000_1000, V | 3 << 1), 1)
        assert machine.cause(0x101000, Access.WRITE) == Cause.MSI_PTE_MISCONFIGURED

    def test_code_is_not_fetched_from_an_interrupt_file(self, machine):
        assert machine.cause(0x100000, Access.EXECUTE) == Cause.INSTRUCTION_ACCESS_FAULT

    def test_table_outside_memory_is_an_access_fault(self, machine):
        machine.device(2, 1, 8 << 60 | SECOND >> 12, 0, 0, 1 << 60 | 0x100000, 0x3, 0x100)
        assert machine.cause(0x100000, device_id=2) == Cause.MSI_PTE_LOAD_ACCESS_FAULT

    def test_cached_interrupt_file_goes_with_its_guest(self, machine):
        machine.to(0x100000, Access.WRITE)
        machine.put(MSI_TABLE, 0, 0)
        assert machine.to(0x100000, Access.WRITE) == 0x9000_0000
        machine.command(1 | 1 << 7 | 1 << 33)  # IOTINVAL.GVMA, GSCID 0
        assert machine.cause(0x100000, Access.WRITE) == Cause.MSI_PTE_NOT_VALID


def test_big_endian_host_has_big_endian_tables_and_records():
    machine = Machine(fctl=1)
    sv39(machine, FIRST, {3: (0x66000, PAGE_RW)})
    machine.device(1, 1 | 1 << 10, 0, 0, 8 << 60 | FIRST >> 12)
    assert machine.to(0x3123) == 0x66123
    assert machine.cause(0x4000) == Cause.READ_PAGE_FAULT
    record = machine.memory.read(FAULTS, 32)
    assert int.from_bytes(record[:8], "big") & 0xFFF == 13
    assert int.from_bytes(record[16:24], "big") == 0x4000
    machine.command(2 | 1 << 10 | 0x01020304 << 32, 0x60000 >> 2)  # IOFENCE.C with a store
    assert machine.memory.read(0x60000, 4) == bytes([1, 2, 3, 4])


def test_big_endian_guest_has_big_endian_first_stage_only():
    machine = Machine()
    guest = sv39x4(machine, {n: (n << 12, PAGE_RW) for n in range(0x10, 0x16)})
    machine.put(SECOND + 0x5000 + 0x70 * 8, entry(0x66000, PAGE_RW))
    sv39(machine, FIRST, {3: (0x70000, PAGE_RW)}, order="big")
    machine.device(1, 1 | 1 << 10, guest, 0, 8 << 60 | FIRST >> 12)
    assert machine.to(0x3123) == 0x66123


def test_byte_order_that_is_not_there_is_misconfigured():
    machine = Machine()
    machine.iommu.regs.capabilities.end = False
    machine.device(1, 1 | 1 << 10, 0, 0, 0)
    assert machine.cause(0) == Cause.DDT_ENTRY_MISCONFIGURED


def test_rv32_tables_have_four_byte_entries():
    machine = Machine()
    machine.put(FIRST + 4, entry(0x14000, V), size=4)
    machine.put(0x14000 + 5 * 4, entry(0x3_9999_9000, V | R | U | A), size=4)
    machine.put(FIRST + 8, entry(0x1_0040_0000, PAGE_RW), size=4)
    machine.put(FIRST + 12, entry(0x40_1000, PAGE_RW), size=4)
    machine.device(1, 1 | 1 << 11, 0, 0, 8 << 60 | FIRST >> 12)
    assert machine.to(0x40_5678) == 0x3_9999_9678
    assert machine.to(0xA1_2345, Access.WRITE) == 0x1_0061_2345
    assert machine.cause(0xC0_0000) == Cause.READ_PAGE_FAULT  # a misaligned superpage
    assert machine.cause(0x1_0040_5678) == Cause.READ_PAGE_FAULT
    machine.device(2, 1 | 1 << 11, 0, 0, 9 << 60 | FIRST >> 12)
    assert machine.cause(0, device_id=2) == Cause.DDT_ENTRY_MISCONFIGURED


def test_rv32_guest_has_34_bits():
    machine = Machine(fctl=4)
    machine.put(SECOND + 0xFFF * 4, entry(0x40_0000, V | R | W | U | A | D), size=4)
    machine.device(1, 1 | 1 << 11, 8 << 60 | SECOND >> 12, 0, 0)
    assert machine.to(0x3_FFC0_0010) == 0x40_0010
    assert machine.cause(0x4_0000_0000) == Cause.READ_GUEST_PAGE_FAULT
    machine.device(2, 1, 8 << 60 | SECOND >> 12, 0, 0)
    assert machine.cause(0, device_id=2) == Cause.DDT_ENTRY_MISCONFIGURED


class TestAtsCommands:
    """The fence waits for devices; a device that never answers is told by cmd_to."""

    INVALIDATE = 4 | 0x5 << 12 | 1 << 32 | 0x108 << 40
    FENCE = 2 | 1 << 10 | 7 << 32

    @pytest.fixture
    def machine(self):
        made = Machine()
        made.command(self.INVALIDATE, 0x1234_5000)
        made.command(self.FENCE, 0x60000 >> 2)
        return made

    def test_invalidation_is_sent_and_the_fence_waits(self, machine):
        assert machine.sent == [Invalidation(0x108, None, 5, 0x1234_5000)]
        assert machine.read(Regs.cqh) == 1
        assert machine.memory.read(0x60000, 4) == bytes(4)
        machine.iommu.invalidated()
        assert machine.read(Regs.cqh) == 2
        assert machine.memory.read(0x60000, 4) == bytes([7, 0, 0, 0])

    def test_timeout_stops_the_queue_at_the_fence(self, machine):
        machine.iommu.invalidated(timeout=True)
        assert machine.read(Regs.cqcsr) >> 9 & 1
        assert machine.read(Regs.cqh) == 1
        machine.write(Regs.cqcsr, 1 | 1 << 9)
        assert machine.read(Regs.cqh) == 2
        assert machine.memory.read(0x60000, 4) == bytes([7, 0, 0, 0])

    def test_page_response_is_sent(self, machine):
        machine.iommu.invalidated()
        machine.command(4 | 1 << 7 | 1 << 33 | 0x33 << 40 | 2 << 56, 9 << 32 | 1 << 44)
        assert machine.sent[-1] == PageResponse(0x33, 2, None, 1, 9)


def test_fence_that_cannot_store_stops_the_queue():
    machine = Machine()
    machine.command(2 | 1 << 10, 1 << 40 >> 2)
    assert machine.read(Regs.cqcsr) >> 8 & 1
    assert machine.read(Regs.cqh) == 0


def test_caches_are_stale_until_the_command_that_names_them():
    machine = Machine()
    sv39(machine, FIRST, {3: (0x66000, PAGE_RW)})
    machine.put(0x18000 + 5 * 16, 1 | 9 << 12, 8 << 60 | FIRST >> 12)
    machine.device(1, 1 | 1 << 5, 0, 0, 1 << 60 | 0x18)
    assert machine.to(0x3000, process_id=5) == 0x66000
    machine.put(FIRST + 0x5000 + 3 * 8, entry(0x67000, PAGE_RW))
    machine.put(0x18000 + 5 * 16, 0)
    machine.device(1, 0)
    assert machine.to(0x3000, process_id=5) == 0x66000
    machine.command(1 | 1 << 10 | 8 << 12 | 1 << 32, 3 << 10)  # another process
    assert machine.to(0x3000, process_id=5) == 0x66000
    machine.command(1 | 1 << 10 | 9 << 12 | 1 << 32, 3 << 10)
    assert machine.to(0x3000, process_id=5) == 0x67000
    machine.command(3 | 1 << 7 | 4 << 12 | 1 << 33 | 1 << 40)  # another process
    assert machine.to(0x3000, process_id=5) == 0x67000
    machine.command(3 | 1 << 7 | 5 << 12 | 1 << 33 | 1 << 40)
    assert machine.cause(0x3000, process_id=5) == Cause.PDT_ENTRY_NOT_VALID
    machine.command(3 | 1 << 33 | 2 << 40)  # another device
    assert machine.cause(0x3000, process_id=5) == Cause.PDT_ENTRY_NOT_VALID
    machine.command(3 | 1 << 33 | 1 << 40)
    assert machine.cause(0x3000, process_id=5) == Cause.DDT_ENTRY_NOT_VALID


def test_off_disallows_everything_in_spite_of_the_caches():
    machine = Machine()
    sv39(machine, FIRST, {3: (0x66000, PAGE_RW)})
    machine.put(0x18000 + 5 * 16, 1 | 9 << 12, 8 << 60 | FIRST >> 12)
    machine.device(1, 1 | 1 << 5, 0, 0, 1 << 60 | 0x18)
    assert machine.iommu.line(1, 5, 0x3000, Access.READ).delta == 0x63000
    machine.write(Regs.ddtp, 0)
    with pytest.raises(Fault) as caught:
        machine.iommu.line(1, 5, 0x3000, Access.READ)
    assert caught.value.cause == Cause.ALL_INBOUND_TRANSACTIONS_DISALLOWED


def test_first_write_sets_dirty_although_a_read_was_cached():
    machine = Machine()
    sv39(machine, FIRST, {3: (0x66000, V | R | W | U)})
    machine.device(1, 1 | 1 << 8, 0, 0, 8 << 60 | FIRST >> 12)
    place = FIRST + 0x5000 + 3 * 8
    machine.to(0x3000)
    assert machine.memory.read_u64(place) & (A | D) == A
    machine.to(0x3000, Access.WRITE)
    assert machine.memory.read_u64(place) & (A | D) == A | D


def test_looking_sets_nothing():
    machine = Machine()
    sv39(machine, FIRST, {3: (0x66000, V | R | W | U)})
    machine.device(1, 1 | 1 << 8, 0, 0, 8 << 60 | FIRST >> 12)
    steps, line, fault = machine.iommu.explain(Request(1, None, 0x3000, Access.WRITE))
    assert fault is None
    assert line is not None
    assert line.delta == 0x63000
    assert [step.table for step in steps] == ["DC", "first", "first", "first"]
    assert machine.memory.read_u64(FIRST + 0x5000 + 3 * 8) & (A | D) == 0
    assert machine.read(Regs.fqt) == 0


def test_device_whose_context_changed_finds_its_new_processes():
    machine = Machine()
    sv39(machine, FIRST, {3: (0x66000, PAGE_RW)})
    sv39(machine, SECOND, {3: (0x77000, PAGE_RW)})
    for directory, root in ((0x18000, FIRST), (0x19000, SECOND)):
        machine.put(directory + 5 * 16, 1 | root >> 8 << 12, 8 << 60 | root >> 12)
    machine.device(1, 1 | 1 << 5, 0, 0, 1 << 60 | 0x18)
    assert machine.iommu.line(1, 5, 0x3000, Access.READ).delta == 0x63000
    machine.device(1, 1 | 1 << 5, 0, 0, 1 << 60 | 0x19)
    machine.command(3 | 1 << 33 | 1 << 40)  # IODIR.INVAL_DDT
    assert machine.iommu.line(1, 5, 0x3000, Access.READ).delta == 0x74000
