"""A driver of the native device, in a guest: it has registers and memory, and knows docs/native.md.

Numbers are written out here, not taken from the code under test.
"""

from dataclasses import dataclass
from struct import Struct

from tests.support.bench import Bench, Ram

DESCRIPTOR = Struct("<BBHIQQQIIQQQ")
COMPLETION = Struct("<QQQHHHH")
AES_GCM = Struct("<II12sI32sQ")

OPERATIONS = ["nop", "copy", "fill", "compare", "crc32c", "sha256", "deflate", "inflate"]
OPERATIONS += ["aes_gcm_encrypt", "aes_gcm_decrypt"]
CODE = {name: code for code, name in enumerate([*OPERATIONS, "chain"])}
"""Chains are of these operations, and no work of an engine."""

SUCCESS, UNKNOWN_OPERATION, INVALID_FIELD, LENGTH, READ_FAULT, WRITE_FAULT = range(6)
HBM_RANGE, MISMATCH, CAPACITY, CORRUPT, AUTHENTICATION = range(6, 11)
REJECTED, ABORTED, UNLINKED, HBM_UNMAPPED = range(11, 15)
NO_STAGE = 0xFFFF_FFFF
SOURCE_HBM, DESTINATION_HBM, OPERAND_HBM, NO_INTERRUPT = 1, 2, 4, 8

NONE, RING_READ, COMPLETION_WRITE, DOORBELL_RANGE = range(4)
QUEUE_CONFIG, SHADOW_ACCESS, QUEUE_DISABLED = range(4, 7)
DISABLED, RUNNING, STALLED, FAILED = range(4)
"""States of a queue."""

READ_PAGE_FAULT, WRITE_PAGE_FAULT = 13, 15
"""Spec: RISC-V Privileged, Table of causes."""

CAPABILITIES, OPERATION_BITS, HBM_SIZE, CONTROL, STATUS = 0x08, 0x10, 0x18, 0x20, 0x24
SCRATCH, INTERRUPT_STATUS, FAULT_STATUS = 0x28, 0x30, 0x40
COUNTED = 0x1000
FUNCTION_SET, EVENT_STATUS = 0x38, 0x3C
QUEUES, STRIDE = 0x4000, 0x40
SQ_BASE, CQ_BASE, SHADOW, SIZE, QUEUE_CONTROL, QUEUE_STATUS, SQ_HEAD, CQ_TAIL = (
    0x00,
    0x08,
    0x10,
    0x18,
    0x1C,
    0x20,
    0x24,
    0x28,
)
COUNTERS = ["completed", "failed", "bytes_read", "bytes_written", "interrupts", "doorbells"]
COUNTERS += ["faults", "busy_ns", "hbm_bytes", "weight"]
ENABLE, EVENT_INDEX, INTERRUPT = 1, 2, 4
DATA = 0x20_0000
"""Where queues end and data begins, in a guest's memory."""


@dataclass(frozen=True)
class Done:
    """A completion record."""

    cookie: int
    result: int
    address: int
    index: int
    cause: int
    status: int
    phase: int


@dataclass(frozen=True)
class FaultRecord:
    """The device's fault registers."""

    valid: bool
    overflow: bool
    code: int
    queue: int
    cause: int
    address: int
    index: int


def descriptor(name, flags=0, **values):
    """One command, as bytes; what is not given is zero."""
    fields = ["reserved0", "length", "source", "destination", "operand", "capacity"]
    fields += ["pasid", "cookie", "reserved2", "reserved3"]
    assert set(values) <= set(fields)
    code = CODE[name] if isinstance(name, str) else name
    return DESCRIPTOR.pack(code, flags, *(values.get(field, 0) for field in fields))


class Guest:
    """A driver and its memory, in front of anything with ``read`` and ``write`` of regions."""

    def __init__(self, function, ram):
        self.function = function
        self.ram = ram

    def work(self):
        """Let the device finish what it was given."""
        raise NotImplementedError

    def close(self):
        self.ram.close()

    def read(self, offset, length=8, bar=0):
        return int.from_bytes(self.function.read(bar, offset, length), "little")

    def write(self, offset, value, length=8, bar=0):
        self.function.write(bar, offset, value.to_bytes(length, "little"))

    def counters(self):
        """The monitoring page."""
        return {name: self.read(COUNTED + 8 * n) for n, name in enumerate(COUNTERS)}

    def fault(self):
        """The fault record."""
        status = self.read(FAULT_STATUS, 4)
        return FaultRecord(
            valid=bool(status & 1),
            overflow=bool(status & 2),
            code=status >> 8 & 0xFF,
            queue=status >> 16,
            cause=self.read(0x44, 4),
            address=self.read(0x48),
            index=self.read(0x50),
        )

    def clear_fault(self):
        self.write(FAULT_STATUS, 3, 4)

    def queue(self, number=0, **wanted):
        """A queue that is enabled."""
        queue = Queue(self, number, **wanted)
        queue.enable()
        return queue

    def run(self, name, flags=0, **values):
        """Do one command on a queue of its own making."""
        queue = self.queue(3)
        queue.submit(descriptor(name, flags, **values))
        self.work()
        (done,) = queue.reap()
        queue.disable()
        return done


class Driver(Guest):
    """The guest of an mdev of a bench; all of its memory is mapped from Iova 0 on."""

    def __init__(self, bench=None, kind="native", size=0x40_0000, start=True, **wanted):
        self.bench = bench or Bench()
        self.mdev = self.bench.mdev(kind, **wanted)
        super().__init__(self.mdev.function, Ram(size))
        self.bench.lend(self.mdev, self.ram)
        if start:
            self.write(CONTROL, 1, 4)

    def work(self):
        self.bench.work()


class Queue:
    """A queue pair: the driver's side of both rings, of up to 1024 entries."""

    def __init__(self, driver, number=0, log2=4, interrupt=False, vector=0, event_index=False):
        self.driver, self.ram, self.number = driver, driver.ram, number
        self.log2, self.entries = log2, 1 << log2
        self.sq = number * 0x2_0000
        self.cq, self.shadow = self.sq + 0x1_0000, self.sq + 0x1_F000
        self.control = ENABLE | interrupt * INTERRUPT | event_index * EVENT_INDEX | vector << 16
        self.event_index = event_index
        self.start()

    def start(self):
        """Both rings empty."""
        self.tail = self.head = 0
        self.ram.write(self.cq, bytes(32 * self.entries))
        self.ram.write(self.shadow, bytes(16))

    def enable(self):
        self.put(SQ_BASE, self.sq, 8)
        self.put(CQ_BASE, self.cq, 8)
        self.put(SHADOW, self.shadow, 8)
        self.put(SIZE, self.log2)
        self.put(QUEUE_CONTROL, self.control)

    def disable(self):
        self.put(QUEUE_CONTROL, 0)

    def get(self, offset):
        return self.driver.read(QUEUES + self.number * STRIDE + offset, 4)

    def put(self, offset, value, length=4):
        self.driver.write(QUEUES + self.number * STRIDE + offset, value, length)

    @property
    def state(self):
        return self.get(QUEUE_STATUS) & 7

    @property
    def fault_code(self):
        return self.get(QUEUE_STATUS) >> 8 & 0xFF

    def doorbell(self, tail):
        self.driver.write(self.number * 0x1000, tail & 0xFFFF_FFFF, 4, bar=2)

    def took(self, head):
        """The doorbell that says what was taken."""
        self.driver.write(self.number * 0x1000 + 4, head & 0xFFFF_FFFF, 4, bar=2)

    def write(self, *descriptors):
        """Put descriptors into the ring, and tell nobody."""
        for each in descriptors:
            self.ram.write(self.sq + self.tail % self.entries * 64, each)
            self.tail = self.tail + 1 & 0xFFFF_FFFF

    def submit(self, *descriptors):
        """Write descriptors and ring if it is needed; True if it was."""
        old = self.tail
        self.write(*descriptors)
        if self.event_index:
            self.ram.write(self.shadow, self.tail.to_bytes(4, "little"))
            event = int.from_bytes(self.ram.read(self.shadow + 4, 4), "little")
            if (self.tail - event - 1) & 0xFFFF_FFFF >= (self.tail - old) & 0xFFFF_FFFF:
                return False
        self.doorbell(self.tail)
        return True

    def peek(self):
        """The next completion, or None; it stays where it is."""
        at = self.cq + self.head % self.entries * 32
        done = Done(*COMPLETION.unpack(self.ram.read(at, 32)))
        expected = 1 - (self.head // self.entries & 1)
        return done if done.phase == expected else None

    def reap(self, tell=True):
        """Take every completion there is, and ``tell``: in the shadow area if there is one."""
        found = []
        while len(found) < self.entries and (done := self.peek()):
            found.append(done)
            self.head = self.head + 1 & 0xFFFF_FFFF
        if tell and found:
            if self.event_index:
                self.ram.write(self.shadow + 8, self.head.to_bytes(4, "little"))
            else:
                self.took(self.head)
        return found
