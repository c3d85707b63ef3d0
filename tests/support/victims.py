"""One command after the other, the same for every personality: what faults are injected into."""

import contextlib
import os
import struct

from mdevemu.errors import ConfigError
from mdevemu.faults import Faults
from mdevemu.fds import Fd
from mdevemu.layout import pack
from mdevemu.personalities.adder import Add, AdderRegs
from tests.support import ioat, native
from tests.support.bench import Bench, Ram

MSIX = 2


class Victim:
    """A driver of one mdev, with eventfds for its interrupts and faults to inject."""

    def __init__(self, bench, mdev):
        self.bench, self.mdev, self.function = bench, mdev, mdev.function
        self.faults = Faults(bench.parent)
        self.commands = {command.name: command.run for command in self.faults.commands()}
        self.eventfds = [
            Fd(os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(mdev.personality.vectors)
        ]
        self.function.assign(MSIX, 0, [Fd(os.dup(each.fileno())) for each in self.eventfds])

    def inject(self, kind, **options):
        return self.commands["inject-fault"](self.mdev.name, kind, **options)

    def clear(self, **which):
        return self.commands["clear-faults"](self.mdev.name, **which)

    def listed(self):
        return self.commands["query-injected-faults"](self.mdev.name)

    def refused(self, kind, **options):
        """The error, with nothing changed."""
        before = self.listed()
        with contextlib.suppress(ConfigError):
            self.inject(kind, **options)
            raise AssertionError(f"{kind} {options} was taken")
        assert self.listed() == before
        try:
            self.inject(kind, **options)
        except ConfigError as wrong:
            return str(wrong)

    def injected(self):
        """What the trace has of strikes: (kind, facts)."""
        events = [event for event in self.bench.trace.events if event.name == "fault.injected"]
        return [(event.facts["fault"], dict(event.facts)) for event in events]

    def strikes(self):
        """Kinds of the strikes in the trace."""
        return [kind for kind, _ in self.injected()]

    def interrupts(self):
        """How many came since the last look, over all vectors."""
        count = 0
        for each in self.eventfds:
            with contextlib.suppress(BlockingIOError):
                count += int.from_bytes(os.read(each.fileno(), 8), "little")
        return count

    def wait(self, microseconds):
        """Let time pass, and work be done."""
        self.bench.skip(1000 * microseconds)
        self.bench.work()

    def close(self):
        self.faults.forget(self.mdev)
        for mdev in list(self.bench.parent.mdevs.values()):
            self.bench.parent.remove(mdev)
        for each in self.eventfds:
            each.close()
        self.ram.close()


class Native(Victim):
    """Commands with an interrupt each on queue 0 of the native device."""

    kind = "native"
    error = "invalid-field"

    def __init__(self):
        driver = native.Driver()
        super().__init__(driver.bench, driver.mdev)
        self.driver, self.ram = driver, driver.ram
        self.restart()

    def restart(self):
        """Set the device up, as after a reset."""
        self.driver.write(native.CONTROL, 1, 4)
        self.queue = self.driver.queue(interrupt=True, vector=1)

    def submit(self, **fields):
        given = {"length": 4, "source": native.DATA, "destination": native.DATA + 64} | fields
        self.queue.submit(native.descriptor("copy", **given))
        self.bench.work()

    def completed(self):
        """How many completions came since the last look."""
        self.done = self.queue.reap()
        return len(self.done)

    def failed(self):
        """The last command failed."""
        return self.done[-1].status != native.SUCCESS

    def reset(self):
        self.function.reset()
        self.function.write(7, 4, b"\x06\x00")
        self.restart()


class Ioat(Victim):
    """Copies with an interrupt each on channel 0 of the I/OAT device."""

    kind = "ioat"
    error = "write-data"

    def __init__(self):
        driver = ioat.Driver()
        super().__init__(driver.bench, driver.mdev)
        driver.mdev.personality.interrupt = driver.function.interrupt
        self.driver, self.ram = driver, driver.ram
        driver.enable()

    def submit(self, **fields):
        self.driver.submit(control=ioat.COMPLETION | ioat.INTERRUPT, **fields)

    def completed(self):
        """1 if there is another last descriptor than at the last look."""
        before, self.last = getattr(self, "last", 0), self.driver.written_back
        self.driver.set_channel(ioat.CHANCTRL, ioat.RUN, 2)
        return int(self.last != before)

    def failed(self):
        return self.driver.state == ioat.HALTED

    def reset(self):
        self.function.reset()
        self.function.write(7, 4, b"\x06\x00")
        self.ram.write(self.driver.done, bytes(8))
        self.driver.enable()


class Adder(Victim):
    """Additions with an interrupt each on the adder."""

    kind = "adder"
    error = None

    def __init__(self):
        bench = Bench()
        super().__init__(bench, bench.mdev("adder"))
        self.ram = Ram()
        bench.lend(self.mdev, self.ram)
        self.restart()

    def put(self, register, value):
        self.function.write(0, register.offset, value.to_bytes(register.length, "little"))
        self.bench.work()

    def restart(self):
        self.tail = self.seen = 0
        self.put(AdderRegs.ring_base, 0x1000)
        self.put(AdderRegs.ring_size, 8)
        self.put(AdderRegs.control, 1)

    def submit(self):
        self.ram.write(0x1000 + 16 * self.tail, pack(Add(0x8000, 1, 1)))
        self.tail += 1
        self.put(AdderRegs.doorbell, self.tail)

    @property
    def status(self):
        place = AdderRegs.status
        return int.from_bytes(self.function.read(0, place.offset, place.length), "little")

    def completed(self):
        before, self.seen = self.seen, self.status >> 16
        return self.seen - before

    def failed(self):
        return bool(self.status & 2)

    def sum(self):
        return struct.unpack("<I", self.ram.read(0x8000, 4))[0]

    def reset(self):
        self.function.reset()
        self.function.write(7, 4, b"\x06\x00")
        self.restart()


ALL = (Native, Ioat, Adder)
