"""Functions that come and go under QEMU, servers that die, and writes that nobody waits for."""

import json
import os
import signal
import struct
from collections import Counter

import pytest

from hostctl.testing.qtest_machine import function
from mdevemu.capture.pcapng import read
from tests.support.native import DATA, SCRATCH, descriptor
from tests.support.qtest import EJECT, KEPT, LENT, Driver, machine
from tests.support.serving import Serving, short_folder, until
from tests.support.vfio_user import NO_REPLY, WRITE, WRITE_MULTI
from tests.unit.capture.test_trace import recording

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

ACCELERATOR = """
[accelerator]
name = "test"
hbm = "16MiB"
[[engine]]
name = "all"
operations = ["nop", "copy", "crc32c"]
[[type]]
name = "msi"
hbm = "4MiB"
interrupts = "msi"
[[type]]
name = "plain"
"""

MESSAGE = 0x30_0000


@pytest.fixture
def serving():
    with short_folder() as folder:
        made = Serving(folder, text=ACCELERATOR)
        try:
            yield made
        finally:
            code, _, err = made.stop()
        assert (code, err) in ((0, ""), (-signal.SIGKILL, ""))


def send_messages(slot):
    """Switch MSI on, one vector, to ``MESSAGE``."""
    at = slot.capability("msi")
    slot.put(at + 4, MESSAGE, 4)
    slot.put(at + 8, 0, 4)
    slot.put(at + 12, 0x4D51, 2)
    slot.put(at + 2, slot.get(at + 2, 2) & ~0x70 | 1, 2)


def test_function_with_msi_is_plugged_used_and_unplugged_again_and_again(serving):
    control = serving.control()
    mdev = control("create-mdev", type="mdevemu-msi")

    def attached():
        return control("query-mdevs")[0]["attached"]

    with machine(*LENT) as vm:
        before = serving.descriptors()
        for _ in range(2):
            vm.qmp.execute("device_add", **function(mdev["socket"], id="red"))
            assert attached()
            driver = Driver(vm, bars=(0, 2, 4))
            assert not driver.slot.capability("msix")
            send_messages(driver.slot)
            driver.ram.write(MESSAGE, bytes(4))
            # The vector of queue 2 shares the only one that is allowed.
            queue = driver.queue(2, interrupt=True, vector=3)
            queue.submit(descriptor("copy", source=DATA, destination=DATA + 4096, length=4096))
            vm.eventually(lambda: vm.read(MESSAGE, 4) == b"\x51\x4d\0\0")
            assert queue.reap()[0].status == 0
            with vm.qmp.listening("DEVICE_DELETED") as deleted:
                vm.qmp.execute("device_del", id="red")
                vm.tell("outl", EJECT, 1 << 4)
                assert next(deleted)[1]["device"] == "red"
            until(lambda: not attached())
            until(lambda: serving.descriptors() == before)
        assert vm.qmp.execute("query-status")["running"]


def test_vm_survives_the_death_of_its_server(serving):
    control = serving.control()
    mdev = control("create-mdev", type="mdevemu-msi")
    with machine(*LENT, "-device", json.dumps(function(mdev["socket"]))) as vm:
        driver = Driver(vm, bars=(0, 2, 4))
        driver.write(SCRATCH, 5)
        assert driver.read(SCRATCH) == 5
        serving.process.kill()
        serving.process.wait()
        assert driver.read(SCRATCH) == 0xFFFF_FFFF_FFFF_FFFF
        driver.write(SCRATCH, 6)
        vm.reset()
        driver.ram.write(DATA, b"still here")
        assert driver.ram.read(DATA, 10) == b"still here"
        assert vm.qmp.execute("query-status")["running"]


def sent(file):
    """How many writes of 8 bytes to BAR0 went posted, plain and by several in a message."""
    found = Counter()
    for each in read(file):
        _, command, _, flags = struct.unpack_from("<HHII", each.data)
        if command == WRITE and struct.unpack_from("<QII", each.data, 16) == (SCRATCH, 0, 8):
            found["posted" if flags & NO_REPLY else "answered"] += each.to_server
        elif command == WRITE_MULTI:
            assert flags & NO_REPLY
            found["multi"] += struct.unpack_from("<Q", each.data, 16)[0]
    return found


def test_writes_that_nobody_waits_for_all_arrive_in_order(serving, tmp_path):
    """QEMU posts writes, queues what the socket does not take, and packs a long queue."""
    file, listen = tmp_path / "writes.pcapng", serving.folder / "proxy"
    mdev = serving.control()("create-mdev", type="mdevemu-plain")
    with recording(mdev["socket"], file, listen) as recorder:
        with machine(*KEPT, "-device", json.dumps(function(listen))) as vm:
            driver = Driver(vm, bars=(0, 1, 2))
            os.kill(recorder.pid, signal.SIGSTOP)
            try:
                for number in range(3000):
                    driver.write(SCRATCH, number)
            finally:
                os.kill(recorder.pid, signal.SIGCONT)
            assert driver.read(SCRATCH) == 2999
            assert driver.run("nop").status == 0
        assert recorder.wait(30) == 0
    found = sent(file)
    assert found["posted"] + found["multi"] == 3000
    assert found["answered"] == 0
    assert found["posted"] > 100
    assert found["multi"] > 1000
