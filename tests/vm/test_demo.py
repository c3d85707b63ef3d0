"""``hostctl demo``: two VMs, everything that it claims, and nothing left behind."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostctl.demo.verdict import OPERATIONS
from tests.unit.hostctl.command import Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hostctl() -> Iterator[Hostctl]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        yield Hostctl(Path(name))


@pytest.fixture(scope="module")
def facts(hostctl: Hostctl) -> dict[str, Any]:
    return hostctl.facts("demo", timeout=800)


def test_demo_holds_and_leaves_nothing(hostctl: Hostctl, facts: dict[str, Any]) -> None:
    assert facts["held"] is True
    assert [judgement["held"] for judgement in facts["verdict"]] == [True] * 7
    assert hostctl.left_nothing()


def test_tenants_are_vms_whose_results_are_their_cpus_own(facts: dict[str, Any]) -> None:
    assert facts["variant"] == "vm"
    assert facts["accelerator"] in ("kvm", "tcg")
    assert [tenant["place"] for tenant in facts["tenants"]] == ["VM red", "VM blue"]
    for tenant in facts["tenants"]:
        assert set(tenant["operations"]) == set(OPERATIONS)
        for runs in tenant["operations"].values():
            assert runs["equal"] == runs["runs"] > 0
        assert tenant["interrupts"] > 0
        assert tenant["errors"] == []


def test_trespasses_fault_with_their_own_pasid_and_nobody_notices(facts: dict[str, Any]) -> None:
    pasids = {tenant["name"]: tenant["pasid"] for tenant in facts["tenants"]}
    assert {each["by"] for each in facts["trespasses"]} == set(pasids)
    for each in facts["trespasses"]:
        assert each["status"] in ("read-fault", "write-fault")
        assert each["records"]
        assert {record["pasid"] for record in each["records"]} == {pasids[each["by"]]}
    for witness in facts["witnesses"]:
        assert (witness["changed"], witness["intact"], witness["works"]) == ({}, True, True)


def test_canary_is_found_nowhere_and_the_third_mdev_has_reds_hbm(facts: dict[str, Any]) -> None:
    assert facts["canary"]["neighbour"]["found"] == []
    assert facts["canary"]["heir"]["found"] == []
    red = facts["tenants"][0]
    assert facts["heir"]["hbm_base"] == red["hbm_base"]
    assert facts["heir"]["hbm_size"] == red["hbm_size"]


def test_shares_follow_the_weights(facts: dict[str, Any]) -> None:
    shares = {share["name"]: share["measured"] for share in facts["shares"]}
    assert shares["red"] == pytest.approx(0.75, abs=0.08)


def test_phases_include_set_up_and_boot(facts: dict[str, Any]) -> None:
    assert [step["name"] for step in facts["steps"]] == [
        "set-up",
        "emulator",
        "mdevs",
        "VMs",
        "drivers bound",
        "operations",
        "sharing",
        "trespass",
        "canary",
        "heir",
    ]
    assert sum(step["seconds"] for step in facts["steps"]) == pytest.approx(facts["seconds"], 0.01)


def test_demo_killed_while_booting_leaves_no_process(hostctl: Hostctl) -> None:
    demo = hostctl.start("demo", "--accel", "tcg")
    assert demo.stderr is not None
    for line in demo.stderr:
        if "mdevs" in line:
            break
    os.kill(demo.pid, 9)
    demo.communicate()
    hostctl.facts("cleanup")
    assert hostctl.left_nothing()
