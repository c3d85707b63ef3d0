"""One guest with slices of every shipped profile runs the agent's checks on each of them."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostctl.control import Mdev
from hostctl.emulator import Emulator
from hostctl.guest import Agent, answers
from hostctl.guest_line import AgentRefused
from hostctl.machine import guest_machine, pick_accelerator
from hostctl.output import Output
from hostctl.vm.qemu import Vm
from hostctl.vm.spec import Plan, Slot
from mdevemu.profile import load, locate, shipped
from mdevemu.units import MIB
from tests.unit.hostctl.command import Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

BOOT_SECONDS = 180.0

SLICES = {
    "demo": ("half", "half"),
    "hbm-8x": ("1g.5gb", "3g.20gb"),
    "ioat": ("ioat",),
    "queues": ("1dwq", "1dwq", "1swq"),
    "rid": ("function", "function"),
}
NATIVE = [name for name in SLICES if name != "ioat"]
WEIGHTS = {"demo": [1, 1], "hbm-8x": [1, 3], "ioat": [1], "queues": [10, 5, 10], "rid": [1, 1]}

OPERATIONS = {"nop", "copy", "fill", "compare", "crc32c"}
PRESSING = {"deflate", "inflate"}
SEALING = {"sha256", "aes-gcm-encrypt", "aes-gcm-decrypt"}
OFFERED = {
    "half": OPERATIONS | PRESSING | SEALING,
    "1g.5gb": OPERATIONS | PRESSING | SEALING,
    "3g.20gb": OPERATIONS | PRESSING | SEALING,
    "1dwq": OPERATIONS,
    "1swq": OPERATIONS | PRESSING,
    "function": OPERATIONS | PRESSING | SEALING,
}

MOVES = {"copy x 16", "copy > compare", "fill > copy > compare"}
ACROSS = {"copy > crc32c"}
"""Of engines without a link between them, wherever they are two."""
WORKS = {
    "deflate > inflate > sha256",
    "inflate > crc32c",
    "deflate > aes-gcm-encrypt",
    "aes-gcm-decrypt > inflate",
    "deflate > aes-gcm-encrypt > aes-gcm-decrypt > inflate > sha256",
}
CHAINS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "half": (MOVES | WORKS, ACROSS, set()),
    "1g.5gb": (MOVES | WORKS, ACROSS, set()),
    "3g.20gb": (MOVES | WORKS, ACROSS, set()),
    "1dwq": (MOVES | ACROSS, set(), WORKS),
    "function": (MOVES | WORKS, ACROSS, set()),
}
"""By type: chains that run, that are unlinked, and that lack an operation."""


@dataclass(frozen=True)
class Slice:
    """A slice of a profile's, and where the guest has it."""

    mdev: Mdev
    type: str
    address: str


@dataclass(frozen=True)
class Guest:
    """The VM's agent, the accelerators by profile, and their slices.

    ``drivers`` had the functions before the first check, by address.
    """

    agent: Agent
    emulators: dict[str, Emulator]
    slices: dict[str, list[Slice]]
    drivers: dict[str, object]


def drivers(agent: Agent) -> dict[str, object]:
    """Which driver has each function now."""
    return {str(each["address"]): each["driver"] for each in agent.devices()}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """The one VM: each profile has an accelerator, each slice a slot."""
    folder = tmp_path_factory.mktemp("profiles")
    emulators: dict[str, Emulator] = {}
    slices: dict[str, list[Slice]] = {}
    slots: list[Slot] = []
    with contextlib.ExitStack() as stack:
        for profile, types in SLICES.items():
            place = folder / profile
            made = Emulator(locate(profile), place, folder / f"{profile}.log", os.getpid())
            stack.callback(made.close)
            emulators[profile], slices[profile] = made, []
            for number, kind in enumerate(types):
                name = f"{profile}.{number}"
                mdev = made.control.create(f"mdevemu-{kind}", name=name, uuid=None, weight=None)
                slots.append(Slot(f"slice{len(slots)}", Path(mdev.socket)))
                address = f"0000:{len(slots):02x}:00.0"
                slices[profile].append(Slice(mdev, kind, address))
        vm = boot(folder, slots)
        stack.callback(vm.close)
        vm.wait_ready(answers, BOOT_SECONDS)
        agent = stack.enter_context(contextlib.closing(Agent(folder / "agent.sock")))
        agent.load_module("ioatdma")
        yield Guest(agent, emulators, slices, drivers(agent))


def boot(folder: Path, slots: list[Slot]) -> Vm:
    """A VM with those slots."""
    output = Output()
    machine = guest_machine(output)
    plan = Plan(
        name="guest",
        memory=512 * MIB,
        cpus=1,
        iommu="intel",
        kernel=(),
        slots=tuple(slots),
        accelerator=pick_accelerator(machine, "auto", output),
        agent=folder / "agent.sock",
        qmp=folder / "qmp.sock",
        console=folder / "console.log",
        log=folder / "qemu.log",
    )
    return Vm(plan, machine)


def test_no_shipped_profile_is_left_out() -> None:
    assert {*SLICES} == {*shipped()}


@pytest.mark.parametrize("profile", SLICES)
def test_slices_have_what_their_types_say(guest: Guest, profile: str) -> None:
    types = {kind.id: kind for kind in load(locate(profile)).types}
    mdevs = guest.emulators[profile].control.mdevs()
    assert all(mdev.attached for mdev in mdevs)
    assert [mdev.hbm_size for mdev in mdevs] == [types[mdev.type].hbm for mdev in mdevs]
    assert [mdev.weight for mdev in mdevs] == WEIGHTS[profile]


@pytest.mark.parametrize("profile", NATIVE)
def test_guest_is_told_that_an_engine_was_reprogrammed(
    guest: Guest, profile: str, tmp_path: Path
) -> None:
    agent, hostctl = guest.agent, Hostctl(tmp_path)
    control = ("--control", guest.emulators[profile].control_path)
    red, one = f"{profile}.0", guest.slices[profile][0].address
    agent.check("identity", {}, device=one)
    engines = {each["name"]: each for each in hostctl.facts("engine", "list", *control)["engines"]}
    victim = next(each for each in engines.values() if red in each["mdevs"])
    others = {
        each
        for other in engines.values()
        if other is not victim and red in other["mdevs"]
        for each in other["operations"]
    }
    facts = hostctl.facts("engine", "reprogram", victim["name"], "sha256", *control)
    assert facts["engines"][0]["operations"] == ["sha256"]
    found = agent.check("identity", {}, device=one)
    assert (found["functions-changed"], found["events"]) == (True, 1)
    assert {each.replace("-", "_") for each in found["operations"]} == others | {"sha256", "chain"}
    hostctl.run("engine", "reprogram", victim["name"], *victim["operations"], *control)
    assert agent.check("identity", {}, device=one)["functions-changed"] is True
    assert agent.check("identity", {}, device=one)["functions-changed"] is False


@pytest.mark.parametrize("profile", SLICES)
def test_identity_of_each_slice_is_in_order(guest: Guest, profile: str) -> None:
    ids = "8086:2021" if profile == "ioat" else "1234:acc1"
    for each in guest.slices[profile]:
        facts = guest.agent.check("identity", {}, device=each.address)
        assert (facts["wrong"], facts["ids"]) == ([], ids)


@pytest.mark.parametrize("profile", NATIVE)
def test_operations_of_each_slice_give_the_processors_results(guest: Guest, profile: str) -> None:
    for each in guest.slices[profile]:
        facts: dict[str, Any] = guest.agent.check("operations", {}, device=each.address)
        assert {*facts["operations"]} == OFFERED[each.type]
        assert facts["unchecked"] == ["chain"]
        for operation, found in facts["operations"].items():
            assert (found["mismatches"], found["equal"]) == ([], found["runs"]), operation
            assert found["runs"] >= 6
        assert [mistake for mistake in facts["errors"] if not mistake["ok"]] == []


@pytest.mark.parametrize("profile", NATIVE)
def test_chains_run_where_engines_are_linked(guest: Guest, profile: str) -> None:
    for each in guest.slices[profile]:
        facts: dict[str, Any] = guest.agent.check("chains", {}, device=each.address)
        if each.type == "1swq":
            assert facts == {"skipped": "chains need 589824 bytes of HBM, the slice has 0"}
            continue
        runs, unlinked, lacking = CHAINS[each.type]
        chains = facts["chains"]
        assert [found["mismatches"] for found in chains.values()] == [[]] * len(chains)
        assert {name for name, found in chains.items() if found["equal"] == 4} == runs
        assert {name for name, found in chains.items() if found["unlinked"] == 1} == unlinked
        assert {*facts["not-offered"]} == lacking
        assert facts["secret"] == {"status": "success", "passed-on": True, "outside-hbm": []}
        assert facts["commands"] == facts["completions"] == facts["interrupts"]
        assert len(facts["errors"]) >= 23
        assert [mistake for mistake in facts["errors"] if not mistake["ok"]] == []


@pytest.mark.parametrize("profile", NATIVE)
def test_trespasses_at_the_edges_of_each_slice_fault(guest: Guest, profile: str) -> None:
    for each in guest.slices[profile]:
        facts: dict[str, Any] = guest.agent.check("trespass", {}, device=each.address)
        refused = [found for found in facts["own"] if not found["own"]]
        assert len(refused) >= 7
        assert {found["status"] for found in refused} == {"read-fault", "write-fault"}
        assert not any(found["moved"] for found in refused)
        assert facts["alive"] is True


def test_channels_of_i_oat_are_taken_from_linuxs_driver_and_hold(guest: Guest) -> None:
    [one] = guest.slices["ioat"]
    assert guest.drivers[one.address] == "ioatdma", "it had the function when the guest was up"
    facts: dict[str, Any] = guest.agent.check("channels", {}, device=one.address)
    cases = dict.fromkeys(("copy", "null", "chain", "suspension", "reset"))
    assert facts["channels"] == [
        {"channel": number, "vector": number, "cases": cases} for number in range(4)
    ]
    assert (facts["together"], facts["reset"]) == (None, None)
    assert len(facts["errors"]) == 14
    assert [mistake for mistake in facts["errors"] if not mistake["ok"]] == []
    assert drivers(guest.agent)[one.address] == "vfio-pci"
    counted = guest.emulators["ioat"].control.counters()[one.mdev.name]
    assert counted.faults >= 13, "what the check did was refused by the device"


def test_check_for_another_personality_is_refused_by_name(guest: Guest) -> None:
    [one], (other, *_) = guest.slices["ioat"], guest.slices["demo"]
    with pytest.raises(AgentRefused, match=r"is ioat \(accepted: identity, channels\)"):
        guest.agent.check("operations", {}, device=one.address)
    with pytest.raises(AgentRefused, match="is native "):
        guest.agent.check("channels", {}, device=other.address)
