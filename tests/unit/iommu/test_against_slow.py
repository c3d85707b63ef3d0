"""Random machines: every answer, fault record and A or D bit is what the slow IOMMU says."""

import random
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.iommu import Fault, Iommu, Request
from mdevemu.iommu.caches import CacheSizes
from mdevemu.iommu.registers import IommuRegisters as Regs
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.trace import Trace
from mdevemu.units import Hpa
from tests.support.random_iommu import COMMANDS, FAULTS, FIRST, PAGE, PLACES, SECOND, SIZE, Tables
from tests.support.slow_iommu import Ask, Slow, f

ACCESS = {"r": 1, "w": 2, "x": 4}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
SEEDS = st.integers(0, 2**32)


class Machine:
    """The same tables for both IOMMUs, each with memory of its own."""

    def __init__(self, tables, sizes=None):
        self.chance = tables.chance
        self.tables = tables
        self.memory = PhysicalMemory()
        self.memory.add(Hpa(0), Ram(SIZE), SIZE)
        self.memory.write(0, tables.memory)
        self.copy = bytearray(tables.memory)
        sizes = sizes or CacheSizes()
        self.iommu = Iommu(self.memory, Trace(lambda: 0), capabilities=tables.can, sizes=sizes)
        for register, value in (
            (Regs.fctl, tables.fctl),
            (Regs.cqb, COMMANDS // PAGE << 10 | 7),
            (Regs.cqcsr, 1),
            (Regs.fqb, FAULTS // PAGE << 10 | 5),
            (Regs.fqcsr, 1),
            (Regs.ddtp, tables.ddtp),
        ):
            self.write(register, value)
        self.slow = Slow(int(tables.can), tables.fctl, tables.ddtp, self.load, self.store)
        self.order = "big" if tables.big else "little"
        self.tail = 0

    def load(self, at, size):
        if at + size > SIZE:
            raise LookupError(at)
        return self.copy[at : at + size]

    def store(self, at, data):
        self.load(at, len(data))
        self.copy[at : at + len(data)] = data

    def write(self, register, value):
        self.iommu.write_register(register.offset, value.to_bytes(register.length, "little"))

    def read(self, register):
        data = self.iommu.read_register(register.offset, register.length)
        return int.from_bytes(data, "little")

    def command(self, *words):
        """Queue commands of (low, high) doublewords, and see that each was executed."""
        for low, high in words:
            data = low.to_bytes(8, self.order) + high.to_bytes(8, self.order)
            self.memory.write(COMMANDS + self.tail * 16, data)
            self.tail = (self.tail + 1) % 256
        self.write(Regs.cqt, self.tail)
        assert self.read(Regs.cqh) == self.tail

    def flush(self):
        """Every cache is empty: INVAL_DDT, VMA of the host, GVMA of every guest; a fence."""
        self.command((3, 0), (1, 0), (1 | 1 << 7, 0), (2, 0))

    def change(self):
        """The processor stores one entry of a page table, as it might have been from the start."""
        chance, tables = self.chance, self.tables
        pools = chance.choice((FIRST, SECOND))
        level = chance.choice(sorted(pools))
        page = chance.choice(pools[level])
        at = page * PAGE + chance.choice(PLACES[1:]) * 8
        tables.put(at, tables.entry(level, pools))
        self.memory.write(at, tables.memory[at : at + 8])
        self.copy[at : at + 8] = tables.memory[at : at + 8]

    def forget(self):
        """Invalidate both stages of everybody: no directory led through what changed."""
        self.command((1, 0))
        for gscid in self.tables.guests:
            self.command((1 | gscid << 44 | 1 << 33, 0), (1 | 1 << 7 | gscid << 44 | 1 << 33, 0))

    def fault(self):
        """The record in the fault queue, as the slow one gives it, or None."""
        head, tail = self.read(Regs.fqh), self.read(Regs.fqt)
        if head == tail:
            return None
        data = self.memory.read(FAULTS + head * 32, 32)
        self.write(Regs.fqh, (head + 1) % 64)
        assert self.read(Regs.fqh) == tail, "more than one record"
        word, _, iotval, iotval2 = (
            int.from_bytes(data[at : at + 8], self.order) for at in (0, 8, 16, 24)
        )
        fields = ((11, 0), (63, 40), (32, 32), (31, 12), (33, 33), (39, 34))
        return *(f(word, high, low) for high, low in fields), iotval, iotval2

    def ask(self, devices):
        """A random request."""
        chance = self.chance
        device = chance.choice(devices) if chance.random() < 0.97 else chance.getrandbits(24)
        return Ask(
            did=device,
            pid=self.tables.process_id(device),
            iova=self.tables.address(),
            op=chance.choice("rrrwwwx"),
            priv=chance.random() < 0.15,
            translated=chance.random() < 0.05,
        )

    def answer(self, ask):
        """Ours: (address, memory type), or (None, fault record), by any of three ways."""
        plain = not ask.priv and not ask.translated
        try:
            if plain and self.chance.random() < 0.6:
                requester = self.iommu.requester(ask.did, ask.pid)
                if self.chance.random() < 0.5:
                    return requester.translate(ask.iova, ACCESS[ask.op]), None
                return requester.translate_many([ask.iova] * 2, ACCESS[ask.op])[1], None
            request = Request(ask.did, ask.pid, ask.iova, ACCESS[ask.op], ask.priv, ask.translated)
            line = self.iommu.translate(request)
        except Fault:
            return None, self.fault()
        assert line.low <= ask.iova < line.high
        return ask.iova + line.delta, line.pbmt

    def compare(self, ask):
        """Both answer; whether it was a success."""
        expected = self.slow.answer(ask)
        got = self.answer(ask)
        if got[0] is None or got[1] is not None:
            assert got == expected, ask
        else:
            assert got[0] == expected[0], ask
        tables = self.memory.read(0, COMMANDS)
        if tables != self.copy[:COMMANDS]:
            at = next(n for n in range(0, COMMANDS, 8) if tables[n : n + 8] != self.copy[n : n + 8])
            raise AssertionError((ask, hex(at), tables[at : at + 8], self.copy[at : at + 8]))
        return expected[0] is not None


@given(seed=SEEDS)
@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
def test_answers_without_caches_are_those_of_the_slow_iommu(seed):
    machine = Machine(Tables(random.Random(seed), steady=False))
    for _ in range(25):
        machine.compare(machine.ask(machine.tables.devices))
        machine.flush()


SIZES = st.builds(
    CacheSizes,
    pages=st.just(0),
    spaces=st.integers(1, 4),
    lines=st.sampled_from((1, 3, 1000)),
    devices=st.integers(1, 3),
    processes=st.integers(1, 4),
)


@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=200, deadline=None, suppress_health_check=QUIET)
def test_answers_with_caches_are_those_of_the_slow_iommu(seed, sizes):
    chance = random.Random(seed)
    tables = Tables(chance, steady=True)
    machine = Machine(tables, sizes)
    asked = [machine.ask(tables.devices[:4]) for _ in range(12)]
    for _ in range(60):
        ask = chance.choice(asked)
        again = replace(ask, op=chance.choice("rrwx"), iova=ask.iova ^ chance.randrange(PAGE))
        machine.compare(chance.choice((ask, again)))
        if chance.random() < 0.1:
            machine.change()
            machine.forget()


@given(seed=SEEDS)
@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
def test_debug_requests_are_answered_as_the_slow_iommu_does(seed):
    machine = Machine(Tables(random.Random(seed), steady=False))
    for _ in range(15):
        ask = machine.ask(machine.tables.devices)
        ask = replace(ask, iova=ask.iova & -PAGE, translated=False)
        expected = machine.slow.answer(ask)
        control = ask.did << 40 | 1 | ask.priv << 1 | (ask.op == "x") << 2 | (ask.op != "w") << 3
        if ask.pid is not None:
            control |= 1 << 32 | ask.pid << 12
        machine.write(Regs.tr_req_iova, ask.iova)
        machine.write(Regs.tr_req_ctl, control)
        assert machine.read(Regs.tr_req_ctl) & 1 == 0
        response = machine.read(Regs.tr_response)
        if expected[0] is None or expected[0] >> 56:
            assert response & 1, ask
            assert machine.fault() == expected[1] or expected[0], ask
        else:
            assert (response & 1, f(response, 8, 7)) == (0, expected[1]), ask
            page, size = f(response, 53, 10), 1
            if f(response, 9, 9):
                size = (page ^ page + 1) + 1
            assert (page & -size) + (ask.iova >> 12) % size == expected[0] >> 12, ask
        machine.flush()
