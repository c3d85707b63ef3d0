"""A save beside other work: what it waits for, what it writes, and what it leaves as it is."""

import os
import select
import threading

import pytest

from mdevemu.disk import Disk
from mdevemu.keeping import OTHERS, Keeping
from mdevemu.mdev import attributes, kept
from mdevemu.mdev.contents import Contents
from mdevemu.mdev.saving import Save
from tests.support.bench import Bench
from tests.support.moving import Busy, load, saved, stopped
from tests.support.native import DESTINATION_HBM, SCRATCH, SUCCESS, Driver
from tests.support.serving import LIMIT

HBM_BAR = 4


@pytest.fixture
def disk():
    made = Disk()
    yield made
    made.close()


@pytest.fixture
def stuck(disk):
    """A disk that takes for ever, until it is let go."""
    go = threading.Event()
    disk.do(go.wait)
    yield disk, go.set
    go.set()


def settle(disk):
    assert select.select([disk], [], [], LIMIT)[0], "the disk does nothing"
    disk.settle()


def drain(disk):
    over = []
    disk.do(lambda: None, lambda: over.append(None))
    while not over:
        settle(disk)


def begin(mdev, path, disk, former=b"", last=False):
    return Save(mdev, mdev.function.migration, path, disk, former, last=last, asked=True)


def finish(save, disk):
    while not save.over:
        if not save.step():
            settle(disk)
    return save


# What it writes.


@pytest.mark.parametrize("seed", range(4))
def test_device_that_works_is_saved_as_it_is_in_the_end(tmp_path, disk, seed):
    busy = Busy(seed)
    busy.go(60)
    bench, mdev = busy.driver.bench, busy.driver.mdev
    save, while_it_worked = begin(mdev, tmp_path / "a", disk), 0
    while not save.over:
        if not mdev.personality.rest.holders:
            busy.go(1)
            while_it_worked += 1
        if not save.step():
            bench.parent.step()
            if select.select([disk], [], [], 0)[0]:
                disk.settle()
    assert (save.wrong, save.written) == (None, True)
    assert while_it_worked > 5
    assert stopped(bench, mdev) is None
    there = Bench()
    other = there.mdev()
    load(there, other, b"".join(kept.read(tmp_path / "a")[1]))
    assert saved(other) == saved(mdev)
    mdev.function.migration.run()
    busy.check()
    busy.driver.close()


@pytest.mark.parametrize("last", [False, True])
def test_device_works_on_unless_we_go(tmp_path, disk, last):
    driver = Driver()
    assert finish(begin(driver.mdev, tmp_path / "a", disk, last=last), disk).written
    assert bool(driver.mdev.personality.rest.holders) is last


# What it does not write.


@pytest.fixture
def driver():
    made = Driver()
    done = made.run("fill", DESTINATION_HBM, destination=0x10_0000, length=4096, operand=7)
    assert done.status == SUCCESS
    yield made
    made.close()


CHANGES = {
    "a register": lambda driver: driver.write(SCRATCH, 5),
    "memory": lambda driver: driver.function.write(HBM_BAR, 0x10_0000, b"x"),
    "memory that was empty": lambda driver: driver.function.write(HBM_BAR, 0x20_0000, b"x"),
    "memory that a VMM maps": lambda driver: os.pwrite(
        driver.mdev.partition.file.fileno(), b"x", 0x20_0000
    ),
    "memory that is empty now": lambda driver: driver.function.write(
        HBM_BAR, 0x10_0000, bytes(4096)
    ),
    "an attribute": lambda driver: attributes.write(
        driver.bench.parent, driver.mdev, "command_limit", "9"
    ),
    "work": lambda driver: driver.run("nop"),
}


def test_what_is_as_it_was_is_not_written_again(tmp_path, disk, driver):
    first = finish(begin(driver.mdev, tmp_path / "a", disk), disk)
    assert first.mark
    again = finish(begin(driver.mdev, tmp_path / "b", disk, first.mark), disk)
    assert (again.wrong, again.written, again.mark) == (None, False, first.mark)
    assert os.listdir(tmp_path) == ["a"]
    assert not driver.mdev.personality.rest.holders


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_written(tmp_path, disk, driver, change):
    first = finish(begin(driver.mdev, tmp_path / "a", disk), disk)
    CHANGES[change](driver)
    again = finish(begin(driver.mdev, tmp_path / "a", disk, first.mark), disk)
    assert (again.written, again.mark != first.mark) == (True, True)
    assert finish(begin(driver.mdev, tmp_path / "a", disk), disk).mark == again.mark


# How long a step is.


def test_memory_is_looked_through_as_it_is_told(driver):
    """Guests can scatter as many pages as they like: to find them all takes long."""
    file = driver.mdev.partition.file.fileno()
    contents = Contents(driver.mdev.partition, at_once=1)
    told = contents.tell()
    os.pwrite(file, b"x", 0)
    assert next(told)
    os.pwrite(file, b"x", driver.mdev.partition.size - 1)
    assert len(list(told)) == 2, "what the driver wrote, and what was written just now"
    before = contents.digest()
    assert list(contents.tell()) == [b""] * 3
    os.pwrite(file, b"y", 0)
    assert len(list(filter(None, contents.tell()))) == 1
    assert contents.digest() != before
    os.pwrite(file, b"x", 0)
    assert len(list(filter(None, contents.tell()))) == 1
    assert contents.digest() == before


# What it waits for.


def test_disk_is_waited_for_by_nobody_else(tmp_path, stuck, driver):
    disk, go = stuck
    driver.function.write(HBM_BAR, 0, os.urandom(4 << 20))
    save = begin(driver.mdev, tmp_path / "a", disk)
    steps = 0
    while save.step():
        steps += 1
    assert steps > 10, "a step is a block, or less"
    assert driver.run("nop").status == SUCCESS, "the device works while the disk does not"
    go()
    assert finish(save, disk).written


def test_disk_that_is_full_is_told_and_nothing_is_left(tmp_path, disk, driver):
    save = finish(begin(driver.mdev, tmp_path / "nowhere" / "a", disk), disk)
    assert "No such file" in save.wrong
    assert not driver.mdev.personality.rest.holders
    (tmp_path / "a").mkdir()
    save = finish(begin(driver.mdev, tmp_path / "a", disk), disk)
    assert "irectory" in save.wrong
    drain(disk)
    assert os.listdir(tmp_path) == ["a"]


@pytest.fixture
def keeping(tmp_path, disk, driver):
    bench = driver.bench
    return Keeping(
        bench.parent,
        tmp_path,
        lambda name, facts: None,
        lambda mdev, given: {"uuid": mdev.uuid},
        bench.clock,
        disk,
    )


def run(keeping, disk):
    while keeping.busy:
        if not keeping.step(others=False):
            settle(disk)


def test_saves_of_one_mdev_come_one_after_the_other(keeping, driver, disk, tmp_path):
    driver.function.write(HBM_BAR, 0, os.urandom(1 << 20))
    save = next(each.run for each in keeping.commands() if each.name == "save-mdev")
    for name in "ab":
        save(mdev=driver.mdev.name, file=str(tmp_path / name))
    while keeping.busy:
        begun = os.listdir(tmp_path)
        assert "a" in begun or not any(each.startswith(".b.") for each in begun)
        if not keeping.step(others=False):
            settle(disk)
    assert len({(tmp_path / name).read_bytes() for name in "ab"}) == 1


def test_device_that_was_saved_for_the_last_time_rests_whatever_is_saved_later(
    keeping, driver, disk
):
    keeping.save_all(last=True)
    run(keeping, disk)
    keeping.save_all()
    run(keeping, disk)
    assert driver.mdev.personality.rest.holders


def test_save_by_the_clock_of_an_mdev_that_is_removed_is_no_failure(keeping, driver, capsys):
    keeping.save_every(1000)
    driver.bench.skip(1000)
    assert keeping.busy
    keeping.end(driver.mdev)
    assert not keeping.busy
    assert capsys.readouterr().err == ""


def test_nothing_is_saved_by_the_clock_when_we_go(keeping, driver, disk):
    keeping.save_every(1000)
    for _ in range(2):
        driver.bench.skip(1000)
        assert keeping.busy
        run(keeping, disk)
    keeping.leave()
    driver.bench.skip(1000)
    assert not keeping.busy


@pytest.mark.parametrize("whole", [False, True])
def test_state_that_a_client_loads_is_not_saved_with_what_was_before(tmp_path, disk, driver, whole):
    migration = driver.mdev.function.migration
    driver.function.write(HBM_BAR, 0, os.urandom(4 << 20))
    assert stopped(driver.bench, driver.mdev) is None
    other = saved(driver.mdev)
    save = begin(driver.mdev, tmp_path / "a", disk, last=True)
    for _ in range(8):
        save.step()
    migration.load()
    migration.write(other if whole else other[: 1 << 20])
    if whole:
        migration.finish()
    assert "another state" in finish(save, disk).wrong
    drain(disk)
    assert os.listdir(tmp_path) == []


def test_what_a_run_that_was_killed_left_half_is_removed(keeping, driver, disk, tmp_path):
    keeping.save_all()
    run(keeping, disk)
    (whole,) = tmp_path.iterdir()
    driver.function.write(HBM_BAR, 0, os.urandom(1 << 20))
    keeping.save_all()
    while len(os.listdir(tmp_path)) < 2:
        if not keeping.step(others=False):
            settle(disk)
    driver.bench.parent.remove(driver.mdev)
    keeping.restore_all()
    assert list(tmp_path.iterdir()) == [whole]


def test_mdev_with_much_to_say_of_it_comes_back(keeping, driver, disk, tmp_path):
    mdev = driver.bench.mdev(name="x" * 10_000)
    mdev.users = frozenset(range(10**9, 10**9 + 8000))  # as many as a socket's ACL can have
    keeping.save_all()
    run(keeping, disk)
    found, parts = kept.read(tmp_path / f"{mdev.uuid}.mdev")
    assert b"".join(parts)
    assert (found.name, dict(found.attributes)["users"]) == (
        mdev.name,
        attributes.ATTRIBUTES["users"].read(mdev),
    )


def test_two_mdevs_that_are_saved_to_one_file_leave_one_of_them_whole(
    keeping, driver, disk, tmp_path
):
    bench = driver.bench
    two = [driver.mdev, bench.mdev()]
    save = next(each.run for each in keeping.commands() if each.name == "save-mdev")
    for mdev in two:
        mdev.function.write(HBM_BAR, 0, os.urandom(1 << 20))
        save(mdev=mdev.name, file=str(tmp_path / "a"))
    run(keeping, disk)
    assert os.listdir(tmp_path) == ["a"]
    for mdev in two:
        bench.parent.remove(mdev)
    keeping.restore(tmp_path / "a")
    assert len(bench.parent.mdevs) == 1


def test_draft_that_cannot_be_removed_keeps_no_other_save_waiting(tmp_path, disk, driver):
    driver.function.write(HBM_BAR, 0, os.urandom(1 << 20))
    folder = tmp_path / "folder"
    folder.mkdir()
    save = begin(driver.mdev, folder / "a", disk)
    while not list(folder.iterdir()):
        if not save.step():
            settle(disk)
    folder.rename(tmp_path / "elsewhere")
    folder.touch()
    save.give_up()
    assert finish(begin(driver.mdev, tmp_path / "a", disk), disk).written


def test_restored_device_still_rests_when_it_was_saved(keeping, driver, disk, tmp_path):
    keeping.save_all()
    run(keeping, disk)
    (file,) = tmp_path.iterdir()
    driver.bench.parent.remove(driver.mdev)
    keeping.restore(file)
    (mdev,) = driver.bench.parent.mdevs.values()
    keeping.save_all()
    run(keeping, disk)
    assert mdev.personality.rest.holders
    mdev.function.read(0, SCRATCH, 8)
    assert not mdev.personality.rest.holders


def test_other_work_has_most_of_the_time(keeping, driver):
    driver.function.write(HBM_BAR, 0, os.urandom(1 << 20))
    clock, spent = driver.bench.clock, {True: 0, False: 0}
    keeping.save_all()
    (save,) = keeping._saves
    step = save.step

    def slow():
        clock.now += 1000
        return step()

    save.step = slow
    for _ in range(100):
        before = clock.now
        keeping.step(others=True)
        spent[True] += clock.now - before
        clock.now += 100  # a piece of other work
        spent[False] += 100
    assert 1 / (OTHERS + 2) < spent[True] / sum(spent.values()) < 1 / OTHERS


def test_without_other_work_it_has_all_of_the_time(keeping, driver, disk):
    driver.function.write(HBM_BAR, 0, os.urandom(1 << 20))
    keeping.save_all()
    taken = 0
    while keeping.busy:
        if keeping.step(others=False):
            taken += 1
        else:
            settle(disk)
    assert 16 < taken < 200
