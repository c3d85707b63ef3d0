"""Any table, register write, command or request: no exception, no endless walk, no way out.

A way out would be an answer that the tables do not give; the slow IOMMU tells what they give.
"""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.iommu import Fault, Iommu, Request
from mdevemu.iommu.ats import PageRequest
from mdevemu.iommu.registers import IommuRegisters
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.registers import slots
from mdevemu.trace import Trace
from mdevemu.units import Hpa
from tests.support.random_iommu import COMMANDS, FAULTS, PAGE, SIZE, Tables
from tests.support.slow_iommu import Ask, Slow

SLOTS = slots(IommuRegisters)
MOST_READS = 3 + 3 * 6 + 6 * 6 + 5 * 2  # DDT, PDT and first stage, each through five levels
OPS = {1: "r", 2: "w", 4: "x"}


class Counted(PhysicalMemory):
    """Memory that knows how often it was read."""

    reads = 0

    def read(self, at, length):
        self.reads += 1
        return super().read(at, length)

    def read_u64(self, at):
        self.reads += 1
        return super().read_u64(at)


class Fuzzed:
    """An IOMMU under fire."""

    def __init__(self, chance):
        self.chance = chance
        self.tables = Tables(chance, steady=False)
        self.memory = Counted()
        self.memory.add(Hpa(0), Ram(SIZE), SIZE)
        self.memory.write(0, self.tables.memory)
        self.now = 0
        self.iommu = Iommu(
            self.memory, Trace(lambda: self.now), capabilities=self.tables.can, fabric=self
        )
        self.iommu.interrupts.wire = lambda vector, level: None
        for offset, value in (
            (8, self.tables.fctl),
            (16, self.tables.ddtp),
            (24, COMMANDS // PAGE << 10 | 7),
            (72, 3),
            (40, FAULTS // PAGE << 10 | 5),
            (76, 3),
        ):
            self.iommu.write_register(offset, value.to_bytes(8 if offset < 72 else 4, "little"))

    def invalidate(self, message):
        answer = self.chance.random()
        if answer < 0.3:
            self.iommu.invalidated(timeout=answer < 0.1)
        return answer < 0.8

    def respond(self, message):
        pass

    # What software does.

    def write_register(self):
        chance = self.chance
        slot = chance.choice(SLOTS) if chance.random() < 0.5 else chance.choice(SLOTS[:16])
        length = chance.choice((1, 2, 4, 8, slot.length))
        offset = slot.offset + chance.choice((0, 0, 0, 1, 4))
        value = chance.choice((0, 1, 3, 1 << chance.randrange(64), chance.getrandbits(64)))
        if chance.random() < 0.5:
            value = value & ~(0xFFFF << 10) | chance.randrange(96) << 10
        data = (value & (1 << 64) - 1).to_bytes(8, "little")[:length]
        self.iommu.write_register(offset, data)

    def read_register(self):
        at, length = self.chance.randrange(1100), self.chance.choice((1, 2, 4, 8, 64))
        assert len(self.iommu.read_register(at, length)) == length

    def command(self):
        chance = self.chance
        regs = self.iommu.regs
        words = bytearray()
        for _ in range(chance.randrange(1, 4)):
            low = chance.getrandbits(64) if chance.random() < 0.3 else chance.getrandbits(4) << 32
            low = low & ~0x3FF | chance.choice((1, 2, 3, 4, 1 | 1 << 7, 3 | 1 << 7, 4 | 1 << 7, 9))
            words += low.to_bytes(8, "little")
            words += chance.choice((0, chance.getrandbits(64))).to_bytes(8, "little")
        at = (regs.cqb.ppn << 12) + regs.cqt.index * 16
        if at + len(words) <= SIZE:
            self.memory.write(at, words)
        tail = regs.cqt.index + len(words) // 16
        self.iommu.write_register(36, (tail & 0xFFFF_FFFF).to_bytes(4, "little"))
        # Whatever stopped the queue is cleared again.
        self.iommu.write_register(72, (0xF03).to_bytes(4, "little"))

    def store(self):
        chance = self.chance
        at = chance.randrange(SIZE // 8) * 8
        self.memory.write(at, chance.randbytes(8))
        if chance.random() < 0.1:
            self.memory.write(at & -PAGE, chance.randbytes(PAGE))

    def wait(self):
        self.now += self.chance.getrandbits(self.chance.choice((4, 62)))

    # What devices do.

    def request(self):
        chance = self.chance
        tables = self.tables
        device = chance.choice(tables.devices)
        asks = chance.random() < 0.2
        return Request(
            device if chance.random() < 0.9 else chance.getrandbits(24),
            tables.process_id(device),
            tables.address(),
            chance.choice((1, 2) if asks else (1, 2, 4)),
            supervisor=chance.random() < 0.2,
            translated=not asks and chance.random() < 0.1,
            asks=asks,
            execute=chance.random() < 0.2,
        )

    def ask(self):
        request = self.request()
        self.memory.reads = 0
        try:
            if request.asks:
                self.iommu.ask(request)
            elif self.chance.random() < 0.5:
                line = self.iommu.translate(request)
                assert line.low <= request.iova < line.high
            else:
                requester = self.iommu.requester(request.device_id, request.process_id)
                requester.translate_many([request.iova], request.access)
        except Fault:
            pass
        assert self.memory.reads <= MOST_READS

    def message(self):
        chance = self.chance
        pasid = chance.choice((None, 3))
        payload = chance.getrandbits(64)
        self.iommu.page_request(PageRequest(chance.randrange(64), None, pasid, True, True, payload))

    def explain(self):
        """Without caches, the answer is what registers and memory say now."""
        request = self.request()
        if request.asks:
            return
        regs, before = self.iommu.regs, self.memory.read(0, SIZE)
        copy = bytearray(before)

        def load(at, size):
            if at + size > SIZE:
                raise LookupError
            return copy[at : at + size]

        def store(at, data):
            load(at, len(data))
            copy[at : at + len(data)] = data

        slow = Slow(int(self.tables.can), int(regs.fctl), int(regs.ddtp), load, store)
        op = OPS[request.access]
        asked = request.device_id, request.process_id, request.iova, op
        expected = slow.answer(Ask(*asked, request.supervisor, request.translated))
        _, line, fault = self.iommu.explain(request)
        assert self.memory.read(0, SIZE) == before
        if fault is None:
            assert (request.iova + line.delta, line.pbmt) == expected, request
        else:
            assert expected[0] is None, (request, fault.cause)
            if expected[1] is not None:
                assert (fault.cause, fault.iotval2) == (expected[1][0], expected[1][-1]), request


@given(seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_that_software_or_devices_do_gets_out_of_hand(seed):
    fuzzed = Fuzzed(random.Random(seed))
    software = [fuzzed.write_register, fuzzed.read_register, fuzzed.command, fuzzed.store]
    devices = [fuzzed.ask, fuzzed.ask, fuzzed.explain, fuzzed.explain, fuzzed.message]
    for _ in range(60):
        fuzzed.chance.choice([*software, *devices, *devices, fuzzed.wait])()
