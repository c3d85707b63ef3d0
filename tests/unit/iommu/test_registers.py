"""What software's accesses to the register page do."""

import pytest

from mdevemu.iommu import Fault, Iommu, Request, capabilities_of
from mdevemu.iommu.registers import Interrupts, IommuRegisters
from mdevemu.layout import Access
from mdevemu.layout.words import access_mask
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.registers import slots
from mdevemu.trace import Trace
from mdevemu.units import MIB, Hpa


class Software:
    """An IOMMU with a megabyte of memory at 0."""

    def __init__(self, **fields: int) -> None:
        self.memory = PhysicalMemory()
        self.memory.add(Hpa(0), Ram(MIB), MIB)
        self.iommu = Iommu(self.memory, Trace(lambda: 0), capabilities=capabilities_of(**fields))
        self.wires: list[tuple[int, bool]] = []
        self.iommu.interrupts.wire = lambda vector, level: self.wires.append((vector, level))

    def write(self, register, value, index=0):
        offset = register.offset + index * register.stride
        self.iommu.write_register(offset, value.to_bytes(register.length, "little"))

    def read(self, register, index=0):
        offset = register.offset + index * register.stride
        return int.from_bytes(self.iommu.read_register(offset, register.length), "little")


REGS = IommuRegisters


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("capabilities", 0),
        ("fctl", 8),
        ("ddtp", 16),
        ("cqb", 24),
        ("cqh", 32),
        ("cqt", 36),
        ("fqb", 40),
        ("fqh", 48),
        ("fqt", 52),
        ("pqb", 56),
        ("pqh", 64),
        ("pqt", 68),
        ("cqcsr", 72),
        ("fqcsr", 76),
        ("pqcsr", 80),
        ("ipsr", 84),
        ("icvec", 760),
        ("msi_addr", 768),
    ],
)
def test_register_is_where_the_specification_has_it(name, offset):
    assert getattr(REGS, name).offset == offset


def test_capabilities_cannot_be_written():
    software = Software()
    before = software.read(REGS.capabilities)
    software.write(REGS.capabilities, (1 << 64) - 1)
    assert software.read(REGS.capabilities) == before
    assert before & 0xFF == 0x10


def test_mode_that_is_not_there_keeps_the_old_one():
    software = Software()
    software.write(REGS.ddtp, 0x1000 << 10 | 3)
    for mode in range(5, 16):
        software.write(REGS.ddtp, 0x1000 << 10 | mode)
        assert software.read(REGS.ddtp) & 0xF == 3


def test_registers_of_absent_features_read_zero():
    software = Software(ats=0, dbg=0, hpm=0)
    for register in (REGS.pqb, REGS.pqh, REGS.pqcsr, REGS.tr_req_iova, REGS.iohpmcycles):
        software.write(register, 0xFFFF_FFFF)
        assert software.read(register) == 0


def test_features_that_are_absent_cannot_be_enabled():
    software = Software(end=0, igs=Interrupts.MSI)
    software.write(REGS.fctl, 7)
    assert software.read(REGS.fctl) == 0
    software = Software(end=1, igs=Interrupts.BOTH, sv32=1)
    software.write(REGS.fctl, 7)
    assert software.read(REGS.fctl) == 7
    assert Software(igs=Interrupts.WSI).read(REGS.fctl) == 2


def test_queue_indices_have_as_many_bits_as_the_queue():
    software = Software()
    software.write(REGS.fqb, 0x10 << 10 | 3)
    software.write(REGS.fqh, 0xFFFF_FFFF)
    assert software.read(REGS.fqh) == 15
    software.write(REGS.cqb, 0x20 << 10 | 1)
    software.write(REGS.cqt, 0xFFFF_FFFF)
    assert software.read(REGS.cqt) == 3


def test_enabling_a_queue_clears_index_and_errors():
    software = Software()
    software.write(REGS.cqb, (1 << 44) - 1 << 10)
    software.write(REGS.cqcsr, 1)
    software.write(REGS.cqt, 1)  # the queue is nowhere
    assert software.read(REGS.cqcsr) == 1 | 1 << 8 | 1 << 16
    software.write(REGS.cqcsr, 0)
    assert software.read(REGS.cqcsr) == 1 << 8
    software.write(REGS.cqt, 0)
    software.write(REGS.cqcsr, 1)
    assert software.read(REGS.cqcsr) == 1 | 1 << 16
    assert software.read(REGS.cqh) == 0


def illegal(software):
    """Queue a command that is none."""
    software.write(REGS.cqb, 0x20 << 10 | 3)
    software.memory.write(0x20000, b"\x7f" * 16)
    software.write(REGS.cqcsr, 3)
    software.write(REGS.cqt, 1)


def test_illegal_command_stops_the_queue_until_software_clears_the_bit():
    software = Software()
    illegal(software)
    assert software.read(REGS.cqcsr) >> 10 & 1
    assert software.read(REGS.cqh) == 0
    software.memory.write(0x20000, (2).to_bytes(16, "little"))  # IOFENCE.C
    software.write(REGS.cqcsr, 3 | 1 << 10)
    assert software.read(REGS.cqh) == 1
    assert not software.read(REGS.cqcsr) >> 10 & 1


def test_wire_is_raised_and_dropped():
    software = Software()
    software.write(REGS.fctl, 2)
    software.write(REGS.icvec, 0x4321)
    illegal(software)
    assert software.wires == [(1, True)]
    assert software.read(REGS.ipsr) == 1
    software.write(REGS.cqcsr, 3 | 1 << 10)  # cleared, but the command is illegal still
    software.write(REGS.ipsr, 1)
    assert software.wires == [(1, True), (1, False), (1, True)]
    software.memory.write(0x20000, (2).to_bytes(16, "little"))
    software.write(REGS.cqcsr, 3 | 1 << 10)
    software.write(REGS.ipsr, 1)
    assert software.wires[-1] == (1, False)
    assert software.read(REGS.ipsr) == 0


def test_message_is_written_once_and_waits_for_its_mask():
    software = Software()
    software.write(REGS.icvec, 0x2)
    software.write(REGS.msi_addr, 0x8000, 2)
    software.write(REGS.msi_data, 0x1234_5678, 2)
    software.write(REGS.msi_vec_ctl, 1, 2)
    illegal(software)
    assert software.read(REGS.ipsr) == 1
    assert software.memory.read(0x8000, 4) == bytes(4)
    software.write(REGS.msi_vec_ctl, 0, 2)
    assert software.memory.read(0x8000, 4) == bytes.fromhex("78563412")


def test_message_that_cannot_be_written_is_a_fault_of_its_own():
    software = Software()
    software.write(REGS.fqb, 0x40 << 10 | 3)
    software.write(REGS.fqcsr, 1)
    software.write(REGS.msi_addr, 1 << 40, 0)
    illegal(software)
    assert software.read(REGS.fqt) == 1
    record = software.memory.read(0x40000, 32)
    assert int.from_bytes(record[:8], "little") == 273
    assert int.from_bytes(record[16:24], "little") == 1 << 40


# Queues: full, out of memory, resized, and their interrupts.


def faulty(software, times=1):
    """The mode is off: every request is a fault."""
    for number in range(times):
        with pytest.raises(Fault):
            software.iommu.translate(Request(number, None, number << 12))


def queue(software, base=0x40, *, csr=3, log2=1):
    software.write(REGS.fqb, base << 10 | log2)
    software.write(REGS.fqcsr, csr)


def test_full_fault_queue_drops_sets_overflow_and_interrupts():
    software = Software()
    software.write(REGS.fctl, 2)
    software.write(REGS.icvec, 0x10)
    queue(software)
    faulty(software)
    assert software.wires == [(1, True)]
    assert software.read(REGS.ipsr) == 2
    software.write(REGS.ipsr, 2)
    assert software.read(REGS.ipsr) == 0
    faulty(software, 5)
    assert software.read(REGS.fqt) == 3
    assert software.read(REGS.fqcsr) == 3 | 1 << 9 | 1 << 16
    assert software.read(REGS.ipsr) == 2
    software.write(REGS.fqh, 3)  # room again, but the bit stops it
    faulty(software)
    assert software.read(REGS.fqt) == 3
    software.write(REGS.ipsr, 2)
    assert software.read(REGS.ipsr) == 2, "the condition is still there"
    software.write(REGS.fqcsr, 3 | 1 << 9)
    software.write(REGS.ipsr, 2)
    assert software.read(REGS.ipsr) == 0
    faulty(software)
    assert software.read(REGS.fqt) == 0
    assert software.read(REGS.ipsr) == 2
    assert software.memory.read(0x40000 + 3 * 32, 2) == (256).to_bytes(2, "little")


def test_fault_queue_without_memory_sets_its_bit_and_stops():
    software = Software()
    queue(software, 1 << 30)
    faulty(software)
    assert software.read(REGS.fqcsr) == 3 | 1 << 8 | 1 << 16
    assert (software.read(REGS.fqt), software.read(REGS.ipsr)) == (0, 2)
    software.write(REGS.fqcsr, 0)
    queue(software)
    assert software.read(REGS.fqcsr) == 3 | 1 << 16
    faulty(software)
    assert software.read(REGS.fqt) == 1


def test_fault_queue_that_is_off_keeps_nothing():
    software = Software()
    faulty(software)
    queue(software, csr=0)
    faulty(software)
    assert (software.read(REGS.fqt), software.read(REGS.ipsr)) == (0, 0)


def test_queue_that_becomes_smaller_takes_high_bits_of_the_index():
    software = Software()
    for base, index in ((REGS.cqb, REGS.cqt), (REGS.fqb, REGS.fqh), (REGS.pqb, REGS.pqh)):
        software.write(base, 0x20 << 10 | 5)
        software.write(index, 0x35)
        software.write(base, 0x20 << 10 | 1)
        assert software.read(index) == 1


def test_queue_has_a_largest_size():
    software = Software()
    for register in (REGS.cqb, REGS.fqb, REGS.pqb):
        software.write(register, 0x20 << 10 | 31)
        assert software.read(register) == 0x20 << 10 | 15


def test_command_queue_without_memory_stops_at_the_command():
    software = Software()
    software.write(REGS.cqb, 1 << 30 << 10 | 3)
    software.write(REGS.cqcsr, 3)
    software.write(REGS.cqt, 1)
    assert software.read(REGS.cqcsr) == 3 | 1 << 8 | 1 << 16
    assert (software.read(REGS.cqh), software.read(REGS.ipsr)) == (0, 1)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0),  # an opcode that is reserved
        (5, 0),
        (64, 0),  # a custom one
        (1 | 2 << 7, 0),  # IOTINVAL of no function
        (1 | 1 << 11, 0),  # reserved bits
        (1 | 1 << 35, 0),
        (1 | 1 << 60, 0),
        (1, 1),
        (1, 1 << 62),
        (1 | 1 << 7 | 1 << 32, 0),  # GVMA with a PSCID
        (2 | 1 << 7, 0),
        (2 | 1 << 11, 0),  # WSI without wires
        (2 | 1 << 14, 0),
        (2, 1 << 62),
        (3 | 2 << 7, 0),
        (3 | 1 << 10, 0),
        (3 | 1 << 12, 0),  # INVAL_DDT with a process id
        (3, 1),
        (3 | 1 << 7, 0),  # INVAL_PDT without a device
        (4 | 2 << 7, 0),
        (4 | 1 << 10, 0),
    ],
)
def test_command_that_is_not_defined_is_illegal(low, high):
    software = Software()
    software.write(REGS.cqb, 0x20 << 10 | 3)
    software.write(REGS.cqcsr, 3)
    software.memory.write(0x20000, low.to_bytes(8, "little") + high.to_bytes(8, "little"))
    software.write(REGS.cqt, 1)
    assert software.read(REGS.cqcsr) == 3 | 1 << 10 | 1 << 16
    assert (software.read(REGS.cqh), software.read(REGS.ipsr)) == (0, 1)


@pytest.mark.parametrize(
    ("lacking", "low", "high"),
    [
        ({"nl": 0}, 1 | 1 << 34, 0),
        ({"s": 0}, 1 | 1 << 10, 1 << 9),
        ({"ats": 0}, 4, 0),
        ({"pd20": 0}, 3 | 1 << 7 | 1 << 33 | 1 << 31, 0),
    ],
)
def test_command_that_is_not_supported_is_illegal(lacking, low, high):
    for fields, bit in ((lacking, 1 << 10), ({}, 0)):
        software = Software(**fields)
        software.write(REGS.cqb, 0x20 << 10 | 3)
        software.write(REGS.cqcsr, 1)
        software.memory.write(0x20000, low.to_bytes(8, "little") + high.to_bytes(8, "little"))
        software.write(REGS.cqt, 1)
        assert software.read(REGS.cqcsr) & 1 << 10 == bit


def test_finished_fence_interrupts_by_wire():
    software = Software()
    software.write(REGS.fctl, 2)
    software.write(REGS.cqb, 0x20 << 10 | 3)
    software.write(REGS.cqcsr, 3)
    software.memory.write(0x20000, (2 | 1 << 11).to_bytes(16, "little"))
    software.write(REGS.cqt, 1)
    assert software.read(REGS.cqcsr) == 3 | 1 << 11 | 1 << 16
    assert (software.read(REGS.cqh), software.read(REGS.ipsr)) == (1, 1)
    assert software.wires == [(0, True)]
    software.write(REGS.icvec, 7)
    assert software.wires[1:] == [(0, False), (7, True)]
    software.write(REGS.fctl, 0)
    assert software.wires[3:] == [(7, False)]


def test_invalidation_that_nobody_answers_times_out_at_the_fence():
    software = Software()
    software.write(REGS.cqb, 0x20 << 10 | 3)
    software.write(REGS.cqcsr, 3)
    software.memory.write(0x20000, (4).to_bytes(16, "little"))
    software.memory.write(0x20010, (3).to_bytes(16, "little"))
    software.memory.write(0x20020, (2).to_bytes(16, "little"))
    software.write(REGS.cqt, 3)
    assert software.read(REGS.cqcsr) == 3 | 1 << 9 | 1 << 16
    assert (software.read(REGS.cqh), software.read(REGS.ipsr)) == (2, 1)
    software.write(REGS.cqcsr, 3 | 1 << 9)
    assert software.read(REGS.cqh) == 3
    software.iommu.invalidated()  # nobody waits for it
    assert software.read(REGS.cqcsr) == 3 | 1 << 16


# Every register obeys the access that it is declared with.

EFFECTS = {"cqcsr", "fqcsr", "pqcsr", "ipsr", "fctl", "ddtp", "tr_req_ctl"}
SHRUNK = {"cqb", "fqb", "pqb", "cqt", "fqh", "pqh", "iohpmevt", "iohpmcycles", "iommu_qosid"}


@pytest.mark.parametrize("slot", slots(IommuRegisters), ids=str)
def test_register_keeps_what_its_fields_say(slot):
    software = Software()
    before = int.from_bytes(software.iommu.read_register(slot.offset, slot.length), "little")
    software.iommu.write_register(slot.offset, b"\xff" * slot.length)
    after = int.from_bytes(software.iommu.read_register(slot.offset, slot.length), "little")
    writable = access_mask(slot.word, Access.RW)
    if slot.name not in EFFECTS | SHRUNK:
        assert after == before & ~writable | writable
    else:
        allowed = writable | access_mask(slot.word, Access.RO)
        assert after & ~allowed == before & ~allowed


def test_gaps_read_zero():
    software = Software()
    taken = {
        at for slot in slots(IommuRegisters) for at in range(slot.offset, slot.offset + slot.length)
    }
    software.iommu.write_register(0, b"\xff" * 8)
    for at in range(0x1000):
        if at not in taken:
            software.iommu.write_register(at, b"\xff")
            assert software.iommu.read_register(at, 1) == b"\0"
