"""Places of work queues and groups, limits of mdevs, and who waits for them."""

import errno

import pytest

from mdevemu.errors import ConfigError
from mdevemu.mdev import attributes
from mdevemu.units import KIB, MIB
from tests.support.bench import ALL, Bench
from tests.support.native import DATA, Driver, descriptor

SPEC = {
    "accelerator": {"name": "bench", "hbm": 0},
    "engine": [{"name": "one", "operations": ALL}, {"name": "two", "operations": ALL}],
    "group": [
        {"name": "g0", "engines": ["one"]},
        {"name": "g1", "engines": ["two"], "read-buffers": 2},
    ],
    "queue": [
        {"name": "s0", "group": "g0", "mode": "shared", "size": 8, "threshold": 3},
        {"name": "s1", "group": "g1", "mode": "shared", "size": 8, "threshold": 4},
        {"name": "d1", "group": "g1", "mode": "dedicated", "size": 8, "priority": 15},
    ],
    "type": [
        {"name": "native", "queues": 4, "work-queues": ["s0"]},
        {"name": "grouped", "queues": 2, "work-queues": ["s1"]},
        {"name": "own", "queues": 2, "work-queues": ["d1"]},
        {"name": "free", "queues": 4},
    ],
}
LONG = descriptor("copy", source=DATA, destination=DATA + MIB, length=512 * KIB)


@pytest.fixture
def made():
    return Bench


@pytest.fixture
def bench(made):
    return made(SPEC)


def under_way(*drivers):
    """The most commands that were begun and not completed at the same time, in some turns."""
    parent, most = drivers[0].bench.parent, 0
    for _ in range(60):
        parent.step()
        begun = sum(each.mdev.flow.commands for each in drivers)
        most = max(most, begun - sum(each.counters()["completed"] for each in drivers))
    return most


def busy(bench, kind, rings):
    driver = Driver(bench, kind)
    for number in range(rings):
        driver.queue(number).submit(*[LONG] * 3)
    return driver


def test_as_many_commands_are_under_way_as_the_threshold_says(bench):
    first, second = busy(bench, "native", 4), busy(bench, "native", 4)
    assert under_way(first, second) == 3
    bench.work()
    assert first.counters()["completed"] == second.counters()["completed"] == 12
    assert bench.parent._admissions["s0"][0].taken == 0


def test_groups_read_buffers_bound_all_its_queues_together(bench):
    shared, own = busy(bench, "grouped", 2), busy(bench, "own", 2)
    assert under_way(shared, own) == 2
    bench.work()
    assert shared.counters()["completed"] == own.counters()["completed"] == 6


def spec_with(total, limit=None, one=(), other=()):
    """The accelerator, with read buffers in all, and keys of its groups."""
    head = {**SPEC["accelerator"], "read-buffers": total}
    if limit:
        head["read-buffer-limit"] = limit
    groups = [{**SPEC["group"][0], **dict(one)}, {**SPEC["group"][1], **dict(other)}]
    return {**SPEC, "accelerator": head, "group": groups}


def test_group_has_what_it_reserved_beside_one_that_takes_all(made):
    bench = made(spec_with(3, other={"read-buffers-reserved": 1}))
    first = busy(bench, "native", 4)
    assert under_way(first) == 2
    second = busy(bench, "grouped", 2)
    assert under_way(first, second) == 3
    bench.work()
    assert (first.counters()["completed"], second.counters()["completed"]) == (12, 6)


def test_limit_is_for_all_groups_that_use_it_and_no_others(made):
    limited = {"use-read-buffer-limit": True}
    bench = made(spec_with(8, limit=2, one=limited, other=limited))
    assert under_way(busy(bench, "native", 4), busy(bench, "grouped", 2)) == 2
    bench = made(spec_with(8, limit=2, one=limited))
    assert under_way(busy(bench, "native", 4), busy(bench, "grouped", 2)) == 4


def test_group_has_what_it_reserved_of_the_limit_too(made):
    limited = {"use-read-buffer-limit": True}
    bench = made(spec_with(8, 2, limited, {**limited, "read-buffers-reserved": 1}))
    first = busy(bench, "native", 4)
    assert under_way(first) == 1
    assert under_way(first, busy(bench, "grouped", 2)) == 2


def test_other_types_wait_for_nobody(bench):
    assert under_way(busy(bench, "free", 4)) == 4


def test_nobody_waits_for_ever(bench):
    """First come, first served: each of eight rings gets a place before one gets two."""
    drivers = [busy(bench, "native", 4) for _ in range(2)]
    done = []
    while len(done) < 8:
        assert bench.parent.step()
        done = [(each, n) for each in drivers for n in range(4) if each.read(0x4028 + 0x40 * n, 4)]
        assert all(each.read(0x4028 + 0x40 * n, 4) <= 2 for each, n in done)
    bench.work()


@pytest.mark.parametrize("end", ["reset", "remove", "disable"])
def test_places_of_what_is_cancelled_are_free_again(bench, end):
    first, second = busy(bench, "native", 4), busy(bench, "native", 4)
    under_way(first, second)
    if end == "reset":
        first.function.reset()
    elif end == "remove":
        bench.parent.remove(first.mdev)
    else:
        first.write(0x20, 0, 4)
    bench.work()
    assert second.counters()["completed"] == 12
    assert bench.parent._admissions["s0"][0].taken == 0


def test_priority_is_the_weight(bench):
    assert bench.mdev("own").flow.weight == 15


@pytest.mark.parametrize("name", ["bandwidth_limit", "command_limit"])
def test_limit_is_set_read_and_lifted(bench, name):
    mdev = bench.mdev("free")
    assert attributes.ATTRIBUTES[name].read(mdev) == "0"
    attributes.write(bench.parent, mdev, name, "1000")
    assert attributes.ATTRIBUTES[name].read(mdev) == "1000"
    for wrong in ("-1", "fast", str(10**16), ""):
        with pytest.raises(ConfigError) as refused:
            attributes.write(bench.parent, mdev, name, wrong)
        assert refused.value.number == errno.EINVAL
    assert attributes.ATTRIBUTES[name].read(mdev) == "1000"


def test_limit_slows_one_mdev_and_lifting_it_wakes_it(bench):
    slow, fast = busy(bench, "free", 1), busy(bench, "free", 1)
    attributes.write(bench.parent, slow.mdev, "bandwidth_limit", "1")
    bench.work()
    assert fast.counters()["completed"] == 3
    assert slow.counters()["completed"] == 0
    attributes.write(bench.parent, slow.mdev, "bandwidth_limit", "0")
    bench.work()
    assert slow.counters()["completed"] == 3
