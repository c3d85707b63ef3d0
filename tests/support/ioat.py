"""A driver of I/OAT that does what Linux's does, with numbers of its own."""

import struct

from tests.support.bench import CONFIG, Bench, Ram

DESCRIPTOR = struct.Struct("<IIQQQQQQQ")
INTERRUPT, COMPLETION, FENCE, NULL = 1 << 0, 1 << 3, 1 << 4, 1 << 5

CHANCNT, XFERCAP, INTRCTRL, ATTNSTATUS, CBVER, INTRDELAY = 0x00, 0x01, 0x03, 0x04, 0x08, 0x0C
CHANCTRL, CHANCMD, DMACOUNT, CHANSTS, CHAINADDR = 0x00, 0x04, 0x06, 0x08, 0x10
CHANCMP, CDAR, CHANERR, CHANERRMSK = 0x18, 0x20, 0x28, 0x2C
CHANERR_INT, CHANERRMSK_INT, DMAUNCERRSTS = 0x180, 0x184, 0x148

RESET, SUSPEND = 0x20, 0x04
ACTIVE, IDLE, SUSPENDED, HALTED, ARMED = range(5)
MASTER, PER_CHANNEL = 0x01, 0x08
RUN = 0x1D
"""Errors interrupt and are written back, any aborts; and the interrupt is armed again."""

NEXT_ADDRESS, CHAIN_ADDRESS, COMMAND = 0x4, 0x10, 0x20
READ_DATA, WRITE_DATA, CONTROL, LENGTH = 0x100, 0x200, 0x400, 0x800
COMPLETION_ADDRESS = 0x1000

RAM = 1 << 20
RING, SLOTS = 0x1000, 16
DONE = 0x2000
"""Where completions are written."""
DATA = 0x8000


class Driver:
    """One channel, its ring linked in advance, and the VMM's end of its interrupts."""

    def __init__(self, number=0, bench=None, mdev=None, ram=None):
        self.bench = bench or Bench()
        self.mdev = mdev or self.bench.mdev("ioat")
        self.ram = ram or Ram(RAM)
        self.function = self.mdev.function
        if ram is None:
            self.bench.lend(self.mdev, self.ram)
        self.number, self.base = number, 0x80 * (number + 1)
        self.ring = RING + number * SLOTS * 64
        self.done = DONE + number * 64
        self.head = self.count = 0
        self.vectors = []
        self.mdev.personality.interrupt = self.vectors.append

    def close(self):
        self.ram.close()

    # Registers.

    def get(self, offset, length):
        return int.from_bytes(self.function.read(0, offset, length), "little")

    def put(self, offset, value, length):
        self.function.write(0, offset, value.to_bytes(length, "little"))

    def channel(self, offset, length):
        return self.get(self.base + offset, length)

    def set_channel(self, offset, value, length):
        self.put(self.base + offset, value, length)

    def config(self, offset):
        return int.from_bytes(self.function.read(CONFIG, offset, 4), "little")

    def set_config(self, offset, value):
        self.function.write(CONFIG, offset, value.to_bytes(4, "little"))

    @property
    def state(self):
        return self.channel(CHANSTS, 8) & 7

    @property
    def errors(self):
        return self.channel(CHANERR, 4)

    @property
    def written_back(self):
        return int.from_bytes(self.ram.read(self.done, 8), "little")

    # What the driver does.

    def enable(self):
        """As after binding: interrupts on, channel reset and set up, no descriptor yet."""
        self.put(INTRCTRL, MASTER | PER_CHANNEL, 1)
        self.set_channel(CHANCMD, RESET, 1)
        self.set_channel(CHANCTRL, RUN, 2)
        self.restart()

    def restart(self):
        """A new chain from the slot at the head on."""
        self.set_channel(CHANCMP, self.done & 0xFFFF_FFFF, 4)
        self.set_channel(CHANCMP + 4, self.done >> 32, 4)
        self.set_channel(CHAINADDR, self.slot(self.head) & 0xFFFF_FFFF, 4)
        self.set_channel(CHAINADDR + 4, 0, 4)
        self.count = 0

    def slot(self, index):
        return self.ring + index % SLOTS * 64

    def descriptor(
        self, size=64, control=COMPLETION, source=DATA, destination=DATA + 0x1000, following=None
    ):
        """Put a descriptor into the next slot, and do not tell; its address."""
        at = self.slot(self.head)
        link = self.slot(self.head + 1) if following is None else following
        raw = DESCRIPTOR.pack(size, control, source, destination, link, 0, 0, 0, 0)
        self.ram.write(at, raw)
        self.head += 1
        self.count += 1
        return at

    def ring_doorbell(self):
        self.set_channel(DMACOUNT, self.count & 0xFFFF, 2)

    def submit(self, **fields):
        """One descriptor, worked on until nothing is left to do; its address."""
        at = self.descriptor(**fields)
        self.ring_doorbell()
        self.bench.work()
        return at

    def recover(self):
        """What Linux does when it finds the channel halted by an error; the errors."""
        errors, status = self.errors, self.config(CHANERR_INT)
        assert self.state not in (ACTIVE, IDLE), "a running channel would be suspended first"
        self.set_channel(CHANERR, errors, 4)
        self.set_config(CHANERR_INT, status)
        self.set_channel(CHANCMD, RESET, 1)
        assert not self.channel(CHANCMD, 1) & RESET
        self.restart()
        self.set_channel(CHANCTRL, RUN, 2)
        return errors
