"""A guest with PASIDs of its own: what it sees of its processes is what the host recorded."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostctl.guest import Agent
from tests.unit.hostctl.command import Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

READ_PAGE_FAULT = 13
FINDING = 1


@pytest.fixture(scope="module")
def hostctl() -> Iterator[Hostctl]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        hostctl = Hostctl(Path(name))
        session = hostctl.up("rid")
        yield hostctl
        session.close()
        assert hostctl.left_nothing()


@pytest.fixture(scope="module")
def facts(hostctl: Hostctl) -> Iterator[dict[str, Any]]:
    """What the check found in the guest; the stale page that it left is still there."""
    folder = Path(hostctl.facts("ps")["labs"][0]["folder"])
    with Agent(folder / "red.agent.sock") as agent:
        yield agent.check("pasids", {"leave": True}, timeout=200)


def walked(hostctl: Hostctl, *arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit status and facts of ``iommu walk``."""
    done = hostctl.run("iommu", "walk", "red", *map(str, arguments), "--json")
    return done.returncode, json.loads(done.stdout)


def test_processes_have_pages_of_their_own_at_one_address(facts: dict[str, Any]) -> None:
    assert (facts["bits"], facts["mode"]) == (8, "pd8")
    assert [(c["status"], c["right"], c["other-changed"]) for c in facts["copies"]] == [
        ("success", True, False)
    ] * 2
    assert len({copy["pasid"] for copy in facts["copies"]}) == 2


def test_faults_have_the_same_pasid_address_and_cause_on_the_host(
    hostctl: Hostctl, facts: dict[str, Any]
) -> None:
    assert len(facts["faults"]) == 9
    assert [fault for fault in facts["faults"] if not fault["ok"]] == []
    recorded = hostctl.facts("iommu", "faults", "--mdev", "red")["faults"]
    assert [(r["pasid"], r["iova"], r["cause"]) for r in recorded] == [
        (fault["pasid"], fault["address"], fault["cause"]) for fault in facts["faults"]
    ]
    (mdev,) = hostctl.facts("mdev", "list")["mdevs"]
    assert (mdev["attach"], mdev["pasid"]) == ("rid", None)
    assert {record["device_id"] for record in recorded} == {mdev["device_id"]}


def test_page_requests_are_answered_in_the_guest_and_seen_on_the_host(
    hostctl: Hostctl, facts: dict[str, Any]
) -> None:
    assert (facts["on-demand"]["status"], facts["on-demand"]["right"]) == ("success", True)
    assert facts["refused"]["status"] == "read-fault"
    assert facts["interrupts"] > 0
    seen = hostctl.facts("iommu", "page-requests", "--mdev", "red")["page_requests"]
    assert len(seen) == 4
    assert [(r["pasid"], r["iova"], r["read"], r["write"]) for r in seen] == [
        (r["pasid"], r["address"], r["read"], r["write"]) for r in facts["page-requests"]
    ]
    counted = hostctl.facts("iommu", "counters")
    assert (counted["faults"], counted["page_requests"]) == (9, 4)


def test_silent_process_holds_up_its_own_queue_only(facts: dict[str, Any]) -> None:
    silent = facts["silent"]
    assert silent["waits"] is True
    assert silent["others"] == ["success"] * 8
    assert silent["status"] == "read-fault"


def test_user_queue_is_its_processs_and_no_others(facts: dict[str, Any]) -> None:
    user = facts["user-queue"]
    assert (user["status"], user["right"]) == ("success", True)
    assert (user["names-another"], user["names-its-own"]) == ("invalid-field", "invalid-field")


def test_stale_page_is_seen_from_inside_and_by_the_host(
    hostctl: Hostctl, facts: dict[str, Any]
) -> None:
    assert facts["stale"]["stale"] is True
    assert facts["stale"]["unmapped"] == "success"
    left = facts["left"]
    status, walk = walked(hostctl, left["pasid"], left["address"])
    assert (status, walk["hpa"], walk["cause"]) == (FINDING, None, READ_PAGE_FAULT)
    assert walk["stale"] is True
    assert walk["cached"] % 4096 == left["address"] % 4096
    shown = hostctl.run("iommu", "walk", "red", str(left["pasid"]), hex(left["address"])).stdout
    assert "first stage, level 0" in shown
    assert f"stale: the IOTLB still leads to hpa {walk['cached']:#x}" in shown


def test_walk_of_a_process_shows_both_stages(hostctl: Hostctl, facts: dict[str, Any]) -> None:
    pasid, address = facts["pasids"]["b"], facts["addresses"]["source"]
    status, walk = walked(hostctl, pasid, address)
    assert status == 0
    assert not walk["stale"]
    tables = [step["table"] for step in walk["steps"]]
    assert tables[:3] == ["DDT", "DDT", "DC"]
    assert tables.count("PC") == 1
    assert tables.count("first") == 3
    assert tables[-1] == "second"
    entry = next(step for step in walk["steps"] if step["table"] == "PC")
    assert entry["gpa"] == facts["directory"] + 16 * pasid


def test_contexts_are_the_guests_own(hostctl: Hostctl, facts: dict[str, Any]) -> None:
    listed = hostctl.facts("iommu", "contexts", "--mdev", "red")
    assert listed["complete"]
    device, *processes = listed["contexts"]
    assert device["directory"] == {"mode": "PD8", "root": facts["directory"], "guest": True}
    assert {process["pasid"] for process in processes} == set(facts["pasids"].values())
    assert all(process["first"]["mode"] == "Sv39" for process in processes)
    assert all(process["cached"] for process in processes)
