"""The benches of fairness and scale: arithmetic, and what they say; how fast it is, is no test."""

import pytest

from hostctl.bench.fairness import Fairness, Share, Wait, jain, read_tenant
from hostctl.bench.scale import Scale
from hostctl.bench.tenant import Wanted
from tests.unit.hostctl.command import Hostctl


@pytest.fixture
def hostctl(tmp_path):
    return Hostctl(tmp_path)


@pytest.mark.parametrize(
    ("each", "expected"), [([3, 3, 3], 1), ([1, 0, 0, 0], 0.25), ([1, 3], 0.8), ([0, 0], 1)]
)
def test_jains_index(each, expected):
    assert jain(each) == pytest.approx(expected)


@pytest.mark.parametrize(("time", "fair"), [(0.52, True), (0.48, True), (0.53, False)])
def test_share_is_fair_within_a_twentieth_of_its_due(time, fair):
    shares = [Share("large:1", 1, 0.5, 0.4, time), Share("tiny:1", 1, 0.5, 0.6, 0.5)]
    assert Fairness(shares, 1, []).fair is fair


@pytest.mark.parametrize(
    ("ratio", "aimed", "held"), [(3.0, True, True), (3.1, True, False), (9.0, False, True)]
)
def test_wait_is_judged_where_there_is_an_aim(ratio, aimed, held):
    assert Wait("tiny:1", "large:1", 1, 1, ratio, aimed).held is held


@pytest.mark.parametrize(
    ("mdevs", "seconds", "held"),
    [(999, 90, None), (1000, 20, True), (1000, 21, False), (2000, 39, True)],
)
def test_scale_is_judged_from_a_thousand_on(mdevs, seconds, held):
    assert Scale(mdevs, seconds, 1, 1, 1, 0, 0).held is held


@pytest.mark.parametrize("text", ["large", "large:", "large:0", "large:1001", "huge:1", "tiny:x"])
def test_tenant_that_is_none(text):
    assert read_tenant(text) is None


def test_tenant_is_a_kind_and_a_weight():
    assert read_tenant("tiny:1000") == Wanted("tiny", 1000)


def test_fairness_measures_every_tenant(hostctl):
    arguments = ("--tenant", "large:2", "--tenant", "tiny:1", "--tenant", "large:1")
    facts = hostctl.facts("bench", "fairness", *arguments, "--seconds", "0.3", "--rounds", "1")
    shares = facts["shares"]
    assert [(each["tenant"], each["due"]) for each in shares] == [
        ("large:2", 0.5),
        ("tiny:1", 0.25),
        ("large:1", 0.25),
    ]
    assert sum(each["work"] for each in shares) == pytest.approx(1)
    assert sum(each["time"] for each in shares) == pytest.approx(1)
    waits = [(each["tenant"], each["beside"], each["aimed"]) for each in facts["waits"]]
    assert waits[3:6] == [
        ("tiny:1", "nobody", False),
        ("tiny:1", "large:2", True),
        ("tiny:1", "all others", False),
    ]
    assert len(waits) == 9
    assert all(0 < each["p50"] <= each["p99"] for each in facts["waits"])


def test_scale_measures_ten_and_as_many_as_asked(hostctl):
    facts = hostctl.facts("bench", "scale", "--mdevs", "40", "--idle", "0.1")
    assert [row["mdevs"] for row in facts["rows"]] == [10, 40]
    for row in facts["rows"]:
        assert row["create"] > 0
        assert row["remove"] > 0
        assert row["memory"] > 0
        assert row["held"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fairness", "--tenant", "large:0"), "large or tiny, then :1 to :1000"),
        (("fairness", "--tenant", "large:1"), "two or more"),
        (("scale", "--mdevs", "0"), "--mdevs"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(hostctl, arguments, said):
    done = hostctl.run("bench", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
