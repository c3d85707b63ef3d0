"""Plans: what stays, what goes, what is made, and that all of it fits."""

import errno
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.errors import ConfigError
from mdevemu.profile import Holding, Occupancy, Place, load, locate
from mdevemu.profile.layout import plan
from mdevemu.units import GIB

SHARE = 5 * GIB
SPEC = load(locate("hbm-8x"))
TYPES = {kind.name: kind for kind in SPEC.types}


def held(*slices):
    """An accelerator with slices: (name, type, share), and True if a VMM has it."""
    return Occupancy(
        SPEC,
        [
            Holding(name, TYPES[kind], Place(share * SHARE), bool(attached))
            for name, kind, share, *attached in slices
        ],
    )


def wanted(**counts):
    return {f"mdevemu-{name.replace('_', '.')}": count for name, count in counts.items()}


def refusal(now, *, force=False, **counts):
    with pytest.raises(ConfigError) as caught:
        plan(now, {f"mdevemu-{kind}": count for kind, count in counts.items()}, force=force)
    return caught.value


def test_what_is_there_and_wanted_stays():
    now = held(("a", "1g.5gb", 0), ("b", "1g.5gb", 1), ("c", "3g.20gb", 4))
    made = plan(now, {"mdevemu-3g.20gb": 1, "mdevemu-1g.5gb": 1}, force=False)
    assert (made.keep, made.remove, made.create) == (("a", "c"), ("b",), ())


def test_largest_come_first_so_that_all_fit():
    made = plan(held(), {"mdevemu-1g.5gb": 3, "mdevemu-4g.20gb": 1}, force=False)
    assert [(each.type.name, each.place.hbm // SHARE) for each in made.create] == [
        ("4g.20gb", 0),
        ("1g.5gb", 4),
        ("1g.5gb", 5),
        ("1g.5gb", 6),
    ]


def test_what_is_in_the_way_and_has_no_vmm_is_made_again_elsewhere():
    now = held(("a", "1g.5gb", 0))
    made = plan(now, {"mdevemu-1g.5gb": 1, "mdevemu-4g.20gb": 1}, force=False)
    assert (made.keep, made.remove) == ((), ("a",))
    assert [(each.type.name, each.again) for each in made.create] == [
        ("4g.20gb", None),
        ("1g.5gb", "a"),
    ]


def test_what_a_vmm_has_is_not_touched():
    now = held(("a", "1g.5gb", 0, True), ("b", "1g.5gb", 1))
    kept = plan(now, {"mdevemu-1g.5gb": 1}, force=False)
    assert (kept.keep, kept.remove) == (("a",), ("b",))
    refused = refusal(now, **{"4g.20gb": 1, "1g.5gb": 1})
    assert refused.number == errno.EUSERS
    assert "no room for mdevemu-4g.20gb: every place of its 4 memory shares" in str(refused)
    refused = refusal(now, **{"2g.10gb": 1})
    assert (refused.number, "a: attached to a VMM" in str(refused)) == (errno.EBUSY, True)
    forced = plan(now, {"mdevemu-4g.20gb": 1, "mdevemu-1g.5gb": 1}, force=True)
    assert set(forced.remove) == {"a", "b"}


def test_what_does_not_fit_is_refused_with_what_is_lacking():
    refused = refusal(held(), **{"7g.40gb": 1, "1g.5gb": 1}, force=True)
    assert refused.number == errno.EUSERS
    assert "no room for mdevemu-1g.5gb" in str(refused)


def test_nothing_is_a_layout_too():
    made = plan(held(("a", "1g.5gb", 0)), {}, force=False)
    assert (made.keep, made.remove, made.create) == ((), ("a",), ())


def planned(now, ids, force):
    """A plan, or how it is refused."""
    try:
        return plan(now, ids, force=force)
    except ConfigError as refused:
        return refused


slices = st.lists(
    st.tuples(st.sampled_from(sorted(TYPES)), st.booleans(), st.booleans()), max_size=7
)
counts = st.dictionaries(st.sampled_from(sorted(TYPES)), st.integers(0, 4), max_size=3)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(slices, counts, st.booleans())
def test_a_plan_leads_to_the_layout_and_spares_what_has_a_vmm(given_slices, asked, force):
    now = Occupancy(SPEC)
    for number, (kind, attached, gone) in enumerate(given_slices):
        place = now.place(TYPES[kind])
        if place is not None:
            now = now.with_(Holding(f"m{number}", TYPES[kind], place, attached))
            if gone:
                now = now.without(now.held[-1])
    ids = {TYPES[kind].id: count for kind, count in asked.items()}
    made = planned(now, ids, force)
    if isinstance(made, ConfigError):
        assert made.number in (errno.EBUSY, errno.EUSERS)
        return
    names = [each.name for each in now.held]
    assert sorted([*made.keep, *made.remove]) == sorted(names)
    after = Occupancy(SPEC, [each for each in now.held if each.name in made.keep])
    for number, each in enumerate(made.create):
        assert after.place(each.type) == each.place
        after = after.with_(Holding(f"new {number}", each.type, each.place))
    assert Counter(each.type.id for each in after.held) == +Counter(ids)
    assert force or not any(each.attached for each in now.held if each.name in made.remove)
