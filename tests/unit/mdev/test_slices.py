"""No sequence of creates and removes leads to overlap, a wrong count, or memory unscrubbed.

The model knows the accelerator as a row of memory shares and three counters, and nothing of
how the emulator keeps its own books.
"""

import errno

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mdevemu.errors import ConfigError
from mdevemu.units import HBM_IOVA, MIB
from tests.support.bench import Bench

SHARE = 2 * MIB
SHARES = 8
COMPUTE = 7
QUEUES = 12
TABLE = {  # compute shares, memory shares, starts, queues
    "1g": (1, 1, (0, 1, 2, 3, 4, 5, 6), 1),
    "1g2": (1, 2, (0, 2, 4, 6), 1),
    "2g": (2, 2, (0, 2, 4), 2),
    "3g": (3, 4, (0, 4), 3),
    "4g": (4, 4, (0,), 4),
    "7g": (7, 8, (0,), 7),
    "odd": (1, 3, (0, 2, 5), 1),  # two of its places overlap
    "hog": (4, 1, (0, 7), 1),  # much compute, little memory
    "free": (0, 3, tuple(range(SHARES - 2)), 1),  # anywhere: no starts of its own
    "wq": (0, 0, (), 1),
}
QUEUE_NAMES = ("d0", "d1")


def type_table(name):
    compute, shares, starts, queues = TABLE[name]
    table = {"name": name, "queues": queues}
    if compute:
        table |= {"compute": compute, "shares": shares, "starts": list(starts)}
    elif shares:
        table |= {"hbm": shares * SHARE}
    else:
        table |= {"work-queues": list(QUEUE_NAMES)}
    return table


SPEC = {
    "accelerator": {
        "name": "sliced",
        "hbm": SHARES * SHARE,
        "queues": QUEUES,
        "compute-shares": COMPUTE,
        "memory-shares": SHARES,
    },
    "engine": [
        {"name": "one", "operations": ["copy"]},
        {"name": "two", "operations": ["crc32c"]},
    ],
    "group": [{"name": "g", "engines": ["two"]}],
    "queue": [
        {"name": "d0", "group": "g", "mode": "dedicated", "size": 4, "priority": 9},
        {"name": "d1", "group": "g", "mode": "dedicated", "size": 4, "priority": 2},
    ],
    "type": [type_table(name) for name in TABLE],
}


class Model:
    """What there is, share by share."""

    def __init__(self):
        self.row = [None] * SHARES
        self.taken = {}  # who → (type, start or None, work queue or None)

    def copy(self):
        other = Model()
        other.row, other.taken = list(self.row), dict(self.taken)
        return other

    def place(self, name):
        """(start, work queue) of the next slice; None if it does not fit."""
        compute, shares, starts, queues = TABLE[name]
        used = [TABLE[kind] for kind, *_ in self.taken.values()]
        if sum(each[0] for each in used) + compute > COMPUTE and compute:
            return None
        if sum(each[3] for each in used) + queues > QUEUES:
            return None
        if not shares:
            held = {queue for *_, queue in self.taken.values()}
            left = [queue for queue in QUEUE_NAMES if queue not in held]
            return (None, left[0]) if left else None
        for start in starts:
            if all(self.row[at] is None for at in range(start, start + shares)):
                return start, None
        return None

    def add(self, who, name):
        start, queue = self.place(name)
        self.taken[who] = (name, start, queue)
        if start is not None:
            for at in range(start, start + TABLE[name][1]):
                self.row[at] = who

    def remove(self, who):
        del self.taken[who]
        self.row = [None if each == who else each for each in self.row]

    def available(self, name):
        trial, count = self.copy(), 0
        while trial.place(name) is not None:
            trial.add(f"trial {count}", name)
            count += 1
        return count


class Slices(RuleBasedStateMachine):
    """Slices come and go; each marks all the memory that it has."""

    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.parent = Bench(SPEC).parent
        self.model = Model()
        self.marks = {}

    @rule(target=held, name=st.sampled_from(list(TABLE)))
    def create(self, name):
        expected = self.model.place(name)
        if expected is None:
            with pytest.raises(ConfigError) as caught:
                self.parent.create(f"mdevemu-{name}")
            assert caught.value.number == errno.EUSERS
            return None
        mdev = self.parent.create(f"mdevemu-{name}")
        start, queue = expected
        assert mdev.place.work_queue == queue
        assert mdev.place.hbm == (None if start is None else start * SHARE)
        self.model.add(mdev.uuid, name)
        if start is not None:
            size = TABLE[name][1] * SHARE
            assert (mdev.partition.offset, mdev.partition.size) == (start * SHARE, size)
            mdev.port.enabled = True
            for at in range(0, size, MIB // 2):
                assert mdev.port.read(HBM_IOVA + at, 4096) == bytes(4096)
            mark = bytes([len(self.marks) % 255 + 1]) * 4096
            for at in range(0, size, MIB // 2):
                mdev.port.write(HBM_IOVA + at, mark)
            self.marks[mdev.uuid] = mark
        return mdev

    @rule(mdev=consumes(held))
    def remove(self, mdev):
        if mdev is None:
            return
        self.parent.remove(mdev)
        self.model.remove(mdev.uuid)

    @invariant()
    def nobody_overlaps_and_everybody_keeps_his_own(self):
        ends = 0
        mdevs = [each for each in self.parent.mdevs.values() if each.partition]
        for mdev in sorted(mdevs, key=lambda each: each.partition.offset):
            assert mdev.partition.offset >= ends
            ends = mdev.partition.offset + mdev.partition.size
            assert mdev.port.read(HBM_IOVA, 4096) == self.marks[mdev.uuid]
            assert (
                mdev.port.read(HBM_IOVA + mdev.partition.size - MIB // 2, 1)
                == (self.marks[mdev.uuid][:1])
            )
        assert ends <= SHARES * SHARE

    @invariant()
    def counts_are_what_can_be_created(self):
        for kind in self.parent.types.values():
            assert self.parent.available(kind) == self.model.available(kind.name), kind.name

    def teardown(self):
        for mdev in list(self.parent.mdevs.values()):
            self.parent.remove(mdev)


TestSlices = Slices.TestCase
TestSlices.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_slice_of_a_work_queue_has_its_engines_and_its_priority():
    parent = Bench(SPEC).parent
    first, second = (parent.create("mdevemu-wq") for _ in range(2))
    assert (first.flow.weight, second.flow.weight) == (9, 2)
    assert parent.create("mdevemu-free").flow.weight == 1
    assert parent.available(parent.type("mdevemu-wq")) == 0
    engines = first.personality.slice.engines.all
    assert [each.name for each in engines] == ["two"]
    assert engines[0] is parent.engines.all[1]
