"""Moves of an mdev to another one, on the table: the streams without the sockets."""

import hashlib
import random

import crc32c

from mdevemu.accel.rest import LIMIT_NS, PATIENCE_NS
from mdevemu.mdev.migration import Outgoing
from tests.support.bench import Bench
from tests.support.native import (
    DESTINATION_HBM,
    SOURCE_HBM,
    SUCCESS,
    Driver,
    Queue,
    descriptor,
)


def stopped(bench, mdev, patient=True):
    """Bring an mdev to rest, and tell what ``done`` got: (called, error)."""
    told = []
    mdev.function.migration.stop(told.append)
    if not patient:
        bench.skip(PATIENCE_NS)
    for _ in range(100_000):
        if told or not bench.parent.step():
            break
    if not told:
        bench.skip(PATIENCE_NS)
        bench.work()
        if not told:
            bench.skip(LIMIT_NS)
    assert len(told) == 1
    return told[0]


def saved(mdev, size=65536):
    """The whole stream of an mdev at rest."""
    out = Outgoing(mdev.function.migration, live=False)
    out.rest()
    return b"".join(iter(lambda: out.read(size), b""))


def load(bench, mdev, data, size=65536):
    """Have an mdev be what a stream says; it is at rest."""
    assert stopped(bench, mdev) is None
    migration = mdev.function.migration
    migration.load()
    for at in range(0, len(data), size):
        migration.write(data[at : at + size])
    migration.finish()


def moved(driver, bench, kind="native", patient=True, live=0, rounds=lambda: None):
    """Move a driver's mdev to a new one of a bench, its memory with it; the bytes that went.

    ``live`` is how many passes are made before it comes to rest, with ``rounds`` in between.
    """
    old, new = driver.mdev, bench.mdev(kind)
    migration, sent = old.function.migration, bytearray()
    for _ in range(live):
        migration.save(live=True) if not sent else None
        while part := migration.read(50_000):
            sent += part
            rounds()
            if len(part) < 50_000:
                break
    assert stopped(driver.bench, old, patient) is None
    migration.save(live=False)
    while part := migration.read(50_000):
        sent += part
    migration.end()
    load(bench, new, bytes(sent))
    bench.lend(new, driver.ram)
    old.space.clear()
    driver.bench.parent.remove(old)
    driver.bench, driver.mdev, driver.function = bench, new, new.function
    new.function.migration.run()
    return bytes(sent)


class Busy:
    """A guest that keeps the native device busy, and knows what must come out."""

    LOG2, AREA, HBM_AREA = 4, 0x8_0000, 0x10_0000

    def __init__(self, seed, queues=4):
        self.random = random.Random(seed)
        self.driver = Driver(Bench())
        self.queues = [Queue(self.driver, n, self.LOG2, interrupt=True) for n in range(queues)]
        for queue in self.queues:
            queue.enable()
        self.memory = [bytearray(self.AREA) for _ in self.queues]
        self.hbm = [bytearray(self.HBM_AREA) for _ in self.queues]
        self.expected = [[] for _ in self.queues]
        self.cookies = 0
        self.completed = 0

    def base(self, n):
        return 0x20_0000 + n * self.AREA

    def place(self, n, length):
        """Somewhere in a queue's memory or HBM: (address, in HBM, bytes, offset there)."""
        hbm = self.random.random() < 0.5
        area = self.hbm[n] if hbm else self.memory[n]
        at = self.random.randrange(len(area) - length)
        return (n * self.HBM_AREA if hbm else self.base(n)) + at, hbm, area, at

    def submit(self, n):
        """One more command of a queue, if there is room."""
        queue, length = self.queues[n], self.random.choice([1, 64, 5000, 70_000, 250_000])
        if len(self.expected[n]) >= queue.entries:
            return
        self.cookies += 1
        kind, result = self.random.choice(["copy", "fill", "crc32c", "sha256"]), length
        here, from_hbm, source, at = self.place(n, length)
        there, to_hbm, target, to = self.place(n, max(length, 32))
        flags = SOURCE_HBM * from_hbm | DESTINATION_HBM * to_hbm
        values = {"length": length, "source": here, "cookie": self.cookies}
        content = bytes(source[at : at + length])
        if kind == "copy":
            if source is target and abs(at - to) < length:
                return
            target[to : to + length] = content
            values["destination"] = there
        elif kind == "fill":
            pattern = self.random.randbytes(8)
            target[to : to + length] = (pattern * (length // 8 + 1))[:length]
            values |= {"destination": there, "operand": int.from_bytes(pattern, "little")}
            flags &= DESTINATION_HBM
            del values["source"]
        elif kind == "sha256":
            target[to : to + 32] = hashlib.sha256(content).digest()
            values |= {"destination": there, "capacity": 32}
            result = 32
        else:
            result = crc32c.crc32c(content)
            flags &= SOURCE_HBM
        self.expected[n].append((self.cookies, result))
        queue.submit(descriptor(kind, flags, **values))

    def reap(self):
        """Take completions: each is the next that is expected, and right."""
        for n, queue in enumerate(self.queues):
            for done in queue.reap():
                assert (done.cookie, done.result) == self.expected[n].pop(0)
                assert done.status == SUCCESS
                self.completed += 1

    def go(self, pieces):
        """Submit and work for a while."""
        for _ in range(pieces):
            if self.random.random() < 0.4:
                self.submit(self.random.randrange(len(self.queues)))
            self.driver.bench.parent.step()
            if self.random.random() < 0.2:
                self.reap()

    def check(self):
        """Everything was done, exactly once, and all memory is what it must be."""
        self.driver.bench.work()
        self.reap()
        assert not any(self.expected)
        for n in range(len(self.queues)):
            assert self.driver.ram.read(self.base(n), self.AREA) == self.memory[n]
            hbm = self.driver.function.read(4, n * self.HBM_AREA, self.HBM_AREA)
            assert hbm == self.hbm[n]
        assert self.driver.counters()["completed"] == self.completed
        assert self.driver.counters()["failed"] == 0
