"""Stacks, links, chains, groups, work queues, shares: what of a profile goes together."""

import copy

import pytest

from mdevemu.errors import ConfigError
from mdevemu.profile import load, locate, parse, shipped
from mdevemu.units import GIB, MIB

WHOLE = {
    "accelerator": {
        "name": "whole",
        "address": "0001:3b:02.5",
        "queues": 8,
        "compute-shares": 7,
        "memory-shares": 8,
        "queue-entries": 64,
    },
    "engine": [{"name": name, "operations": ["copy"]} for name in "abc"],
    "hbm": [
        {"name": "h0", "size": "8MiB", "engines": ["a", "b"]},
        {"name": "h1", "size": "8MiB", "engines": ["c"]},
    ],
    "link": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}],
    "chain": [{"name": "all", "engines": ["a", "b", "c"]}],
    "group": [{"name": "g0", "engines": ["a"]}, {"name": "g1", "engines": ["b", "c"]}],
    "queue": [
        {"name": "q0", "group": "g0", "mode": "dedicated", "size": 32, "priority": 15},
        {"name": "q1", "group": "g1", "mode": "shared", "size": 32, "threshold": 16},
    ],
    "type": [
        {"name": "one", "compute": 2, "shares": 1, "starts": [3, 1, 2]},
        {"name": "own", "work-queues": ["q0"]},
        {"name": "some", "engines": ["a", "c"], "hbm": "4MiB"},
    ],
}


def changed(table, index, **keys):
    made = copy.deepcopy(WHOLE)
    where = made[table] if index is None else made[table][index]
    for key, value in keys.items():
        name = key.replace("_", "-")
        if value is None:
            del where[name]
        else:
            where[name] = value
    return made


def test_everything_is_found():
    spec = parse("whole", WHOLE)
    assert (spec.device_id, spec.hbm, spec.share_bytes) == (0x3B15, 16 * MIB, 2 * MIB)
    assert [(each.name, each.base, each.engines) for each in spec.stacks] == [
        ("h0", 0, ("a", "b")),
        ("h1", 8 * MIB, ("c",)),
    ]
    assert (spec.work_queues["q1"].threshold, spec.work_queues["q0"].threshold) == (16, None)
    one, own, some = spec.types
    assert (one.hbm, one.starts) == (2 * MIB, (2 * MIB, 4 * MIB, 6 * MIB))
    assert (one.weight, own.weight, some.weight) == (2, 15, 1)
    assert "compute=2" in one.details.splitlines()
    assert some.engines == ("a", "c")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (changed("accelerator", None, hbm="4MiB"), "[accelerator]: hbm: is for profiles without"),
        (changed("accelerator", None, root="0000"), "[accelerator]: root: '0000' (accepted: as"),
        (changed("accelerator", None, memory_shares=3), "memory-shares: 16777216 bytes of HBM are"),
        (changed("accelerator", None, memory_shares=0), "starts: the accelerator has no"),
        (changed("accelerator", None, compute_shares=0), "compute: the accelerator has no"),
        (changed("accelerator", None, compute_shares=1), "compute: 2 (accepted: a whole number"),
        (changed("accelerator", None, queue_entries=63), "[[queue]] 2: size: all queues together"),
        (changed("hbm", 1, size=0), "[[hbm]] 2: size: 0 (accepted: 2 MiB or more)"),
        (changed("hbm", 1, size="64GiB"), "[[hbm]] 2: size: all stacks together have at most 64"),
        (changed("hbm", 1, engines=["d"]), "[[hbm]] 2: engines: unknown value 'd'"),
        (changed("hbm", 1, name="h0"), "[[hbm]] 2: name: 'h0' is there twice"),
        (changed("link", 0, to="d"), "[[link]] 1: to: unknown value 'd'"),
        (changed("link", 0, to="a"), "[[link]] 1: to: 'a' is where the link begins"),
        (changed("link", 0, to=None), "[[link]] 1: to: is missing"),
        (changed("chain", 0, engines=["a", "c"]), "[[chain]] 1: engines: ['a', 'c'] (accepted: at"),
        (changed("chain", 0, engines=["a"]), "[[chain]] 1: engines: ['a'] (accepted: at least two"),
        (changed("group", 1, engines=["a"]), "[[group]] 2: engines: 'a' is in group 'g0'"),
        (changed("queue", 0, threshold=1), "[[queue]] 1: threshold: is for queues with mode"),
        (changed("queue", 1, threshold=33), "[[queue]] 2: threshold: 33 (accepted"),
        (changed("queue", 1, priority=16), "[[queue]] 2: priority: 16 (accepted"),
        (changed("queue", 1, group="g2"), "[[queue]] 2: group: unknown value 'g2'"),
        (changed("queue", 1, mode=None), "[[queue]] 2: mode: is missing"),
        (changed("type", 0, hbm="2MiB"), "[[type]] 1: hbm: follows from 'shares'"),
        (changed("type", 0, shares=None), "[[type]] 1: shares: is missing"),
        (changed("type", 0, starts=None), "[[type]] 1: shares: is for types with 'starts'"),
        (changed("type", 0, starts=[8]), "[[type]] 1: starts: 8 (accepted: 0 to 7)"),
        (changed("type", 0, starts=[1, 1]), "[[type]] 1: starts: 1 is there twice"),
        (changed("type", 0, starts=[]), "[[type]] 1: starts: [] (accepted: a list of whole"),
        (changed("type", 1, weight=2), "[[type]] 2: weight: follows from the queue"),
        (changed("type", 1, engines=["a"]), "[[type]] 2: engines: follows from the queue"),
        (changed("type", 1, work_queues=["q0", "q1"]), "are not all of one mode"),
        (changed("type", 1, work_queues=["q2"]), "[[type]] 2: work-queues: unknown value 'q2'"),
        (changed("type", 2, queues=9), "[[type]] 3: queues: 9 of the 8 of the accelerator"),
        (WHOLE | {"link": {"from": "a", "to": "b"}}, "link is a list of tables [[link]]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_refused(given, wrong):
    with pytest.raises(ConfigError) as caught:
        parse("whole", given)
    assert wrong in str(caught.value)


BUFFERED = changed("accelerator", None, read_buffers=8, read_buffer_limit=4) | {
    "group": [
        {"name": "g0", "engines": ["a"], "read-buffers": 6, "read-buffers-reserved": 3},
        {"name": "g1", "engines": ["b"], "read-buffers": 5, "use-read-buffer-limit": True},
    ]
}


def buffered(group, **keys):
    """The same with other keys of a group, or of the accelerator: None."""
    made = copy.deepcopy(BUFFERED)
    named = {key.replace("_", "-"): value for key, value in keys.items()}
    (made["accelerator"] if group is None else made["group"][group]).update(named)
    return made


def test_read_buffers_are_found():
    spec = parse("whole", BUFFERED)
    assert (spec.read_buffers, spec.read_buffer_limit) == (8, 4)
    first, second = spec.groups
    assert (first.read_buffers, first.reserved, first.limited) == (6, 3, False)
    assert (second.read_buffers, second.reserved, second.limited) == (5, 0, True)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (buffered(None, read_buffers=0), "[accelerator]: read-buffers: 0 (accepted"),
        (buffered(None, read_buffer_limit=9), "read-buffer-limit: 9 (accepted: a whole number fr"),
        (buffered(0, read_buffers_reserved=7), "[[group]] 1: read-buffers-reserved: 7 (accepted"),
        (buffered(1, read_buffers=6), "[[group]] 2: read-buffers: 6 with 5 of 8 that no group"),
        (
            buffered(1, read_buffers_reserved=5) | buffered(0, read_buffers_reserved=6),
            "[[group]] 2: read-buffers: 5 with 2 of 8 that no group has reserved",
        ),
        (buffered(1, read_buffers_reserved=5), "read-buffers-reserved: all groups reserve 5 of"),
        (buffered(1, use_read_buffer_limit=1), "use-read-buffer-limit: 1 (accepted: true, false)"),
        (
            BUFFERED | {"accelerator": WHOLE["accelerator"] | {"read-buffer-limit": 4}},
            "[[group]] 1: read-buffers-reserved: is for accelerators with 'read-buffers'",
        ),
        (
            BUFFERED | {"accelerator": WHOLE["accelerator"] | {"read-buffers": 8}},
            "[[group]] 2: use-read-buffer-limit: is for accelerators with 'read-buffer-limit'",
        ),
        (
            buffered(None, read_buffers=6, read_buffer_limit=6)
            | {
                "group": [
                    {"name": "g0", "engines": ["a"], "read-buffers-reserved": 6},
                    {"name": "g1", "engines": ["b"]},
                ]
            },
            "[[group]] 2: read-buffers-reserved: 0, and others have reserved all of read-buffers 6",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_read_buffers_that_nobody_can_have_are_refused(given, wrong):
    with pytest.raises(ConfigError) as caught:
        parse("whole", given)
    assert wrong in str(caught.value)


def test_shipped_profiles_can_be_read():
    assert {"demo", "hbm-8x", "ioat", "queues"} <= set(shipped())
    for name in shipped():
        assert load(locate(name)).name == name


def test_profile_that_is_not_shipped_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"'dmeo'; did you mean 'demo'.*or give a path"):
        locate("dmeo")


def test_placement_table_of_the_a100():
    """NVIDIA's MIG User Guide, in memory shares of 5 GiB."""
    spec = load(locate("hbm-8x"))
    assert {
        kind.name: (kind.compute, [at // (5 * GIB) for at in kind.starts], kind.hbm // (5 * GIB))
        for kind in spec.types
    } == {
        "1g.5gb": (1, [0, 1, 2, 3, 4, 5, 6], 1),
        "1g.10gb": (1, [0, 2, 4, 6], 2),
        "2g.10gb": (2, [0, 2, 4], 2),
        "3g.20gb": (3, [0, 4], 4),
        "4g.20gb": (4, [0], 4),
        "7g.40gb": (7, [0], 8),
    }
