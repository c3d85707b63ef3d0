"""The check of PASIDs over a vfio-user socket, held against what the emulator recorded."""

import os

import pytest

from guest.bench import Bench
from guest.checks import run_check
from guest.errors import InvalidArgument
from hostctl.emulator import Emulator
from hostctl.socket_access import SocketAccess
from hostctl.spec import find_lab, read_lab

MODES = {"pd8": 8, "pd17": 17, "pd20": 20}
ACCELERATOR = """
[accelerator]
name = "bench"
hbm = "8MiB"
[[engine]]
name = "all"
operations = ["nop", "copy", "fill", "compare"]
[[type]]
name = "shared"
hbm = "2MiB"
[[type]]
name = "own20"
hbm = "2MiB"
queues = 2
attach = "rid"
pasid-bits = 20
[[type]]
name = "own1"
queues = 1
attach = "rid"
pasid-bits = 1
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulator")
    (folder / "accel.toml").write_text(ACCELERATOR)
    made = Emulator(folder / "accel.toml", folder / "run", folder / "log", os.getpid())
    yield made.control
    made.close()


@pytest.fixture
def bench_of(emulator):
    made = []

    def one(kind, name="red"):
        mdev = emulator.create(f"mdevemu-{kind}", name=name, uuid=None, weight=None)
        made.append((Bench(SocketAccess(mdev.socket)), mdev))
        return made[-1][0]

    yield one
    for bench, mdev in made:
        bench.close()
        emulator.remove(mdev.uuid, force=True)


def latest(records):
    return max((record.sequence for record in records), default=0)


@pytest.mark.parametrize("mode", MODES)
def test_everything_is_as_it_must_be_and_as_the_host_recorded_it(emulator, bench_of, mode):
    bench = bench_of("own20")
    before = latest(emulator.faults()), latest(emulator.page_requests())
    facts = run_check("pasids", bench, {"mode": mode})
    highest = (1 << MODES[mode]) - 1
    assert (facts["bits"], facts["mode"]) == (20, mode)
    assert facts["pasids"] == {"a": highest, "b": highest - 1}
    assert [(c["status"], c["right"], c["other-changed"]) for c in facts["copies"]] == [
        ("success", True, False)
    ] * 2
    assert [fault for fault in facts["faults"] if not fault["ok"]] == []
    assert len(facts["faults"]) == 9
    assert facts["stale"]["stale"] is True
    assert facts["stale"]["mapped-again"] == "success"
    assert (facts["on-demand"]["status"], facts["on-demand"]["right"]) == ("success", True)
    assert [(r["read"], r["write"]) for r in facts["on-demand"]["requests"]] == [
        (True, False),
        (False, True),
    ]
    assert facts["refused"]["status"] == "read-fault"
    silent = facts["silent"]
    assert (silent["waits"], silent["status"]) == (True, "read-fault")
    assert silent["others"] == ["success"] * 8
    assert facts["interrupts"] == len(facts["page-requests"]) == 4
    user = facts["user-queue"]
    assert (user["status"], user["right"]) == ("success", True)
    assert user["names-another"] == user["names-its-own"] == "invalid-field"

    faults = emulator.faults(before[0], "red")
    assert [(f.pasid, f.iova, f.cause) for f in faults] == [
        (f["pasid"], f["address"], f["cause"]) for f in facts["faults"]
    ]
    requests = emulator.page_requests(before[1], "red")
    assert [(r.pasid, r.iova, r.read, r.write) for r in requests] == [
        (r["pasid"], r["address"], r["read"], r["write"]) for r in facts["page-requests"]
    ]


def test_left_stale_page_is_seen_by_the_host_until_it_is_invalidated(emulator, bench_of):
    bench = bench_of("own20")
    left = run_check("pasids", bench, {"leave": True})["left"]
    walk = emulator.walk("red", left["address"], left["pasid"])
    assert left["used"] == "success"
    assert (walk.hpa, walk.cause, walk.stale) == (None, 13, True)
    assert walk.cached is not None
    run_check("pasids", bench, {})
    walk = emulator.walk("red", left["address"], left["pasid"])
    assert (walk.hpa, walk.cause, walk.stale, walk.cached) == (None, 260, False, None)


def test_narrowest_pasids_and_a_single_queue_leave_out_what_cannot_be(bench_of):
    facts = run_check("pasids", bench_of("own1"), {})
    assert facts["pasids"] == {"a": 1, "b": 0}
    assert facts["too-wide"] == {"pasid": 2, "status": "invalid-field"}
    assert facts["silent"] is None
    assert all(fault["ok"] for fault in facts["faults"])
    assert "PASID without a process" not in {fault["case"] for fault in facts["faults"]}


def test_device_without_pasids_is_skipped_clearly(bench_of):
    facts = run_check("pasids", bench_of("shared"), {})
    assert facts["bits"] == 0
    assert "no PASIDs" in facts["skipped"]


def test_unknown_mode_is_refused(bench_of):
    with pytest.raises(InvalidArgument, match="pd8, pd17, pd20"):
        run_check("pasids", bench_of("own20"), {"mode": "pd9"})


def test_other_checks_hold_on_a_device_with_pasids(bench_of):
    red, blue = bench_of("own20"), bench_of("own20", "blue")
    facts = run_check("operations", red, {"seed": 3, "operations": ["copy"]})
    assert [mistake for mistake in facts["errors"] if not mistake["ok"]] == []
    assert run_check("identity", red, {})["wrong"] == []
    planted = run_check("plant", red, {"canary": "c0ffee1122334455", "flood": False})
    target = {"iova": planted["iovas"][0]}
    red.access.unmap(red.held["canary"])
    attempts = run_check("trespass", red, {"targets": [target], "own": False})["attempts"]
    assert {attempt["cause"] for attempt in attempts} == {21, 23}
    assert run_check("trespass", blue, {"targets": []})["alive"]


def test_shipped_lab_accepts_its_accelerator():
    spec = read_lab(find_lab("rid"))
    assert [mdev.name for mdev in spec.mdevs] == ["red"]
    assert len(spec.vms) == 1
