"""A guest with slices of each shipped profile runs the agent's checks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostctl.guest import Agent
from mdevemu.profile import load, locate, shipped
from tests.unit.hostctl.command import Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

SLICES = {
    "demo": ("half", "half"),
    "hbm-8x": ("1g.5gb", "3g.20gb"),
    "queues": ("1dwq", "1dwq"),
    "rid": ("function", "function"),
}
WEIGHTS = {"demo": (1, 1), "hbm-8x": (1, 3), "queues": (10, 5), "rid": (1, 1)}
OPERATIONS = {"demo": 10, "hbm-8x": 10, "queues": 5, "rid": 10}
STOCK = {"ioat"}
"""What Linux's own driver and dmatest check, in test_ioat."""

LAB = """
[lab]
name = "one"
accelerator = "{profile}"
[[mdev]]
name = "red"
type = "{first}"
[[mdev]]
name = "blue"
type = "{second}"
[[vm]]
name = "guest"
mdevs = ["red", "blue"]
memory = "512MiB"
"""


@pytest.fixture(scope="module", params=sorted(SLICES))
def guest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Hostctl, Agent]]:
    """A VM that has both slices: the profile's name, hostctl, and its agent."""
    first, second = SLICES[request.param]
    file = tmp_path_factory.mktemp("lab") / "one.toml"
    file.write_text(LAB.format(profile=request.param, first=first, second=second))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        hostctl = Hostctl(Path(name))
        session = hostctl.up(str(file))
        folder = Path(hostctl.facts("ps")["labs"][0]["folder"])
        with Agent(folder / "guest.agent.sock") as agent:
            yield request.param, hostctl, agent
        session.close()
        assert hostctl.left_nothing()


def test_no_shipped_profile_is_left_out() -> None:
    assert {*SLICES} | STOCK == {*shipped()}


def test_slices_have_what_their_types_say(guest: tuple[str, Hostctl, Agent]) -> None:
    name, hostctl, _ = guest
    types = {kind.id: kind for kind in load(locate(name)).types}
    mdevs = {mdev["name"]: mdev for mdev in hostctl.facts("mdev", "show")["mdevs"]}
    for mdev in mdevs.values():
        assert mdev["hbm_size"] == types[mdev["type"]].hbm
    assert (mdevs["red"]["weight"], mdevs["blue"]["weight"]) == WEIGHTS[name]


def test_guest_is_told_that_an_engine_was_reprogrammed(guest: tuple[str, Hostctl, Agent]) -> None:
    _, hostctl, agent = guest
    one = "0000:01:00.0"
    agent.check("identity", {}, device=one)
    engines = {each["name"]: each for each in hostctl.facts("engine", "list")["engines"]}
    victim = next(each for each in engines.values() if "red" in each["mdevs"])
    others = {
        each
        for other in engines.values()
        if other is not victim and "red" in other["mdevs"]
        for each in other["operations"]
    }
    facts = hostctl.facts("engine", "reprogram", victim["name"], "sha256")
    assert facts["engines"][0]["operations"] == ["sha256"]
    found = agent.check("identity", {}, device=one)
    assert (found["functions-changed"], found["events"]) == (True, 1)
    assert {each.replace("-", "_") for each in found["operations"]} == others | {"sha256", "chain"}
    hostctl.run("engine", "reprogram", victim["name"], *victim["operations"])
    assert agent.check("identity", {}, device=one)["functions-changed"] is True
    assert agent.check("identity", {}, device=one)["functions-changed"] is False


def test_checks_of_the_agent_hold(guest: tuple[str, Hostctl, Agent]) -> None:
    """Every operation that the engines of the slice have gives the CPU's result."""
    name, _, agent = guest
    for address in ("0000:01:00.0", "0000:02:00.0"):
        assert agent.check("identity", {}, device=address)["wrong"] == []
        facts: dict[str, Any] = agent.check("operations", {"rounds": 1}, device=address)
        results = facts["operations"]
        assert len(results) == OPERATIONS[name]
        for operation, found in results.items():
            assert (found["mismatches"], found["equal"]) == ([], found["runs"]), operation
