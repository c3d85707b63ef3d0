"""The translation-request interface, beside what random machines ask of it."""

import pytest

from mdevemu.iommu import Access
from mdevemu.iommu.registers import IommuRegisters as Regs
from tests.unit.iommu.test_translation import (
    DDT,
    FAULTS,
    FIRST,
    PAGE_RW,
    A,
    D,
    Machine,
    R,
    U,
    V,
    W,
    X,
    entry,
    sv39,
)

PDT = 0x18000
GO, PRIV, EXE, NW, PV = 1, 2, 4, 8, 1 << 32
FAULT, S = 1, 1 << 9


@pytest.fixture
def machine():
    """Device 1: Sv39 by process 5; device 2: the same table, without a process id."""
    made = Machine()
    sv39(made, FIRST, {3: (0x66000, PAGE_RW), 4: (0x67000, V | R | U), 5: (0x68000, V | R | X | A)})
    made.put(FIRST + 0x4000 + 8, entry(0x4020_0000, PAGE_RW))
    made.put(FIRST + 0x5000 + 18 * 8, entry(0x9000_8000, PAGE_RW) | 1 << 63 | 1 << 61)
    made.put(PDT + 5 * 16, 1 | 2 | 9 << 12, 8 << 60 | FIRST >> 12)
    made.device(1, 1 | 1 << 5, 0, 0, 1 << 60 | PDT >> 12)
    made.device(2, 1 | 1 << 8, 0, 0, 8 << 60 | FIRST >> 12)
    return made


def ask(machine, iova, control, device=1, process=5):
    tag = PV | process << 12 if process is not None else 0
    machine.write(Regs.tr_req_iova, iova)
    machine.write(Regs.tr_req_ctl, control | GO | tag | device << 40)
    assert machine.read(Regs.tr_req_ctl) & GO == 0
    return machine.read(Regs.tr_response)


def test_page_is_answered_with_its_number(machine):
    assert ask(machine, 0x3FFF, NW) == 0x66 << 10
    assert ask(machine, 0x3000, 0) == 0x66 << 10
    assert machine.read(Regs.tr_req_iova) == 0x3000
    assert machine.read(Regs.fqt) == 0


def test_superpage_and_napot_tell_size_and_memory_type(machine):
    assert ask(machine, 0x21_2000, NW) == (0x4020_0000 >> 12 | 0xFF) << 10 | S
    assert ask(machine, 0x1_2000, NW) == (0x9000_0000 >> 12 | 0x7) << 10 | S | 1 << 7


@pytest.mark.parametrize(
    ("iova", "control", "cause", "kind"),
    [
        (0x9000, NW, 13, 2),
        (0x9000, 0, 15, 3),
        (0x9000, NW | EXE, 12, 1),
        (0x3000, NW | EXE, 12, 1),
        (0x4000, NW, 13, 2),
        (0x5000, NW, 13, 2),
        (0x5000, 0 | PRIV, 15, 3),
    ],
)
def test_fault_is_answered_and_recorded(machine, iova, control, cause, kind):
    assert ask(machine, iova, control) & FAULT
    header = machine.memory.read_u64(FAULTS)
    assert header & 0xFFF == cause
    assert header >> 34 & 0x3F == kind
    assert header >> 33 & 1 == bool(control & PRIV)
    assert (header >> 12 & 0xFFFFF, header >> 32 & 1, header >> 40) == (5, 1, 1)
    assert machine.memory.read_u64(FAULTS + 16) == iova
    assert machine.read(Regs.fqt) == 1


def test_privilege_is_asked_for_with_a_process_id_only(machine):
    assert ask(machine, 0x5000, NW | PRIV) == 0x68 << 10
    assert ask(machine, 0x5000, NW | EXE | PRIV) == 0x68 << 10
    assert ask(machine, 0x3000, NW | PRIV, device=2, process=None) == 0x66 << 10


def test_accessed_and_dirty_are_set(machine):
    place = FIRST + 0x5000 + 4 * 8
    machine.put(place, entry(0x67000, V | R | W | U))
    assert ask(machine, 0x4000, NW, device=2, process=None) == 0x67 << 10
    assert machine.memory.read_u64(place) & (A | D) == A
    assert ask(machine, 0x4000, 0, device=2, process=None) == 0x67 << 10
    assert machine.memory.read_u64(place) & (A | D) == A | D


def test_it_uses_and_fills_the_caches(machine):
    ask(machine, 0x3000, NW)
    machine.put(FIRST + 0x5000 + 3 * 8, 0)
    assert machine.to(0x3008, Access.READ, process_id=5) == 0x66008
    assert ask(machine, 0x3000, NW) == 0x66 << 10


def test_bare_answers_the_page_itself_if_there_can_be_one(machine):
    machine.write(Regs.ddtp, 0)
    machine.write(Regs.ddtp, 1)
    assert ask(machine, 0x1234_5000, 0, process=None) == 0x12345 << 10
    assert ask(machine, 1 << 57, 0, process=None) & FAULT
    assert machine.memory.read_u64(FAULTS) & 0xFFF == 7
    machine.write(Regs.ddtp, 0)
    machine.write(Regs.ddtp, DDT >> 12 << 10 | 2)
    assert ask(machine, 0x3000, NW) == 0x66 << 10


def test_nothing_is_asked_without_go(machine):
    machine.write(Regs.tr_req_iova, 0x9000)
    machine.write(Regs.tr_req_ctl, NW | PV | 5 << 12 | 1 << 40)
    assert machine.read(Regs.tr_response) == 0
    assert machine.read(Regs.fqt) == 0


def test_halves_can_be_written_high_first(machine):
    at = Regs.tr_req_ctl.offset
    control = NW | GO | PV | 5 << 12 | 1 << 40
    machine.write(Regs.tr_req_iova, 0x3000)
    machine.iommu.write_register(at + 4, (control >> 32).to_bytes(4, "little"))
    assert machine.read(Regs.tr_response) == 0
    machine.iommu.write_register(at, (control & 0xFFFF_FFFF).to_bytes(4, "little"))
    assert machine.read(Regs.tr_response) == 0x66 << 10


def test_response_cannot_be_written(machine):
    machine.write(Regs.tr_response, (1 << 64) - 1)
    assert machine.read(Regs.tr_response) == 0
