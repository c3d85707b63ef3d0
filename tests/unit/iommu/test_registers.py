"""What software's accesses to the register page do."""

import pytest

from mdevemu.iommu import Iommu, capabilities_of
from mdevemu.iommu.registers import Interrupts, IommuRegisters
from mdevemu.memory import PhysicalMemory, Ram
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
    software = Software(ats=0)
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
