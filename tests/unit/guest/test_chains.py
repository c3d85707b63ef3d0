"""The check of chains, over a vfio-user socket."""

import pytest

from guest import native
from guest.access import PAGE
from guest.bench import Bench
from guest.chain import Chain, End, end_of
from guest.checks import run_check
from guest.checks.chain_stages import ROOM
from guest.checks.chains import CHAINS, name_of
from guest.native import Operation, Status
from guest.queue import Command, Queue

ALL = {name_of(each) for each in CHAINS}
MOVES = {"copy x 16", "copy > compare", "fill > copy > compare"}
PRESS = {"deflate > inflate > sha256", "inflate > crc32c"}
SEAL = {
    "deflate > aes-gcm-encrypt",
    "aes-gcm-decrypt > inflate",
    "deflate > aes-gcm-encrypt > aes-gcm-decrypt > inflate > sha256",
}


@pytest.fixture
def bench(tenants):
    return Bench(tenants[0].client)


def ran(facts):
    """Names of chains that ran, each as often as it should and right."""
    chains = facts["chains"]
    assert [each["mismatches"] for each in chains.values()] == [[]] * len(chains)
    assert {each["runs"] for each in chains.values()} <= {0, 4}
    assert all(each["runs"] == each["equal"] for each in chains.values())
    assert all((each["runs"] == 0) == (each["unlinked"] == 1) for each in chains.values())
    return {name for name, each in chains.items() if each["runs"]}


@pytest.mark.accel(types=[{"name": "half", "hbm": "4MiB", "instances": 2}])
def test_every_chain_is_right_where_one_engine_does_all(bench):
    facts = run_check("chains", bench, {})
    assert ran(facts) == {*facts["chains"]} == ALL
    assert (facts["skipped"], facts["not-offered"]) == (None, [])
    assert facts["secret"] == {"status": "success", "passed-on": True, "outside-hbm": []}
    assert facts["commands"] == facts["completions"] == facts["interrupts"] == 4 * len(ALL) + 1
    assert len(facts["errors"]) == 25
    assert [each for each in facts["errors"] if not each["ok"]] == []


@pytest.mark.accel(profile="demo")
def test_chains_run_where_engines_are_linked_and_only_there(bench):
    facts = run_check("chains", bench, {"seed": 7})
    assert ran(facts) == MOVES | PRESS | SEAL
    assert {*facts["chains"]} == ALL
    assert [each for each in facts["errors"] if not each["ok"]] == []


@pytest.mark.accel(profile="queues", type="1dwq")
def test_chains_of_operations_that_are_not_there_are_left_out(bench):
    facts = run_check("chains", bench, {})
    assert ran(facts) == {*facts["chains"]} == MOVES | {"copy > crc32c"}
    assert {*facts["not-offered"]} == PRESS | SEAL
    mistakes = [each["mistake"] for each in facts["errors"]]
    assert "source nowhere" in mistakes
    assert "no deflate stream" not in mistakes


@pytest.mark.accel(profile="queues", type="1swq")
def test_slice_without_hbm_is_skipped_with_a_reason(bench):
    facts = run_check("chains", bench, {})
    assert facts == {"skipped": "chains need 589824 bytes of HBM, the slice has 0"}


@pytest.mark.accel(types=[{"name": "half", "hbm": "4MiB", "instances": 2}])
def test_chain_of_a_driver_says_what_came_out_or_where_it_failed(bench):
    with bench.memory(4096) as memory, bench.open_queue() as queue:
        memory.view[:5] = b"bytes"
        chain = Chain(memory.iova + 1024, memory.view[1024:2048])
        assert chain.capacity == 16
        both = {"capacity": 64, "flags": 2}
        stages = [
            Command(Operation.DEFLATE, 5, memory.iova, 0, **both),
            Command(Operation.INFLATE, destination=memory.iova + 64, capacity=64),
        ]
        done = queue.run(chain.load(stages))
        assert (done.status, end_of(done)) == (Status.SUCCESS, End(None, 5))
        assert bytes(memory.view[64:70]) == b"bytes\0"
        done = queue.run(chain.load([stages[0], stages[1]._replace(capacity=4)]))
        assert (done.status, end_of(done)) == (Status.CAPACITY, End(1, 0))
        done = queue.run(chain.load(stages[:1]))
        assert (done.status, end_of(done)) == (Status.LENGTH, End(None, 0))
        with pytest.raises(AssertionError):
            chain.load(stages * 9)
        del chain


@pytest.mark.accel(types=[{"name": "half", "hbm": "4MiB", "instances": 2}])
def test_stage_that_left_something_else_is_found_and_named(bench, monkeypatch):
    """Somebody changes what the second of two stages has left, and only that."""
    work = bench.access.aperture(native.HBM_BAR)[2 * ROOM : 3 * ROOM]
    run = Queue.run

    def meddle(self, command, seconds=30):
        done = run(self, command, seconds)
        work[:] = bytes(byte ^ 1 for byte in work)
        return done

    monkeypatch.setattr(Queue, "run", meddle)
    chains = run_check("chains", bench, {})["chains"]
    for name in ("copy x 16", "deflate > inflate > sha256"):
        assert chains[name]["equal"] == 0, name
        assert all(": output differs" in each["wrong"] for each in chains[name]["mismatches"])
        assert {each["wrong"][:7] for each in chains[name]["mismatches"]} == {"stage 1"}
    assert chains["copy > compare"]["equal"] == 4, "whose second stage leaves nothing"


@pytest.mark.accel(types=[{"name": "half", "hbm": "4MiB", "instances": 2}])
def test_secret_in_memory_is_found(bench, monkeypatch):
    spill = bench.access.allocate(PAGE)
    hbm = bench.access.aperture(native.HBM_BAR)
    run = Queue.run

    def meddle(self, command, seconds=30):
        spill.view[7:] = hbm[8 : PAGE + 1]
        return run(self, command, seconds)

    monkeypatch.setattr(Queue, "run", meddle)
    secret = run_check("chains", bench, {})["secret"]
    assert secret["status"] == "success"
    assert f"memory at {spill.iova + 7 + 24:#x}" in secret["outside-hbm"]
    assert len(secret["outside-hbm"]) == PAGE // 32 - 1
