"""Adder: adds a constant to u32 numbers in guest memory.  Copy this file.

The driver fills a ring with Add commands, points ring_base and ring_size at it,
sets control.enable, and writes the new tail to doorbell.  Every finished command
raises interrupt 0.
"""

from collections.abc import Iterable

from mdevemu.accel import Identity, Personality, Reach, Ring, RingState, Saved, Work, Writing
from mdevemu.errors import CommandFault, GuestFault
from mdevemu.layout import Access, Struct, Word, bit, bits, u32, u64
from mdevemu.registers import Reg, RegisterMap
from mdevemu.units import Iova

MAX_NUMBERS = 1024
MAX_ENTRIES = 1 << 15


class Control(Word, width=32):
    """Switches the device on."""

    enable = bit(0)


class Status(Word, width=32):
    """What went on since the driver last looked."""

    ready = bit(0, Access.RO, reset=True)
    fault = bit(1, Access.W1C)
    done = bits(31, 16, Access.RO)


class RingBase(Word, width=64):
    """Iova of the first command."""

    address = bits(63, 0)


class RingSize(Word, width=32):
    """The ring has room for 2**log2_entries commands."""

    log2_entries = bits(3, 0)


class Doorbell(Word, width=32):
    """New tail: how many commands were ever put into the ring, modulo 2**32."""

    tail = bits(31, 0, Access.WO)


class AdderRegs(RegisterMap, size=0x1000):
    """BAR0."""

    control = Reg(0x00, Control)
    status = Reg(0x04, Status)
    ring_base = Reg(0x08, RingBase)
    ring_size = Reg(0x10, RingSize)
    doorbell = Reg(0x14, Doorbell)


class Add(Struct):
    """Add ``amount`` to each of ``count`` u32 at ``address``, modulo 2**32."""

    address: u64
    count: u32
    amount: u32


class Adder(Personality[AdderRegs]):
    """Executes Add commands in ring order."""

    identity = Identity(vendor=0x1234, device=0xADD0, class_code=0x120000)
    registers = AdderRegs
    movable = True

    def start(self) -> None:
        self.ring: Ring[Add] | None = None
        self.queue = self.lane()
        self.memory = Reach(self.port, self.queue)

    @AdderRegs.control.written
    def _switch(self, control: Control) -> None:
        base, entries = Iova(self.regs.ring_base.address), 1 << self.regs.ring_size.log2_entries
        self.queue.cancel()
        self.ring = Ring(self.memory, base, entries, Add) if control.enable else None

    @AdderRegs.doorbell.written
    def _announce(self, doorbell: Doorbell) -> None:
        if self.ring is None:
            raise CommandFault(0, "doorbell while disabled")
        self.ring.announce(doorbell.tail)
        self.queue.submit(self._run(self.ring))

    def _run(self, ring: Ring[Add]) -> Work:
        while not ring.empty:
            popped = yield from ring.pop()
            self.commence(self.queue)
            yield from self._add(popped.command)
            popped.settle()
            for _ in range((yield from self.conclude(self.queue))):
                self.regs.status.done += 1
                self.interrupt(0)
            yield self.queue.between(4 * popped.command.count)

    def _add(self, command: Add) -> Writing:
        if command.count > MAX_NUMBERS:
            raise CommandFault(0, f"{command.count} numbers, at most {MAX_NUMBERS}")
        data = yield from self.memory.read(Iova(command.address), 4 * command.count)
        sums = [(number + command.amount) % 2**32 for number in memoryview(data).cast("I")]
        data = b"".join(each.to_bytes(4, "little") for each in sums)
        yield from self.memory.write(Iova(command.address), data)

    def save(self) -> Iterable[Struct]:
        return (self.ring.state,) if self.ring else ()

    def load(self, saved: Saved) -> None:
        if saved.left:
            self.ring = Ring.restored(self.memory, saved.take(RingState), Add, MAX_ENTRIES)

    def resume(self) -> None:
        if self.ring is not None:
            self.queue.submit(self._run(self.ring))

    def fault(self, fault: GuestFault) -> None:
        self.ring = None
        self.queue.cancel()
        self.regs.status.fault = True
