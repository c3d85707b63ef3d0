"""The command that reprograms an engine: who is told, and who is not."""

import pytest

from mdevemu.errors import ConfigError
from mdevemu.reprogramming import Reprogramming
from tests.support.bench import Bench
from tests.support.native import EVENT_STATUS, FUNCTION_SET, OPERATION_BITS, Driver
from tests.unit.accel.test_reprogramming import two


@pytest.fixture
def made():
    bench, told = Bench(two()), []
    one, other = Driver(bench), Driver(bench, "elsewhere")
    work = Reprogramming(bench.parent, lambda name, facts: told.append((name, facts)))
    commands = {each.name: each.run for each in work.commands()}
    yield commands, told, one, other
    one.close()
    other.close()


def seen(driver):
    return [driver.read(at, 4) for at in (FUNCTION_SET, EVENT_STATUS, OPERATION_BITS)]


def test_only_slices_with_the_engine_are_told(made):
    commands, told, one, other = made
    before = seen(other)
    reply = commands["reprogram-engine"](engine="dma0", operations=["fill"], policy="drain")
    assert (reply["aborted"], reply["changing"], reply["version"]) == (0, None, 1)
    assert seen(one)[:2] == [1, 1]
    assert seen(other) == before
    ((name, facts),) = told
    assert (name, facts["operations"]) == ("ENGINE_REPROGRAMMED", ["fill"])
    assert facts["mdevs"] == [one.mdev.name]


def test_refusal_changes_nothing(made):
    commands, told, one, _ = made
    before = seen(one), commands["query-engines"]()
    for wrong in (
        {"engine": "dma1", "operations": ["fill"], "policy": "drain"},
        {"engine": "dma0", "operations": ["fill", "fil"], "policy": "drain"},
        {"engine": "dma0", "operations": ["fill"], "policy": "wait"},
    ):
        with pytest.raises(ConfigError, match="unknown"):
            commands["reprogram-engine"](**wrong)
    assert (seen(one), commands["query-engines"](), told) == (*before, [])
