"""QEMU with nothing running in it: the test is its CPU, by the qtest protocol, and its operator.

Spec: QEMU, docs/devel/testing/qtest.rst and the comment on its protocol in system/qtest.c
"""

import socket
import subprocess
import time
from contextlib import contextmanager

from hostctl.qmp import Qmp
from images.sysroot import find_qemu
from tests.support.native import CONTROL, COUNTED, Guest
from tests.support.serving import LIMIT, short_folder

BARS = {0: 0xE000_0000, 1: 0xE010_0000, 2: 0xE020_0000, 4: 0xE800_0000}
"""Where BARs are put; the one that is memory has room for 128 MiB."""

COMMAND, BAR0, PIN, CAPABILITIES, MASTER = 0x04, 0x10, 0x3D, 0x34, 0x6
CAPABILITY = {"power": 0x01, "msi": 0x05, "express": 0x10, "msix": 0x11}

SLOT = 4
"""Where the function is on the first bus."""
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

READS = {1: "readb", 2: "readw", 4: "readl", 8: "readq"}
WRITES = {1: "writeb", 2: "writew", 4: "writel", 8: "writeq"}
INS = {1: "inb", 2: "inw", 4: "inl"}
OUTS = {1: "outb", 2: "outw", 4: "outl"}


def device(path, **properties):
    """What QEMU's ``-device`` and ``device_add`` want to know."""
    where = {"type": "unix", "path": str(path)}
    return {"driver": "vfio-user-pci", "socket": where, "addr": f"{SLOT:02x}.0", **properties}


def qemu(*options):
    """A QEMU process of the pc machine; its standard error is kept."""
    found = find_qemu()
    nothing = ("-nodefaults", "-no-user-config", "-display", "none", "-accel", "qtest")
    command = [*found.argv_prefix, *nothing, "-machine", "pc", *options]
    return subprocess.Popen(
        command, env=found.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


class Machine:
    """A VM without a CPU.

    Attributes:
        process: QEMU.
        qmp: its monitor.
        up: the line of PCI interrupts is up, once ``watch_line`` was called.
        raised: how often it went up.
    """

    def __init__(self, folder, *options):
        self.up, self.raised = False, 0
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "qtest"))
            listener.listen(1)
            listener.settimeout(LIMIT)
            self.process = qemu(
                *("-qtest", f"unix:{folder / 'qtest'}", "-qtest-log", "none"),
                *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off", *options),
            )
            try:
                self._socket, _ = listener.accept()
                self._socket.settimeout(LIMIT)
                self._answers = self._socket.makefile("r")
                self.qmp = Qmp(folder / "qmp", "QEMU")
            except BaseException:
                self.process.kill()
                print(self.process.communicate()[1])
                raise

    def tell(self, *words):
        """One qtest command; what it answers."""
        self._socket.sendall((" ".join(map(str, words)) + "\n").encode())
        while (answer := self._answers.readline().split())[:1] == ["IRQ"]:
            self._line(*answer[1:])
        assert answer[:1] == ["OK"], (words, answer)
        return answer[1:]

    def _line(self, way, number):
        if int(number) == LINE:
            self.up = way == "raise"
            self.raised += self.up

    def watch_line(self):
        """Keep ``up`` and ``raised`` from now on."""
        self.tell("irq_intercept_in", "ioapic")
        self.reset()

    def reset(self):
        """Reset everything, and route interrupts as firmware does."""
        self.qmp.execute("system_reset")
        for pin in range(4):
            self.config_out(BRIDGE, ROUTES + pin, LINE, 1)

    def config_in(self, slot, at, length):
        """Read config space of a slot of the first bus."""
        self.port_out(0xCF8, 1 << 31 | slot << 11 | at & ~3, 4)
        return self.port_in(0xCFC + at % 4, length)

    def config_out(self, slot, at, value, length):
        """Write config space of a slot of the first bus."""
        self.port_out(0xCF8, 1 << 31 | slot << 11 | at & ~3, 4)
        self.port_out(0xCFC + at % 4, value, length)

    def read(self, at, length):
        """One access to an address of 1, 2, 4 or 8 bytes."""
        return int(self.tell(READS[length], hex(at))[0], 16)

    def write(self, at, value, length):
        """One access to an address of 1, 2, 4 or 8 bytes."""
        self.tell(WRITES[length], hex(at), hex(value))

    def peek(self, at, length):
        """Bytes of memory."""
        return bytes.fromhex(self.tell("read", hex(at), hex(length))[0][2:])

    def poke(self, at, data):
        """Write bytes of memory."""
        self.tell("write", hex(at), hex(len(data)), "0x" + data.hex())

    def port_in(self, port, length):
        return int(self.tell(INS[length], hex(port))[0], 16)

    def port_out(self, port, value, length):
        self.tell(OUTS[length], hex(port), hex(value))

    def eventually(self, condition):
        """Let QEMU work until something has come true."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)
            self.peek(0, 1)

    def close(self):
        """End QEMU; what it wrote to standard error."""
        self._answers.close()
        self._socket.close()
        self.qmp.close()
        self.process.terminate()
        try:
            return self.process.communicate(timeout=LIMIT)[1]
        finally:
            self.process.kill()


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
    """The function in ``SLOT``, with its BARs in place; ``function`` of ``Driver``."""

    def __init__(self, machine, bars=(0, 1, 2, 4)):
        self.machine = machine
        for bar in bars:
            self.put(BAR0 + 4 * bar, BARS[bar], 4)
        self.put(COMMAND, MASTER, 2)

    def get(self, at, length):
        """Read config space."""
        return self.machine.config_in(SLOT, at, length)

    def put(self, at, value, length):
        """Write config space."""
        self.machine.config_out(SLOT, at, value, length)

    def capability(self, name):
        """Where a capability is; 0 if there is none."""
        at = self.get(CAPABILITIES, 1)
        while at and self.get(at, 1) != CAPABILITY[name]:
            at = self.get(at + 1, 1)
        return at

    def read(self, bar, offset, length):
        return self.machine.read(BARS[bar] + offset, length).to_bytes(length, "little")

    def write(self, bar, offset, data):
        self.machine.write(BARS[bar] + offset, int.from_bytes(data, "little"), len(data))


class Memory:
    """The VM's memory; ``ram`` of ``Driver``."""

    def __init__(self, machine):
        self._machine = machine

    def read(self, at, length):
        return self._machine.peek(at, length)

    def write(self, at, data):
        self._machine.poke(at, data)


class Driver(Guest):
    """A driver of the native device in the VM, which looks whether the device is ready."""

    pause = 0.01
    """Seconds between looks."""

    def __init__(self, machine, bars=(0, 1, 2, 4)):
        self.machine = machine
        self.slot = Slot(machine, bars)
        super().__init__(self.slot, Memory(machine))
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
