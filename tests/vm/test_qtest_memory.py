"""Memory of a VM, lent or kept, as the device reaches it; and a conversation with QEMU replayed."""

import json
import time
from contextlib import contextmanager

import pytest

from hostctl.testing.qtest_machine import function
from mdevemu.capture.pcapng import read
from mdevemu.capture.replay import replay
from tests.support.native import DATA, READ_FAULT, descriptor
from tests.support.qtest import KEPT, LENT, Driver, machine
from tests.support.serving import Serving, short_folder
from tests.unit.capture.test_trace import recording

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

QUICK = 1.0
"""Seconds that nothing here may take; QEMU gives up after 5."""


@contextmanager
def driver(*options):
    """A device in a VM, switched on."""
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            mdev = serving.control()("create-mdev", type="mdevemu-native")
            with machine(*options, "-device", json.dumps(function(mdev["socket"]))) as vm:
                yield Driver(vm)
        finally:
            code, _, err = serving.stop()
        assert (code, err) == (0, "")


@pytest.fixture(scope="module", params=[KEPT, LENT], ids=["kept by QEMU", "lent"])
def guest(request):
    with driver(*request.param) as made:
        yield made


def test_commands_complete_in_any_kind_of_guest_memory(guest):
    text = bytes(range(256)) * 500
    guest.ram.write(DATA, text)
    guest.wanted = guest.done() + 1
    queue = guest.queue(0)
    begun = time.monotonic()
    queue.submit(descriptor("copy", source=DATA, destination=DATA + 0x10_0000, length=len(text)))
    guest.read(0x28)
    assert time.monotonic() - begun < QUICK, "a guest's access waited for its own memory"
    guest.work()
    [done] = queue.reap()
    assert (done.status, done.result) == (0, len(text))
    assert guest.ram.read(DATA + 0x10_0000, len(text)) == text


def test_address_that_is_no_memory_is_a_fault_of_the_command(guest):
    assert guest.run("crc32c", source=1 << 40, length=8).status == READ_FAULT
    assert guest.run("nop").status == 0


def test_recorded_conversation_with_qemu_gets_the_same_answers_of_a_fresh_device(tmp_path):
    uuid, file = "11111111-2222-4333-8444-555555555555", tmp_path / "qemu.pcapng"
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            control = serving.control()
            mdev = control("create-mdev", type="mdevemu-native", uuid=uuid)
            listen = folder / "proxy"
            with recording(mdev["socket"], file, listen) as process:
                with machine(*KEPT, "-device", json.dumps(function(listen))) as vm:
                    guest = Driver(vm)
                    # Long enough to find it done at the first look, which a paced replay does too.
                    guest.pause = QUICK / 2
                    assert guest.run("sha256", source=DATA, length=5000, destination=DATA)
                assert process.wait(30) == 0
            control("remove-mdev", uuid=uuid, force=True)
            mdev = control("create-mdev", type="mdevemu-native", uuid=uuid)
            found = replay(read(file), mdev["socket"], 5.0, paced=True)
        finally:
            serving.stop()
    assert found.differences == []
    assert found.compared > 50
