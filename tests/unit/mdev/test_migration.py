"""An mdev moves, at any moment: nothing is lost, nothing is done twice."""

import mmap
import os
import struct

import pytest

from mdevemu.accel import Identity, Personality
from mdevemu.errors import StateError
from mdevemu.fds import Fd
from mdevemu.layout import Word, bits
from mdevemu.personalities import PERSONALITIES
from mdevemu.registers import Reg, RegisterMap
from tests.support import ioat
from tests.support.bench import BASE, Bench, Ram
from tests.support.guest_tables import GuestTables
from tests.support.moving import Busy, load, moved, saved, stopped
from tests.support.native import FAILED, STALLED, SUCCESS, Driver, descriptor


@pytest.mark.parametrize("seed", range(12))
def test_busy_device_moves_back_and_forth_and_completes_everything_once(seed):
    busy = Busy(seed)
    for turn in range(6):
        busy.go(busy.random.randrange(120))
        live = busy.random.randrange(3)
        moved(
            busy.driver,
            Bench(),
            patient=bool(turn % 2),
            live=live,
            rounds=lambda: busy.go(3),
        )
    busy.go(50)
    busy.check()
    busy.driver.close()


def test_state_that_was_loaded_is_saved_as_it_was():
    busy = Busy(7)
    busy.go(100)
    bench = busy.driver.bench
    assert stopped(bench, busy.driver.mdev) is None
    state = saved(busy.driver.mdev)
    there = Bench()
    other = there.mdev()
    load(there, other, state, size=1000)
    assert saved(other, size=777) == state
    busy.driver.close()


# What moves.


def test_pending_interrupts_and_masks_move_along():
    driver = Driver()
    one = Fd(os.eventfd(0, os.EFD_NONBLOCK))
    driver.function.assign(2, 0, [None] * 4 + [one])
    driver.function.mask(2, 4, 1)
    driver.function.interrupt(4)
    assert driver.function.read(1, 0x800, 1) == b"\x10"
    assert stopped(driver.bench, driver.mdev) is None
    bench = Bench()
    other = bench.mdev()
    load(bench, other, saved(driver.mdev))
    assert other.function.read(1, 0x800, 1) == b"\x10"
    two = Fd(os.eventfd(0, os.EFD_NONBLOCK))
    number = os.dup(two.fileno())
    other.function.assign(2, 4, [two])
    other.function.migration.run()
    assert os.eventfd_read(number) == 1
    assert other.function.read(1, 0x800, 1) == b"\0"
    os.close(number)
    driver.close()


def test_intx_that_waits_moves_along():
    driver = Driver()
    driver.function.interrupt(2)
    assert stopped(driver.bench, driver.mdev) is None
    bench = Bench()
    other = bench.mdev()
    load(bench, other, saved(driver.mdev))
    line = Fd(os.eventfd(0, os.EFD_NONBLOCK))
    number = os.dup(line.fileno())
    other.function.assign(0, 0, [line])
    assert os.eventfd_read(number) == 1
    os.close(number)


def test_failed_and_stalled_queues_move_as_they_are():
    driver = Driver()
    full = driver.queue(0, log2=1)
    full.submit(descriptor("nop"), descriptor("nop"))
    driver.work()
    full.submit(descriptor("nop", cookie=3))
    driver.work()
    broken = driver.queue(1)
    broken.put(0x1C, 0)
    broken.put(0x00, 0x7000_0000, 8)
    broken.put(0x1C, 1)
    broken.doorbell(1)
    driver.work()
    assert (full.state, broken.state) == (STALLED, FAILED)
    fault = driver.fault()
    moved(driver, Bench())
    driver.work()
    assert (full.state, broken.state) == (STALLED, FAILED)
    assert driver.fault() == fault
    full.reap()
    driver.work()
    assert [done.cookie for done in full.reap()] == [3]


def test_event_index_queue_goes_on_without_a_lost_doorbell():
    driver = Driver()
    queue = driver.queue(0, event_index=True)
    for turn in range(4):
        queue.submit(descriptor("nop", cookie=turn))
        moved(driver, Bench())
        driver.work()
        assert [done.cookie for done in queue.reap()] == [turn]


def test_hbm_is_told_block_by_block_and_only_what_is_there():
    driver = Driver()
    function = driver.function
    function.write(4, 0x10_0000, b"here")
    migration = driver.mdev.function.migration
    migration.save(live=True)
    first = migration.read(1 << 20)
    assert len(first) < 0x1_2000
    function.write(4, 0x20_0000, b"there")
    with mmap.mmap(driver.mdev.partition.file.fileno(), 0x40_0000) as mapped:
        mapped[0x10_0001] = 0x21
    second = migration.read(1 << 20)
    assert 0x2_0000 < len(second) < 0x2_2000
    assert migration.read(1 << 20) == b""
    driver.function.write(4, 0x10_0000, bytes(4))
    assert stopped(driver.bench, driver.mdev) is None
    migration.save(live=False)
    rest_of_it = migration.read(1 << 20)
    bench = Bench()
    other = bench.mdev()
    load(bench, other, first + second + rest_of_it)
    assert other.function.read(4, 0x10_0000, 4) == bytes(4)
    assert other.function.read(4, 0x20_0000, 5) == b"there"


def test_state_that_ends_early_leaves_nothing_behind():
    driver = Driver()
    driver.function.write(4, 0, b"secret")
    assert stopped(driver.bench, driver.mdev) is None
    state = saved(driver.mdev)
    bench = Bench()
    other = bench.mdev()
    with pytest.raises(StateError, match="ends before"):
        load(bench, other, state[:-1])
    assert other.function.read(4, 0, 6) == bytes(6)
    assert other.function.read(7, 4, 2) == bytes(2), "no bus master"
    driver.close()


def test_long_look_at_unchanged_memory_gives_padding_and_never_a_short_read():
    driver = Driver()
    driver.function.write(4, 0, b"x" * 0x40_0000)
    migration = driver.mdev.function.migration
    migration.save(live=True)
    while len(migration.read(1 << 20)) == 1 << 20:
        pass
    assert stopped(driver.bench, driver.mdev) is None
    migration.save(live=False)
    sizes = []
    while sizes[-1:] == [5000] or not sizes:
        sizes.append(len(migration.read(5000)))
    assert sizes.count(5000) >= 2
    driver.close()


class Processes(Driver):
    """A guest with a process directory, one process, and a ring for page requests."""

    VIRTUAL, PAGES, REQUESTS = 0x7000_0000, 0x30_0000, 0x38_0000

    def __init__(self):
        super().__init__(kind="rid")
        self.tables = GuestTables(self.ram, 0x10_0000)
        self.root = self.tables.process(5)
        self.tables.map(self.root, self.VIRTUAL, self.PAGES)
        self.write(0x68, 0x10_0000 | 1)
        self.write(0x80, self.REQUESTS)
        self.write(0x88, 3, 4)
        self.write(0x8C, 1, 4)

    def fill(self, at, **values):
        values |= {"destination": at, "length": 64, "operand": 7, "pasid": 1 << 31 | 5}
        return descriptor("fill", **values)


def test_guest_pasids_move_along():
    driver = Processes()
    queue = driver.queue(0)
    moved(driver, Bench(), kind="rid")
    queue.submit(driver.fill(driver.VIRTUAL))
    driver.work()
    assert [done.status for done in queue.reap()] == [SUCCESS]
    assert driver.ram.read(driver.PAGES, 8) == (7).to_bytes(8, "little")
    driver.close()


def test_command_that_waits_for_a_page_asks_again_where_it_goes_on():
    driver = Processes()
    queue, page = driver.queue(2), driver.VIRTUAL + 0x1000
    queue.submit(driver.fill(page, cookie=9))
    driver.work()
    assert driver.read(0x90, 4) == 1, "a page was requested"
    moved(driver, Bench(), kind="rid", patient=False)
    driver.work()
    assert driver.read(0x90, 4) == 2, "and once more"
    driver.tables.map(driver.root, page, driver.PAGES + 0x1000)
    driver.write(0x98, 2 | 5 << 12)
    driver.work()
    assert [(done.cookie, done.status) for done in queue.reap()] == [(9, SUCCESS)]
    driver.close()


def test_adder_moves_between_two_commands():
    driver = Adds()
    driver.announce(5)
    for _ in range(2):
        driver.bench.parent.step()
    moved(driver, Bench(), kind="adder")
    driver.bench.work()
    assert driver.numbers(0x1000, 8) == [5] * 8
    assert driver.function.read(0, 6, 2) == b"\5\0"
    driver.announce(6)
    driver.bench.work()
    assert driver.numbers(0x1000, 8) == [6] * 8
    driver.ram.close()


class Adds:
    """A driver of the adder, whose commands all add 1 to the same numbers."""

    def __init__(self):
        self.bench, self.ram = Bench(), Ram()
        self.mdev = self.bench.mdev("adder")
        self.function = self.mdev.function
        self.bench.lend(self.mdev, self.ram)
        self.ram.write(0, struct.pack("<QII", 0x1000, 8, 1) * 8)
        for offset, value in ((0x08, 0), (0x0C, 0), (0x10, 3), (0x00, 1)):
            self.function.write(0, offset, value.to_bytes(4, "little"))

    def announce(self, tail):
        self.function.write(0, 0x14, tail.to_bytes(4, "little"))

    def numbers(self, at, count):
        return list(struct.unpack(f"<{count}I", self.ram.read(at, 4 * count)))


@pytest.mark.parametrize("pieces", range(0, 40, 3))
@pytest.mark.parametrize("patient", [True, False])
def test_ioat_channel_moves_in_the_middle_of_its_chain(pieces, patient):
    driver = ioat.Driver(1)
    driver.enable()
    content = bytes(range(256)) * 0x400
    driver.ram.write(ioat.DATA, content)
    for turn in range(6):
        driver.descriptor(
            size=0x2_0000,
            source=ioat.DATA,
            destination=ioat.DATA + 0x4_0000 + turn % 2 * 0x4_0000,
            control=ioat.COMPLETION | ioat.INTERRUPT,
        )
    driver.ring_doorbell()
    for _ in range(pieces):
        driver.bench.parent.step()
    moved(driver, Bench(), kind="ioat", patient=patient)
    driver.mdev.personality.interrupt = driver.vectors.append
    driver.bench.work()
    assert driver.state == ioat.IDLE
    assert driver.written_back & ~0x3F == driver.slot(5)
    for turn in range(2):
        at = ioat.DATA + 0x4_0000 + turn * 0x4_0000
        assert driver.ram.read(at, 0x2_0000) == content[:0x2_0000]
    counts = driver.mdev.personality.counts()
    assert counts["completed"] == 6
    assert counts["bytes-written"] == 6 * 0x2_0000
    driver.descriptor(size=64, control=ioat.COMPLETION)
    driver.ring_doorbell()
    driver.bench.work()
    assert driver.written_back & ~0x3F == driver.slot(6)
    driver.close()


def test_interrupt_of_ioat_that_is_owed_comes_after_the_move():
    driver = ioat.Driver(0)
    driver.enable()
    driver.put(ioat.INTRDELAY, 1000, 2)
    driver.submit(control=ioat.INTERRUPT)
    assert driver.vectors == []
    assert stopped(driver.bench, driver.mdev) is None
    driver.bench.skip(10**9)
    assert driver.vectors == [], "not at rest"
    moved(driver, Bench(), kind="ioat")
    driver.mdev.personality.interrupt = driver.vectors.append
    driver.bench.skip(2_000_000)
    assert driver.vectors == [0]
    driver.close()


def test_personality_of_somebody_has_its_registers_saved_for_nothing(monkeypatch):
    class Level(Word, width=32):
        """A number."""

        value = bits(31, 0)

    class Registers(RegisterMap, size=0x1000):
        """BAR0."""

        level = Reg(0, Level)

    class Plain(Personality[Registers]):
        identity = Identity(vendor=0x1234, device=1, class_code=0)
        registers = Registers
        movable = True

        def fault(self, fault):
            raise AssertionError

    monkeypatch.setitem(PERSONALITIES, "plain", Plain)
    spec = BASE | {"type": [{"name": "plain", "personality": "plain"}]}
    one, two = Bench(spec), Bench(spec)
    mdev, other = one.mdev("plain"), two.mdev("plain")
    mdev.function.write(0, 0, b"\x12\x34\x56\x78")
    assert stopped(one, mdev) is None
    load(two, other, saved(mdev))
    assert other.function.read(0, 0, 4) == b"\x12\x34\x56\x78"
    with pytest.raises(AssertionError, match="would lose what start sets up"):
        type("Forgets", (Plain,), {"start": lambda self: None})


def test_personality_that_says_nothing_is_not_moved(monkeypatch):
    monkeypatch.setattr(PERSONALITIES["adder"], "movable", False)
    assert Bench().mdev("adder").function.migration is None
