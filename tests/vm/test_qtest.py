"""QEMU itself in front of our server, with nothing running in the VM: the test is its CPU."""

import json
import subprocess
import time
from contextlib import contextmanager

import pytest

from images.sysroot import find_qemu
from mdevemu.capture.pcapng import read
from mdevemu.capture.replay import replay
from tests.support.native import CONTROL, DATA, READ_FAULT, Guest, descriptor
from tests.support.serving import Serving, short_folder
from tests.unit.capture.test_trace import recording

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

SLOT = 4 << 11
"""PCI address of the device on the first bus, as the configuration mechanism has it."""

BARS = {0: 0xE000_0000, 1: 0xE010_0000, 2: 0xE020_0000}
QUICK = 1.0
"""Seconds that nothing here may take; QEMU gives up after 5."""


class Machine:
    """A VM whose CPU is this test, by QEMU's qtest protocol; also a guest's registers and memory.

    ``function`` and ``ram`` of ``tests.support.native.Guest`` in one.
    """

    def __init__(self, socket, *options):
        qemu = find_qemu()
        device = {
            "driver": "vfio-user-pci",
            "addr": "04.0",
            "socket": {"type": "unix", "path": socket},
        }
        self.process = subprocess.Popen(
            [
                *qemu.argv_prefix,
                *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc"),
                *(
                    "-accel",
                    "qtest",
                    "-qtest",
                    "stdio",
                    "-qtest-log",
                    "/dev/null",
                    "-device",
                    json.dumps(device),
                    *options,
                ),
            ],
            env=qemu.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for bar, at in BARS.items():
            self.config(0x10 + 4 * bar, at)
        self.config(4, 0x6)

    def tell(self, *words):
        """One qtest command; what it answers."""
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        assert answer[:1] == ["OK"], (words, answer)
        return answer[1:]

    def config(self, at, value):
        self.tell("outl", 0xCF8, hex(1 << 31 | SLOT | at))
        self.tell("outl", 0xCFC, hex(value))

    def read(self, at, length, count=None):
        """Memory if there are two numbers, a register of a BAR if there are three."""
        if count is None:
            return bytes.fromhex(self.tell("read", hex(at), hex(length))[0][2:])
        [value] = self.tell({4: "readl", 8: "readq"}[count], hex(BARS[at] + length))
        return int(value, 16).to_bytes(count, "little")

    def write(self, at, data, value=None):
        if value is None:
            self.tell("write", hex(at), hex(len(data)), "0x" + data.hex())
        else:
            name = {4: "writel", 8: "writeq"}[len(value)]
            self.tell(name, hex(BARS[at] + data), hex(int.from_bytes(value, "little")))

    def close(self):
        self.process.terminate()
        self.process.communicate(timeout=30)


class Driver(Guest):
    """A driver in the VM, which looks whether the device is ready."""

    wanted = 1

    def work(self):
        end = time.monotonic() + 4 * QUICK
        before, self.wanted = self.wanted, self.wanted + 1
        # Long enough to find it done at the first look, which a paced replay does as well.
        time.sleep(QUICK / 2)
        while self.read(0x1000) < before:
            assert time.monotonic() < end, "the command never ended"
            time.sleep(QUICK / 10)


@contextmanager
def driver(*options):
    """A device in a VM, switched on."""
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            mdev = serving.control()("create-mdev", type="mdevemu-native")
            machine = Machine(mdev["socket"], *options)
            try:
                made = Driver(machine, machine)
                made.write(CONTROL, 1, 4)
                yield made
            finally:
                machine.close()
        finally:
            code, _, err = serving.stop()
        assert (code, err) == (0, "")


@pytest.mark.parametrize(
    "memory",
    [
        ("-m", "64M"),
        (
            *("-m", "64M", "-object", "memory-backend-memfd,id=ram,size=64M,share=on"),
            *("-machine", "pc,memory-backend=ram"),
        ),
    ],
    ids=["kept by QEMU", "lent"],
)
def test_commands_complete_in_any_kind_of_guest_memory(memory):
    with driver(*memory) as guest:
        text = bytes(range(256)) * 500
        guest.ram.write(DATA, text)
        queue = guest.queue(0)
        begun = time.monotonic()
        queue.submit(
            descriptor("copy", source=DATA, destination=DATA + 0x10_0000, length=len(text))
        )
        guest.read(0x28)
        assert time.monotonic() - begun < QUICK, "a guest's access waited for its own memory"
        guest.work()
        [done] = queue.reap()
        assert (done.status, done.result) == (0, len(text))
        assert guest.ram.read(DATA + 0x10_0000, len(text)) == text


def test_address_that_qemu_refuses_is_a_fault_of_the_command():
    with driver("-m", "64M") as guest:
        queue = guest.queue(0)
        queue.submit(descriptor("crc32c", source=1 << 40, length=8))
        guest.work()
        [done] = queue.reap()
        assert done.status == READ_FAULT


def test_recorded_conversation_with_qemu_gets_the_same_answers_of_a_fresh_device(tmp_path):
    uuid, file = "11111111-2222-4333-8444-555555555555", tmp_path / "qemu.pcapng"
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            control = serving.control()
            mdev = control("create-mdev", type="mdevemu-native", uuid=uuid)
            listen = folder / "proxy"
            with recording(mdev["socket"], file, listen) as process:
                machine = Machine(str(listen), "-m", "64M")
                try:
                    guest = Driver(machine, machine)
                    guest.write(CONTROL, 1, 4)
                    queue = guest.queue(0)
                    queue.submit(descriptor("sha256", source=DATA, length=5000, destination=DATA))
                    guest.work()
                    assert queue.reap()
                finally:
                    machine.close()
                assert process.wait(30) == 0
            control("remove-mdev", uuid=uuid, force=True)
            mdev = control("create-mdev", type="mdevemu-native", uuid=uuid)
            found = replay(read(file), mdev["socket"], 5.0, paced=True)
        finally:
            serving.stop()
    assert found.differences == []
    assert found.compared > 50
