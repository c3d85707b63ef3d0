"""The guest's driver and checks over a vfio-user socket, against an emulator in its own process."""

import contextlib

import pytest

from guest import native
from guest.bench import Bench, Run
from guest.checks import run_check
from guest.errors import InvalidArgument, UnknownCommand
from hostctl.socket_access import SocketAccess

pytestmark = pytest.mark.accel(types=[{"name": "half", "hbm": "4MiB", "queues": 2, "instances": 2}])
CANARY = "c0ffee1122334455deadbeef99887766"


@pytest.fixture
def benches(tenants):
    return [Bench(tenant.client) for tenant in tenants]


def test_identity_finds_nothing_wrong(benches):
    facts = run_check("identity", benches[0], {})
    assert facts["wrong"] == []
    assert facts["ids"] == "1234:acc1"
    assert facts["queues"] == 2
    assert facts["vectors"] == 3
    assert facts["hbm"] == 4 << 20


def test_operations_all_agree_with_the_processor(benches):
    said = []
    facts = run_check("operations", benches[0], {"seed": 5}, Run(tell=said.append))
    assert len(facts["operations"]) == 10
    for name, tally in facts["operations"].items():
        assert tally["runs"] == tally["equal"] == 11, (name, tally["mismatches"])
        assert {"operation": name, "runs": 11} in said
    assert facts["unchecked"] == ["chain"], "a list of the others, with tests of its own"
    assert facts["interrupts"] == facts["commands"]
    for queue in facts["queues"]:
        assert queue["completed-once"]
        assert queue["interrupts-of-singles"] == queue["singles"]
        assert queue["unwanted-interrupts"] == 0
    assert {queue["event-index"] for queue in facts["queues"]} == {False, True}
    assert all(facts["stall"].values())
    assert [mistake for mistake in facts["errors"] if not mistake["ok"]] == []


def test_operations_same_seed_same_facts(benches):
    first, second = (
        run_check("operations", bench, {"seed": 9, "rounds": 2, "operations": ["copy", "deflate"]})
        for bench in benches
    )
    assert first["operations"] == second["operations"]
    assert set(first["operations"]) == {"copy", "deflate"}
    assert first["operations"]["copy"]["runs"] == 17


@pytest.mark.accel(types=[{"name": "bare", "queues": 1, "instances": 2}])
def test_operations_of_a_slice_without_hbm_are_held_against_the_processor_too(benches):
    facts = run_check("operations", benches[0], {})
    assert facts["hbm"] is False
    assert {tally["equal"] for tally in facts["operations"].values()} == {6}
    assert [mistake for mistake in facts["errors"] if not mistake["ok"]] == []


def test_operations_wrong_argument_touches_nothing(benches):
    before = benches[0].device.counters()
    with pytest.raises(InvalidArgument, match="'rounds'"):
        run_check("operations", benches[0], {"round": 1})
    with pytest.raises(UnknownCommand, match="operations"):
        run_check("operation", benches[0], {})
    assert benches[0].device.counters() == before


def test_trespass_on_a_neighbour_faults_and_moves_nothing(benches):
    red, blue = benches
    planted = run_check("plant", red, {"canary": CANARY, "flood": False})
    before = bytes(red.held["canary"].view)
    iova = planted["iovas"][0]
    targets = [{"iova": iova}, *({"iova": iova, "operation": o} for o in ("ring", "completion"))]
    facts = run_check("trespass", blue, {"targets": targets, "own": False})
    assert [(a["operation"], a["status"], a["cause"]) for a in facts["attempts"]] == [
        ("read", "read-fault", 13),
        ("write", "write-fault", 15),
        ("ring", "ring-read", 13),
        ("completion", "completion-write", 15),
    ]
    for attempt in facts["attempts"]:
        assert attempt["address"] == iova
        assert not attempt["own"]
        assert not attempt["moved"]
    assert facts["alive"]
    assert bytes(red.held["canary"].view) == before


def test_trespass_at_its_own_edges_reaches_only_what_is_mapped_now(benches):
    facts = run_check("trespass", benches[0], {})
    assert facts["attempts"] == []
    statuses = {(a["case"], a["operation"]): a["status"] for a in facts["own"]}
    for case in ("before unmapping", "mapped again"):
        assert statuses[case, "read"] == statuses[case, "write"] == "success"
    for case in ("after unmapping", "over the end", "behind the end"):
        assert statuses[case, "read"] == "read-fault"
        assert statuses[case, "write"] == "write-fault"
    assert statuses["address zero", "read"] == "read-fault"


def test_hunt_finds_ones_own_canary_everywhere_and_a_neighbours_nowhere(benches):
    red, blue = benches
    planted = run_check("plant", red, {"canary": CANARY})
    assert planted["places"]["hbm"] == 4 << 20
    wanted = {"canary": CANARY, "iovas": planted["iovas"], "deep": True}
    mine = run_check("hunt", red, wanted)
    for place in ("hbm at", "hbm by device", "memory", "registers BAR0", "dma"):
        assert any(found.startswith(place) for found in mine["found"]), place
    theirs = run_check("hunt", blue, wanted)
    assert theirs["found"] == []
    assert theirs["searched"]["hbm"] == theirs["searched"]["hbm-dma"] == 4 << 20
    assert theirs["searched"]["dma"] == len(planted["iovas"])
    assert {asked["status"] for asked in theirs["dma"]} == {"read-fault"}
    assert not any(asked["own"] for asked in theirs["dma"])


def test_hunt_finds_a_canary_across_pieces_and_at_the_very_end(benches):
    aperture = benches[0].access.aperture(native.HBM_BAR)
    word = bytes.fromhex(CANARY)[:8]
    aperture[(1 << 20) - 3 : (1 << 20) + 5] = word
    aperture[-8:] = word
    found = run_check("hunt", benches[0], {"canary": CANARY})["found"]
    assert f"hbm at {(1 << 20) - 3:#x}" in found
    assert f"hbm at {(4 << 20) - 8:#x}" in found
    aperture[:] = bytes(len(aperture))


@pytest.mark.parametrize("canary", ["", "00" * 8, "abcd", "zz"])
def test_plant_canary_that_cannot_be_found_again_is_refused(benches, canary):
    with pytest.raises(InvalidArgument, match="canary"):
        run_check("plant", benches[0], {"canary": canary})


@pytest.mark.parametrize("place", ["hbm", "memory"])
def test_load_copies_until_its_time_is_over(benches, place):
    arguments = {"seconds": 0.3, "size": 1 << 20, "place": place}
    facts = run_check("load", benches[0], arguments)
    assert facts["failed"] == 0
    assert facts["bytes"] == facts["commands"] << 20 > 0
    assert 0.3 <= facts["seconds"] < 5
    assert benches[0].device.counters()["completed"] >= facts["commands"]


def test_load_stopped_ends_with_nothing_in_flight(benches):
    calls = iter([False, False, True, True, True])
    facts = run_check("load", benches[0], {"seconds": 60}, Run(stopped=lambda: next(calls)))
    assert facts["commands"] >= 8
    assert facts["seconds"] < 10
    assert benches[0].device.counters()["completed"] == facts["commands"]


@pytest.mark.parametrize(
    "arguments",
    [{"size": 3 << 20}, {"size": 1 << 30, "place": "memory"}, {"place": "disk"}, {"depth": 9999}],
)
def test_load_that_cannot_be_is_refused(benches, arguments):
    with pytest.raises(InvalidArgument):
        run_check("load", benches[0], arguments)


def test_close_gives_the_socket_to_the_next(benches):
    path = benches[0].access.name
    benches[0].close()
    with contextlib.closing(Bench(SocketAccess(path, base=7 << 32))) as heir:
        assert run_check("identity", heir, {})["wrong"] == []


def test_reset_forgets_the_queues_and_keeps_the_buffers(benches):
    bench = benches[0]
    with bench.memory(4096) as buffer:
        bench.device.write64(native.SCRATCH, 7)
        bench.access.reset()
        assert bench.device.read64(native.SCRATCH) == 0
        bench.device.reset()
        facts = run_check("trespass", bench, {"targets": [{"iova": buffer.iova}], "own": False})
        assert [a["status"] for a in facts["attempts"]] == ["success", "success"]
