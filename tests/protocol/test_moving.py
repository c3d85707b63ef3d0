"""Busy mdevs move between emulators in processes of their own, over their sockets."""

import random

import pytest

from mdevemu.vfio_user.features_wire import MigState
from mdevemu.vfio_user.moving import move
from tests.support.bench import Ram
from tests.support.native import SUCCESS, Queue, descriptor
from tests.support.remote import RemoteGuest
from tests.support.serving import Serving, short_folder, until

SIZE = 0x40_0000
AREA = 0x20_0000
MATERIAL = random.Random(0).randbytes(AREA // 2)


@pytest.fixture(scope="module")
def pair():
    with short_folder() as one, short_folder() as two:
        emulators = [Serving(one), Serving(two)]
        yield emulators
        for emulator in emulators:
            status, _, complaints = emulator.stop()
            assert (status, complaints) == (0, "")


class Travelling:
    """A guest whose mdev is somewhere, and its commands, with what must come of them."""

    def __init__(self, control, seed):
        self.random = random.Random(seed)
        self.control = control
        self.made = control("create-mdev", type="mdevemu-native")
        self.guest = RemoteGuest(self.made["socket"], Ram(SIZE))
        self.guest.ram.write(AREA, MATERIAL)
        self.queue = Queue(self.guest, 0, log2=6, interrupt=True, vector=1)
        self.queue.enable()
        self.expected, self.written, self.cookie, self.fired = [], [], 0, 0

    def submit(self):
        """Copies into HBM and back, each to where nobody else writes."""
        if len(self.expected) >= self.queue.entries:
            return
        self.cookie += 1
        length = self.random.choice([100, 5000, 100_000, 1_000_000])
        at = self.random.randrange(len(MATERIAL) - length + 1)
        self.queue.submit(
            descriptor(
                "copy", 2, source=AREA + at, destination=at, length=length, cookie=self.cookie
            )
        )
        self.expected.append((self.cookie, length))
        self.written.append((at, length))

    def reap(self):
        for done in self.queue.reap():
            assert (done.cookie, done.result) == self.expected.pop(0)
            assert done.status == SUCCESS

    def travel(self, control, *, live):
        """Move to a new mdev; all that a VMM would do besides."""
        made = control("create-mdev", type="mdevemu-native")
        old, made_before = self.guest.function, self.made
        self.fired += self.guest.vector.wait(0)
        before = self.guest.vector
        arrived = RemoteGuest.__new__(RemoteGuest)
        arrived.ram, arrived.vector = self.guest.ram, None
        arrived.attach(made["socket"])
        move(old.client, arrived.client, live=live)
        self.fired += before.wait(0)
        self.guest.function, self.guest.vector = arrived.function, arrived.vector
        arrived.client.migration.set_state(MigState.RUNNING)
        old.client.close()
        before.close()
        self.control("remove-mdev", uuid=made_before["uuid"], force=True)
        self.control, self.made = control, made

    def check(self):
        def over():
            self.reap()
            return not self.expected

        until(over)
        until(lambda: self.counted() >= self.cookie)
        assert self.fired == self.cookie
        assert self.guest.counters()["completed"] == self.cookie
        assert self.guest.counters()["failed"] == 0

    def counted(self):
        self.fired += self.guest.vector.wait(0)
        return self.fired

    def close(self):
        self.guest.close()
        until(lambda: not any(m["attached"] for m in self.control("query-mdevs")))
        self.control("remove-mdev", uuid=self.made["uuid"])


@pytest.mark.parametrize("seed", range(4))
def test_busy_device_moves_between_processes_and_completes_everything_once(pair, seed):
    controls = [emulator.control() for emulator in pair]
    travelling = Travelling(controls[0], seed)
    chance = travelling.random
    for turn in range(1, 6):
        for _ in range(chance.randrange(12)):
            travelling.submit()
            if chance.random() < 0.3:
                travelling.reap()
        travelling.travel(controls[turn % 2], live=chance.random() < 0.5)
    travelling.check()
    for at, length in travelling.written:
        there = travelling.guest.function.read(4, at, length)
        assert there == MATERIAL[at : at + length]
    travelling.close()


def test_device_moves_to_another_slice_of_the_same_emulator(pair):
    control = pair[0].control()
    travelling = Travelling(control, 9)
    for _ in range(20):
        travelling.submit()
    travelling.travel(control, live=True)
    travelling.check()
    travelling.close()
