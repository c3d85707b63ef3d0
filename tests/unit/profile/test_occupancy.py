"""What fits, why not, and what would have to move."""

import pytest

from mdevemu.profile import Holding, Move, Occupancy, Place, explain, load, locate, parse
from mdevemu.units import GIB, MIB

SHARE = 5 * GIB


@pytest.fixture
def spec():
    return load(locate("hbm-8x"))


def kind_of(spec, name):
    return next(kind for kind in spec.types if kind.name == name)


def filled(spec, *names, **attached):
    """An accelerator on which these were created, one after the other."""
    now = Occupancy(spec)
    for at, name in enumerate(names):
        kind = kind_of(spec, name)
        who = f"m{at}"
        now = now.with_(Holding(who, kind, now.place(kind), who in attached))
    return now


def rooms(now):
    return {kind.name: now.available(kind) for kind in now.spec.types}


def test_empty_accelerator_has_room_for_what_nvidia_says(spec):
    assert rooms(Occupancy(spec)) == {
        "1g.5gb": 7,
        "1g.10gb": 4,
        "2g.10gb": 3,
        "3g.20gb": 2,
        "4g.20gb": 1,
        "7g.40gb": 1,
    }


def test_available_instances_fall_for_every_type_that_shares_the_resource(spec):
    assert rooms(filled(spec, "3g.20gb")) == {
        "1g.5gb": 3,
        "1g.10gb": 2,
        "2g.10gb": 1,
        "3g.20gb": 1,
        "4g.20gb": 0,
        "7g.40gb": 0,
    }
    assert rooms(filled(spec, "4g.20gb", "3g.20gb")) == dict.fromkeys(rooms(Occupancy(spec)), 0)


def test_lowest_start_comes_first(spec):
    now = filled(spec, "1g.5gb", "2g.10gb", "1g.5gb", "1g.10gb")
    assert [each.place.hbm // SHARE for each in now.held] == [0, 2, 1, 4]


def test_refusal_says_what_blocks(spec):
    now = filled(spec, "1g.5gb", "1g.5gb")
    (lacking,) = now.lacking(kind_of(spec, "4g.20gb"))
    assert lacking == "every place of its 4 memory shares is taken: share 0 (m0, m1)"
    assert now.blocking(kind_of(spec, "4g.20gb")) == ["m0", "m1"]
    now = filled(spec, *["1g.5gb"] * 7)
    lacking = now.lacking(kind_of(spec, "2g.10gb"))
    assert "7 of 7 compute shares are in use, it takes 2" in lacking


def test_moves_are_the_fewest(spec):
    found = explain(filled(spec, "1g.5gb"), kind_of(spec, "4g.20gb"))
    assert found.moves == (Move("m0", "mdevemu-1g.5gb", 0, 4 * SHARE, False),)
    two = explain(filled(spec, "1g.5gb", "1g.5gb"), kind_of(spec, "4g.20gb"))
    assert [(move.name, move.target // SHARE) for move in two.moves] == [("m0", 4), ("m1", 5)]


def test_slice_of_a_vm_is_moved_only_if_nothing_else_does(spec):
    """Two halves, a small slice in each: one of them must go to the other half."""
    small = kind_of(spec, "1g.5gb")
    half = kind_of(spec, "3g.20gb")
    for attached, expected in ((0, "m1"), (1, "m0")):
        now = Occupancy(
            spec,
            [Holding(f"m{at}", small, Place(at * 4 * SHARE), at == attached) for at in (0, 1)],
        )
        (move,) = explain(now, half).moves
        assert (move.name, move.attached) == (expected, False)


def test_no_moves_help_when_something_else_is_used_up(spec):
    found = explain(filled(spec, "3g.20gb", "3g.20gb"), kind_of(spec, "2g.10gb"))
    assert found.moves is None
    assert not found.exhausted
    assert found.fitting == {}
    assert found.blocking == ("m0", "m1")


def test_what_fits_needs_no_explanation(spec):
    found = explain(Occupancy(spec), kind_of(spec, "3g.20gb"))
    assert (found.place, found.lacking, found.moves) == (Place(0), (), ())


FREE = {
    "accelerator": {"name": "free", "hbm": "16MiB"},
    "engine": [{"name": "e", "operations": ["copy"]}],
    "type": [{"name": str(size), "hbm": f"{size}MiB"} for size in (2, 4, 6, 8)],
}


def test_moves_of_types_without_starts_close_the_gaps():
    spec = parse("free", FREE)
    two = kind_of(spec, "2")
    now = Occupancy(spec, [Holding(f"m{at}", two, Place(at * 4 * MIB)) for at in range(4)])
    found = explain(now, kind_of(spec, "8"))
    assert len(found.moves) == 2
    moved = {move.name: move.target for move in found.moves}
    places = {each.name: moved.get(each.name, each.place.hbm) for each in now.held}
    assert len(set(places.values())) == 4
    after = Occupancy(spec, [Holding(name, two, Place(at)) for name, at in places.items()])
    assert after.place(kind_of(spec, "8")) is not None


def test_search_for_moves_ends():
    """More ways to move 128 slices than anybody could look at."""
    types = [{"name": "2", "hbm": "2MiB"}, {"name": "600", "hbm": "600MiB"}]
    head = {"accelerator": {"name": "free", "hbm": "1GiB"}}
    spec = parse("free", FREE | head | {"type": types})
    two = kind_of(spec, "2")
    held = [Holding(f"m{at}", two, Place(at * 8 * MIB)) for at in range(128)]
    found = explain(Occupancy(spec, held), kind_of(spec, "600"))
    assert (found.moves, found.exhausted) == (None, True)


def test_pools_and_work_queues_limit_too():
    spec = parse(
        "pools",
        {
            "accelerator": {"name": "pools", "hbm": 0, "queues": 8, "pasids": 3},
            "engine": [{"name": "e", "operations": ["copy"]}],
            "group": [{"name": "g", "engines": ["e"]}],
            "queue": [
                {"name": name, "group": "g", "mode": mode, "size": 1}
                for name, mode in (("d0", "dedicated"), ("d1", "dedicated"), ("s0", "shared"))
            ],
            "type": [
                {"name": "d", "queues": 1, "work-queues": ["d0", "d1"]},
                {"name": "s", "queues": 1, "work-queues": ["s0"]},
                {"name": "q", "queues": 4},
                {"name": "r", "queues": 1, "attach": "rid"},
            ],
        },
    )
    assert rooms(Occupancy(spec)) == {"d": 2, "s": 3, "q": 2, "r": 8}
    now = filled(spec, "d")
    assert now.held[0].place == Place(None, "d0")
    assert rooms(now) == {"d": 1, "s": 2, "q": 1, "r": 7}
    now = filled(spec, "d", "d", "s")
    assert [each.place.work_queue for each in now.held] == ["d0", "d1", "s0"]
    assert rooms(now) == {"d": 0, "s": 0, "q": 0, "r": 5}
    assert now.lacking(kind_of(spec, "d")) == [
        "3 of 3 PASIDs are in use, it takes 1",
        "each of the work queues d0, d1 is taken",
    ]
