"""``hostctl iommu`` in front of an emulator: trees, tables, JSON, and following."""

import json
import os
import signal

import pytest

from guest.bench import Bench
from guest.checks import run_check
from hostctl.emulator import Emulator
from hostctl.socket_access import SocketAccess
from hostctl.spec import find_lab, read_lab

FINDING, USAGE, INTERRUPTED, ENVIRONMENT = 1, 2, 130, 3


@pytest.fixture(scope="module")
def emulator(folder):
    accelerator = read_lab(find_lab("rid")).profile
    made = Emulator(accelerator, folder / "run", folder / "log", os.getpid())
    yield made
    made.close()


@pytest.fixture(scope="module")
def bench(emulator):
    mdev = emulator.control.create("mdevemu-function", name="red", uuid=None, weight=None)
    made = Bench(SocketAccess(mdev.socket))
    yield made
    made.close()


@pytest.fixture(scope="module")
def facts(bench):
    """What a guest found; a stale page of process A is left."""
    return run_check("pasids", bench, {"leave": True})


@pytest.fixture
def ask(hostctl, emulator, facts):
    """Runs ``hostctl iommu`` on the emulator."""

    def run(*arguments):
        words = [str(argument) for argument in arguments]
        return hostctl.run("iommu", *words, "--control", emulator.control_path)

    return run


def as_json(ask, *arguments):
    done = ask(*arguments, "--json")
    return json.loads(done.stdout)


def test_walk_is_a_tree_with_the_second_stage_under_each_entry(ask, facts):
    pasid, iova = facts["pasids"]["b"], facts["addresses"]["source"]
    done = ask("walk", "red", pasid, hex(iova))
    assert done.returncode == 0
    top, *lines = done.stdout.splitlines()
    assert top == f"red  device 0x0101  PASID {pasid}  read of iova {iova:#x}"
    heads = [line for line in lines if line.startswith(("├─ ", "└─ "))]
    assert [line.split()[1] for line in heads] == [
        *("DDT", "DDT", "DC", "PC", "first", "first", "first", "gpa", "hpa")
    ]
    at = lines.index(next(line for line in lines if line.startswith("├─ PC")))
    gpa = facts["directory"] + 16 * pasid
    assert f"(gpa {gpa:#x})" in lines[at]
    assert lines[at + 1] == f"│  └─ gpa {gpa:#x}"
    assert lines[at + 2].startswith("│     ├─ second 3  index 0  at 0x")
    assert "stale" not in done.stdout


def test_walk_of_a_stale_page_says_fault_and_stale(ask, facts):
    left = facts["left"]
    done = ask("walk", "red", left["pasid"], left["address"])
    assert done.returncode == FINDING
    assert "fault: cause 13 Read page fault, first stage, level 0" in done.stdout
    walk = as_json(ask, "walk", "red", left["pasid"], left["address"])
    assert (walk["schema"], walk["stale"]) == ("mdevemu.hostctl.iommu.walk/1", True)
    assert f"stale: the IOTLB still leads to hpa {walk['cached']:#x}" in done.stdout
    assert {"address", "raw", "flags", "gpa"} <= walk["steps"][0].keys()


def test_walk_without_a_pasid_is_the_devices_own(ask, facts):
    walk = as_json(ask, "walk", "red", facts["directory"])
    assert (walk["pasid"], walk["access"]) == (None, "read")
    assert walk["hpa"] is not None
    assert as_json(ask, "walk", "red", facts["directory"], "--write")["access"] == "write"


def test_walk_refuses_what_it_cannot_mean(ask):
    assert ask("walk", "red").returncode == USAGE
    assert "not more" in ask("walk", "red", 1, 2, 3).stderr
    assert "PASID" in ask("walk", "red", 1 << 20, 0).stderr.upper()


def test_contexts_are_listed_with_their_tables(ask, facts):
    listed = as_json(ask, "contexts")
    device, *processes = listed["contexts"]
    assert (listed["complete"], device["mdev"]) == (True, "red")
    assert {each["pasid"] for each in processes} == set(facts["pasids"].values())
    header, *rows = ask("contexts").stdout.splitlines()
    assert header.split()[:3] == ["DEVICE", "ID", "PASID"]
    assert len(rows) == 3
    assert f"PD8 at gpa {facts['directory']:#x}" in rows[0]
    assert "memory, cache" in rows[1]


def test_records_are_listed(ask, facts):
    pages = as_json(ask, "page-requests", "--mdev", "red")["page_requests"]
    assert [page["iova"] for page in pages] == [p["address"] for p in facts["page-requests"]]
    assert as_json(ask, "page-requests", "--since", 3)["page_requests"] == pages[3:]
    assert len(ask("page-requests").stdout.splitlines()) == 1 + len(pages)
    faults = as_json(ask, "faults")["faults"]
    assert [fault["iova"] for fault in faults] == [f["address"] for f in facts["faults"]]


def test_counters_of_the_whole_iommu(ask, facts):
    found = as_json(ask, "counters")
    assert found["schema"] == "mdevemu.hostctl.iommu.counters/1"
    assert (found["faults"], found["page_requests"]) == (len(facts["faults"]), 4)
    assert {cache["name"] for cache in found["caches"]} == {
        "device contexts",
        "process contexts",
        "translations",
    }
    text = ask("counters").stdout
    assert "page request queue overflows  0" in text
    assert "translations" in text


def started(hostctl, emulator, *arguments):
    """``iommu faults --follow``."""
    words = ("iommu", "faults", "--follow", *arguments, "--control", str(emulator.control_path))
    return hostctl.start(*words)


def test_following_tells_old_faults_then_what_happens_each_once(hostctl, emulator, bench, facts):
    followed = started(hostctl, emulator, "--json")
    old = [json.loads(followed.stdout.readline()) for _ in facts["faults"]]
    assert [each["event"] for each in old] == ["fault"] * len(old)
    again = run_check("pasids", bench, {"leave": True})
    new = [json.loads(followed.stdout.readline()) for _ in range(9 + 4)]
    assert {each["schema"] for each in old + new} == {"mdevemu.hostctl.iommu.event/1"}
    told = [(each["pasid"], each["iova"]) for each in new if each["event"] == "page-request"]
    assert told == [(each["pasid"], each["address"]) for each in again["page-requests"]]
    told = [each["sequence"] for each in new if each["event"] == "fault"]
    assert told == list(range(len(old) + 1, len(old) + 10))
    followed.send_signal(signal.SIGINT)
    assert followed.wait(10) == INTERRUPTED
    followed.communicate()


def test_following_one_mdev_from_a_number_on_is_quiet_about_the_rest(hostctl, emulator, bench):
    latest = emulator.control.faults()[-1].sequence
    followed = started(hostctl, emulator, "--mdev", "red", "--since", str(latest - 1))
    line = followed.stdout.readline()
    assert line.startswith("red  device 0x0101  PASID ")
    assert "fault 13 Read page fault" in line
    followed.send_signal(signal.SIGINT)
    out, _ = followed.communicate(timeout=10)
    assert out == ""


def test_following_ends_with_its_emulator(hostctl, folder):
    accelerator = read_lab(find_lab("rid")).profile
    other = Emulator(accelerator, folder / "other", folder / "other-log", os.getpid())
    mdev = other.control.create("mdevemu-function", name="red", uuid=None, weight=None)
    bench = Bench(SocketAccess(mdev.socket))
    run_check("trespass", bench, {"targets": [{"iova": 0}], "own": False})
    followed = started(hostctl, other)
    assert "fault" in followed.stdout.readline()
    bench.close()
    other.close()
    _, said = followed.communicate(timeout=20)
    assert followed.returncode == ENVIRONMENT
    assert "emulator is gone" in said
