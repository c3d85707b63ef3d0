"""A hostile driver beside a tenant who works: the tenant's results stay right, and in time."""

import hashlib

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from mdevemu.units import HBM_IOVA, MIB, PAGE
from tests.support.bench import BASE, CONFIG, MEMORY_AND_BUS_MASTER, Bench
from tests.support.native import (
    AES_GCM,
    CODE,
    DATA,
    DESTINATION_HBM,
    SOURCE_HBM,
    SQ_HEAD,
    SUCCESS,
    Driver,
    descriptor,
)

END = 0x40_0000
BUSY = DATA + MIB
"""Where hostile rings, descriptors and data are, mostly."""
PIECES = 24
"""Pieces that may go by before a command of the victim, of one piece, is complete."""

places = st.one_of(
    st.integers(0, 63).map(lambda n: BUSY + n * 64),
    st.integers(0, 63).map(lambda n: BUSY + n * 64 * 1024 + n),
    st.integers(0, 4 * MIB),
    st.integers(0, END + PAGE),
    st.integers(-2, 2).map(lambda n: END + n * 64),
    st.integers(-PAGE, 5 * MIB).map(lambda n: (HBM_IOVA + n) % 2**64),
    st.integers(0, 2**64 - 1),
    st.integers(1, 64).map(lambda n: 2**64 - n * 16),
)
lengths = st.integers(0, 2 * PAGE) | st.sampled_from([MIB, 16 * MIB, 2**32 - 1])
descriptors = st.builds(
    descriptor,
    st.sampled_from([*CODE.values(), *CODE.values(), 10, 255]),
    flags=st.integers(0, 7) | st.sampled_from([0, 0, 8, 16, 255]),
    length=lengths,
    source=places,
    destination=places,
    operand=st.just(BUSY) | places,
    capacity=lengths,
    cookie=st.integers(0, 2**64 - 1),
)
blocks = st.builds(
    AES_GCM.pack,
    st.sampled_from([16, 24, 32, 33]),
    st.sampled_from([0, 1, 64, 4096, 4097, 2**32 - 1]),
    st.binary(min_size=12, max_size=12),
    st.sampled_from([0, 0, 0, 1]),
    st.binary(min_size=32, max_size=32),
    places,
)
indices = st.integers(0, 40) | st.integers(0, 2**32 - 1) | st.integers(2**32 - 9, 2**32 - 1)
queues = st.integers(0, 3)
anything = st.binary(min_size=1, max_size=64)

# Each move, how often it is made, and what it is made with.
MOVES = {
    "submit": (16, queues, st.lists(descriptors, min_size=1, max_size=8)),
    "block": (3, blocks),
    "reap": (4, queues),
    "work": (4, st.integers(1, 30)),
    "good queue": (4, queues, st.sampled_from([1, 2, 5]), st.booleans(), st.booleans()),
    "queue": (2, queues, places, places, places, st.integers(0, 31), st.integers(0, 2**32 - 1)),
    "recover": (2,),
    "descriptors": (2, queues, st.lists(descriptors | anything, min_size=1, max_size=8)),
    "memory": (1, places, anything | blocks),
    "shadow": (2, queues, indices, indices, indices),
    "tail": (2, queues | st.integers(0, 15), indices),
    "head": (1, queues | st.integers(0, 15), indices),
    "device register": (1, st.integers(0, 0x60), anything),
    "register": (2, st.sampled_from([0, 1, 2, 4]), places, anything),
    "config": (1, st.integers(0, 0x140), anything),
    "bus master": (1, st.booleans()),
    "unmap": (1,),
}
moves = st.sampled_from(
    [name for name, (often, *_) in MOVES.items() for _ in range(often)]
).flatmap(lambda name: st.tuples(st.just(name), *MOVES[name][1:]))


class Hostile:
    """A guest that does as it likes with what it has."""

    def __init__(self, bench):
        self.driver = Driver(bench, name="hostile")
        self.function = self.driver.function
        self.mapped = True
        self.start()

    def start(self):
        """All queues in good order."""
        self.queues = [self.driver.queue(number, log2=3) for number in range(4)]

    def move(self, move):
        driver = self.driver
        match move:
            case ("submit", number, commands):
                queue = self.queues[number]
                room = queue.entries - (queue.tail - queue.get(SQ_HEAD)) % 2**32
                queue.submit(*commands[: max(0, room)])
            case ("reap", number):
                self.queues[number].reap()
            case ("block", data):
                for place in (BUSY, BUSY + 64):
                    driver.ram.write(place, data)
            case ("recover",):
                self.recover()
                self.start()
            case ("queue", number, sq, cq, shadow, log2, control):
                at = 0x4000 + number * 0x40
                driver.write(at + 0x1C, 0, 4)
                for offset, value in ((0, sq & -64), (8, cq & -32), (16, shadow & -16)):
                    driver.write(at + offset, value)
                driver.write(at + 0x18, log2, 4)
                driver.write(at + 0x1C, control & 0xFFFF_FFFF | 1, 4)
            case ("good queue", number, log2, interrupt, event_index):
                self.queues[number].disable()
                self.queues[number] = driver.queue(
                    number, log2=log2, interrupt=interrupt, event_index=event_index
                )
            case ("descriptors", number, all_of_them):
                for slot, raw in enumerate(all_of_them):
                    driver.ram.write(self.queues[number].sq + slot * 64, raw)
            case ("memory", at, data):
                driver.ram.write(at % (END - 64), data)
            case ("shadow", number, *words):
                area = b"".join(word.to_bytes(4, "little") for word in words)
                driver.ram.write(self.queues[number].shadow, area)
            case ("tail", number, index):
                driver.write(number * PAGE, index, 4, bar=2)
            case ("head", number, index):
                driver.write(number * PAGE + 4, index, 4, bar=2)
            case ("device register", offset, data):
                self.function.write(0, offset, data)
            case ("register", bar, offset, data):
                self.function.write(bar, offset % 0x1_0000, data)
                self.function.read(bar, offset % 0x1_0000, len(data))
            case ("config", offset, data):
                self.function.write(CONFIG, offset, data)
            case ("bus master", on):
                self.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER if on else b"\0\0")
            case ("unmap",):
                if self.mapped:
                    driver.mdev.space.unmap(0, END)
                else:
                    driver.bench.lend(driver.mdev, driver.ram)
                self.mapped = not self.mapped
            case ("work", _):
                pass
            case _:
                raise AssertionError(move)

    def recover(self):
        """Reset, as a driver does that finds its device in some state; then it must work."""
        if not self.mapped:
            self.move(("unmap",))
        self.function.reset()
        self.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)
        self.driver.write(0x20, 1, 4)
        queues = [self.driver.queue(number, log2=2) for number in range(4)]
        for queue in queues:
            queue.submit(descriptor("fill", destination=DATA, length=64, cookie=queue.number))
        self.driver.bench.work()
        for queue in queues:
            assert [(d.status, d.cookie) for d in queue.reap()] == [(SUCCESS, queue.number)]
            queue.disable()


class Victim:
    """A tenant at work: small commands whose results it knows."""

    def __init__(self, bench):
        self.driver = Driver(bench, name="victim")
        self.queue = self.driver.queue(0, log2=3)
        self.content = hashlib.shake_256(b"victim").digest(PAGE)
        self.driver.ram.write(DATA, self.content)
        self.driver.function.write(4, 0, self.content)
        self.before = self.driver.ram.read(DATA, END - DATA)
        self.config = self.driver.function.read(CONFIG, 0, 4096)
        self.done = 0

    def work(self):
        """One copy out of the HBM and one digest, each complete within so many pieces."""
        driver, bench = self.driver, self.driver.bench
        for command, at, expected in (
            (
                descriptor("copy", SOURCE_HBM, source=0, destination=DATA + MIB, length=PAGE),
                DATA + MIB,
                self.content,
            ),
            (
                descriptor("sha256", source=DATA, destination=DATA + 8192, length=64, capacity=32),
                DATA + 8192,
                hashlib.sha256(self.content[:64]).digest(),
            ),
        ):
            driver.ram.write(at, bytes(len(expected)))
            self.queue.submit(command)
            for _ in range(PIECES):
                bench.parent.scheduler.step()
                if self.queue.peek():
                    break
            (done,) = self.queue.reap()
            assert (done.status, done.index) == (SUCCESS, self.done & 0xFFFF)
            assert driver.ram.read(at, len(expected)) == expected
            driver.ram.write(at, bytes(len(expected)))
            self.done += 1

    def check(self):
        """Nothing of the victim's changed but what it did itself."""
        driver = self.driver
        assert driver.ram.read(DATA, END - DATA) == self.before
        assert driver.function.read(4, 0, 4 * MIB) == self.content.ljust(4 * MIB, b"\0")
        assert driver.function.read(CONFIG, 0, 4096) == self.config
        assert not driver.fault().valid
        counters = driver.counters()
        assert (counters["completed"], counters["failed"]) == (self.done, 0)
        assert (counters["doorbells"], counters["faults"]) == (2 * self.done, 0)
        assert driver.run("nop", DESTINATION_HBM).status == SUCCESS


# Without the phases that make a failure smaller: that takes minutes here, and the moves are shown.
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(moves, min_size=10, max_size=40))
def test_victim_beside_a_hostile_driver_works_as_if_it_were_alone(script):
    bench = Bench(BASE)
    victim, hostile = Victim(bench), Hostile(bench)
    culprit, innocent = hostile.driver.mdev.space.pasid, victim.driver.mdev.space.pasid
    assert culprit != innocent
    for move in script:
        note(move)
        hostile.move(move)
        for _ in range(move[1] if move[0] == "work" else 2):
            bench.parent.scheduler.step()
        victim.work()
        assert {fault.pasid for fault in bench.faults()} <= {culprit}
    victim.check()
    hostile.recover()
    bench.faults()
    for driver in (victim.driver, hostile.driver):
        driver.close()
