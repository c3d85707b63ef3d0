"""``hostctl demo --no-vm``: everything that the demo claims, without QEMU."""

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostctl.demo.verdict import OPERATIONS
from tests.unit.hostctl.command import Hostctl


@pytest.fixture(scope="module")
def hostctl() -> Iterator[Hostctl]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        # No QEMU and no cache: nothing of a VM may be needed.
        yield Hostctl(Path(name), XDG_CACHE_HOME="/nonexistent")


@pytest.fixture(scope="module")
def facts(hostctl: Hostctl) -> dict[str, Any]:
    return hostctl.facts("demo", "--no-vm", "--seed", "7")


def test_demo_holds_and_leaves_nothing(hostctl: Hostctl, facts: dict[str, Any]) -> None:
    assert facts["schema"] == "mdevemu.hostctl.demo/1"
    assert facts["held"] is True
    assert hostctl.left_nothing(0)


def test_each_tenants_results_are_there(facts: dict[str, Any]) -> None:
    assert [tenant["name"] for tenant in facts["tenants"]] == ["red", "blue"]
    for tenant in facts["tenants"]:
        assert set(tenant["operations"]) == set(OPERATIONS)
        for runs in tenant["operations"].values():
            assert runs["equal"] == runs["runs"] > 0
        assert tenant["interrupts"] > 0


def test_each_trespass_names_its_own_pasid(facts: dict[str, Any]) -> None:
    pasids = {tenant["name"]: tenant["pasid"] for tenant in facts["tenants"]}
    targets = {(each["by"], each["target"]) for each in facts["trespasses"]}
    assert ("red", "what nobody mapped") in targets
    assert ("red", "blue's memory") in targets
    assert ("blue", "red's memory") in targets
    for each in facts["trespasses"]:
        assert each["status"] in ("read-fault", "write-fault")
        assert {record["pasid"] for record in each["records"]} == {pasids[each["by"]]}


def test_canary_is_found_by_its_owner_and_by_nobody_else(facts: dict[str, Any]) -> None:
    canary = facts["canary"]
    assert set(canary["planted"]) == {"memory", "hbm", "queues", "registers"}
    assert canary["control"]["found"]
    assert canary["neighbour"]["found"] == canary["heir"]["found"] == []
    assert canary["heir"]["searched"]["hbm"] == facts["heir"]["hbm_size"]
    assert facts["heir"]["hbm_base"] == facts["heir"]["former_base"]


def test_shares_follow_the_weights(facts: dict[str, Any]) -> None:
    shares = {share["name"]: share["measured"] for share in facts["shares"]}
    assert shares["red"] == pytest.approx(0.75, abs=0.08)
    assert sum(shares.values()) == pytest.approx(1)


def test_phases_have_times(facts: dict[str, Any]) -> None:
    names = [step["name"] for step in facts["steps"]]
    assert names[:2] == ["emulator", "mdevs"]
    assert all(step["seconds"] > 0 for step in facts["steps"])


def test_text_ends_with_a_verdict_for_each_claim(hostctl: Hostctl) -> None:
    done = hostctl.run("demo", "--no-vm")
    assert done.returncode == 0
    assert done.stdout.count("\nheld ") == 7
    assert "FAILED" not in done.stdout
    assert "every claim held" in done.stderr


def test_ctrl_c_in_the_middle_leaves_nothing(hostctl: Hostctl) -> None:
    demo = hostctl.start("demo", "--no-vm", "--json")
    time.sleep(2.5)
    demo.send_signal(signal.SIGINT)
    out, _ = demo.communicate(timeout=20)
    assert demo.returncode == 130
    assert json.loads(out)["error"]["status"] == 130
    assert hostctl.left_nothing()


def test_kill_9_in_the_middle_leaves_no_process(hostctl: Hostctl) -> None:
    demo = hostctl.start("demo", "--no-vm")
    time.sleep(2.5)
    demo.kill()
    demo.communicate()
    assert not hostctl.left_nothing(0)
    hostctl.facts("cleanup")
    assert hostctl.left_nothing()
