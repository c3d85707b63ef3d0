"""QEMU with nothing running in it: the test is its CPU, by the qtest protocol, and its operator."""

import subprocess
import time
from contextlib import contextmanager

from hostctl.qmp import Qmp
from hostctl.testing import qtest_machine
from hostctl.testing.qtest_machine import command
from images.sysroot import find_qemu
from tests.support.native import CONTROL, COUNTED, Guest
from tests.support.serving import LIMIT, short_folder

BARS = {0: 0xE000_0000, 1: 0xE010_0000, 2: 0xE020_0000, 4: 0xE800_0000}
"""Where BARs are put; the one that is memory has room for 128 MiB."""

COMMAND, BAR0, PIN, MASTER = 0x04, 0x10, 0x3D, 0x6
CAPABILITY = {"power": 0x01, "msi": 0x05, "express": 0x10, "msix": 0x11}

BRIDGE, ROUTES, LINE = 1, 0x60, 10
"""Slot of the ISA bridge, its registers that route INTA to INTD, and where we route them to.

Spec: Intel 82371SB (PIIX3), PIRQRC
"""

EJECT = 0xAE08
"""I/O port of the pc machine that ejects slots, a bit each.  Spec: QEMU, acpi_pci_hotplug.rst"""

LENT = (
    *("-m", "64M", "-object", "memory-backend-memfd,id=ram,size=64M,share=on"),
    *("-machine", "memory-backend=ram"),
)
"""Options for memory that the server may map."""
KEPT = ("-m", "64M")
"""Options for memory that the server must ask for."""


def qemu(*options):
    """A QEMU process with nobody to speak to it; its standard error is kept."""
    found = find_qemu()
    return subprocess.Popen(
        command(found, *options),
        env=found.env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class Machine(qtest_machine.Machine):
    """A VM without a CPU, with a monitor and interrupt lines.

    Attributes:
        qmp: its monitor.
        up: the line of PCI interrupts is up, once ``watch_line`` was called.
        raised: how often it went up.
    """

    def __init__(self, folder, *options):
        self.up, self.raised = False, 0
        monitor = folder / "qmp"
        super().__init__(
            find_qemu(), folder, "-qmp", f"unix:{monitor},server=on,wait=off", *options
        )
        try:
            self.qmp = Qmp(monitor, "QEMU")
        except BaseException:
            super().close()
            raise

    def heard(self):
        """An answer; what lines do in between is kept."""
        while (words := super().heard())[:1] == ["IRQ"]:
            _, way, number = words
            if int(number) == LINE:
                self.up = way == "raise"
                self.raised += self.up
        return words

    def watch_line(self):
        """Keep ``up`` and ``raised`` from now on."""
        self.tell("irq_intercept_in", "ioapic")
        self.reset()

    def reset(self):
        """Reset everything, and route interrupts as firmware does."""
        self.qmp.execute("system_reset")
        for pin in range(4):
            self.config(ROUTES + pin, LINE, length=1, slot=BRIDGE)

    def eventually(self, condition):
        """Let QEMU work until something has come true."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)
            self.read(0, 1)

    def close(self):
        self.qmp.close()
        super().close()


@contextmanager
def machine(*options):
    """A machine that is ended at the end, whatever happens."""
    with short_folder() as folder:
        made = Machine(folder, *options)
        try:
            yield made
        finally:
            made.close()


class Slot:
    """The function, with its BARs in place; ``function`` of ``Driver``."""

    def __init__(self, machine, bars=(0, 1, 2, 4)):
        self.machine = machine
        for bar in bars:
            self.put(BAR0 + 4 * bar, BARS[bar], 4)
        self.put(COMMAND, MASTER, 2)

    def get(self, at, length):
        """Read config space."""
        return self.machine.config(at, length=length)

    def put(self, at, value, length):
        """Write config space."""
        self.machine.config(at, value, length=length)

    def capability(self, name):
        """Where a capability is; 0 if there is none."""
        return self.machine.capability(CAPABILITY[name])

    def read(self, bar, offset, length):
        return self.machine.read(BARS[bar] + offset, length)

    def write(self, bar, offset, data):
        self.machine.write(BARS[bar] + offset, data)


class Driver(Guest):
    """A driver of the native device in the VM, which looks whether the device is ready."""

    pause = 0.01
    """Seconds between looks."""

    def __init__(self, machine, bars=(0, 1, 2, 4)):
        self.machine = machine
        self.slot = Slot(machine, bars)
        super().__init__(self.slot, machine)
        self.write(CONTROL, 1, 4)

    def run(self, name, flags=0, **values):
        """As for any driver, whatever was done before."""
        self.wanted = self.done() + 1
        return super().run(name, flags, **values)

    def done(self):
        """Commands that have ended since the reset, well or not."""
        return self.read(COUNTED) + self.read(COUNTED + 8)

    def work(self):
        end = time.monotonic() + LIMIT
        time.sleep(self.pause)
        while self.done() < self.wanted:
            assert time.monotonic() < end, "the command never ended"
            time.sleep(self.pause)
