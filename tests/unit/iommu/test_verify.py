"""Files of recorded answers: what differs is told, and what is no such file is named."""

import contextlib
import copy
import itertools
import json
import lzma
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.errors import ConfigError
from mdevemu.iommu.verify import lines, verify
from tests.unit.iommu.test_vectors import VECTORS

HEAD = {"format": "riscv-iommu-vectors", "version": 1, "scenarios": 1}


def recorded(count):
    """The first scenarios of the recorded file, as JSON."""
    with lzma.open(VECTORS, "rt") as file:
        return [json.loads(line) for line in itertools.islice(file, 1, 1 + count)]


FEW = recorded(400)
TRANSLATE = FEW[0]
PAGE_REQUEST = next(each for each in FEW if each["kind"] == "page_request")


@pytest.fixture
def saved(tmp_path):
    def save(*scenarios, head=None, compress=False):
        announced = {**HEAD, "scenarios": len(scenarios), **(head or {})}
        text = "\n".join(json.dumps(each) for each in (announced, *scenarios)).encode()
        path = tmp_path / "file"
        path.write_bytes(lzma.compress(text) if compress else text)
        return path

    return save


def wrong(path):
    with pytest.raises(ConfigError) as caught:
        verify(path)
    return str(caught.value)


@pytest.mark.parametrize("compress", [False, True])
def test_file_that_agrees_is_counted(saved, compress):
    tally = verify(saved(*FEW[:20], compress=compress))
    steps = [step["op"] for each in FEW[:20] for step in each["steps"]]
    assert (tally.scenarios, tally.different, tally.mismatches) == (20, 0, [])
    assert tally.requests == steps.count("translate")
    assert tally.commands == steps.count("command")
    assert "20 scenarios" in next(lines(tally))


def changed(scenario, change):
    mine = copy.deepcopy(scenario)
    change(mine)
    return mine


def first(scenario, op, **expected):
    """The first step of a kind, with such an expectation."""
    return next(
        step
        for step in scenario["steps"]
        if step["op"] == op
        and all(step["exp"].get(name) == value for name, value in expected.items())
    )


def status(scenario):
    first(scenario, "translate", status="ur")["exp"]["cause"] ^= 2


def address(scenario):
    expected = first(scenario, "translate", status="ok")["exp"]
    expected["pa"] = hex(int(expected["pa"], 16) ^ 8)


def fault(scenario):
    records = (step["exp"].get("fq") for step in scenario["steps"] if "exp" in step)
    next(filter(None, records))[0]["did"] ^= 1


def one_fault_more(scenario):
    expected = first(scenario, "translate", status="ok")["exp"]
    record = dict.fromkeys(("cause", "did", "pv", "pid", "priv", "ttyp"), 0)
    wide = dict.fromkeys(("iotval", "iotval2", "iotval2_mask"), "0x0")
    expected["fq"] = [{**record, **wide}]


def legal(scenario):
    first(scenario, "command", status="ok")["exp"]["status"] = "illegal"


def memory(scenario):
    # A bit in a page that tables stand in, which no answer depends on.
    scenario["steps"][-1]["exp"]["mem"] = [["0x45ef8", "0100000000000000"]]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (status, "cause"),
        (address, "pa"),
        (fault, "fault records"),
        (one_fault_more, "fault records"),
        (legal, "status of the command"),
        (memory, "memory at 0x45ef8"),
    ],
)
def test_difference_is_told_with_its_step(saved, change, what):
    whole = next(
        each
        for each in FEW
        if {"ok", "ur"} <= {step["exp"]["status"] for step in each["steps"] if "exp" in step}
        and any(step["op"] == "command" for step in each["steps"])
        and any(step["exp"].get("fq") for step in each["steps"] if "exp" in step)
    )
    scenario = TRANSLATE if change is memory else whole
    tally = verify(saved(changed(scenario, change), scenario))
    assert (tally.scenarios, tally.different) == (2, 1)
    (mismatch,) = tally.mismatches
    assert (mismatch.scenario, mismatch.what) == (scenario["id"], what)
    assert "steps" in scenario
    text = "\n".join(lines(tally))
    assert f"first mismatch: {scenario['id']} step {mismatch.step}: {what}" in text
    assert ("DC 0" in text) == (mismatch.request is not None and bool(mismatch.walk))


def test_page_requests_that_differ_are_told(saved):
    def change(scenario):
        step = next(step for step in scenario["steps"] if step["op"] == "page_request")
        step["exp"]["prgr"] = (
            []
            if step["exp"]["prgr"]
            else [{"rid": 0, "dsv": 0, "dseg": 0, "pv": 0, "pid": 0, "code": 0, "prgi": 0}]
        )

    assert verify(saved(PAGE_REQUEST)).different == 0
    assert verify(saved(changed(PAGE_REQUEST, change))).mismatches[0].what == "responses"


# What is no such file.


def test_file_that_cannot_be_read_is_named(tmp_path):
    assert (
        wrong(tmp_path / "none")
        == f"{tmp_path / 'none'}: cannot be read: No such file or directory"
    )
    assert "Is a directory" in wrong(tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", ":1: not JSON"),
        (b"[]", ":1: an object is needed, not []"),
        (b"{}", ":1 format: a text is needed, not nothing"),
        (b"\xff\xfe{}", ":1: not JSON"),
        (b"[" * 100_000, ":1: not JSON"),
        (b'{"format": "other", "version": 1}', ":1: not a file of the format"),
        (b'{"format": "riscv-iommu-vectors", "version": 2}', ":1: not a file of the format"),
        (lzma.compress(b"x" * 10_000)[:40], "the compressed data stops in the middle"),
        (b"\xfd7zXZ\0" + b"garbage" * 10, "cannot be unpacked"),
        (lzma.compress(b"nothing"), ":1: not JSON"),
    ],
)
def test_content_that_is_no_vector_file_is_named(tmp_path, data, says):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert wrong(path).startswith(str(path))
    assert says in wrong(path)


def test_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mdevemu.iommu.vectors.LONGEST_LINE", 1 << 16)
    path = tmp_path / "file"
    path.write_bytes(lzma.compress(b" " * (4 << 20)))
    assert "longer than" in wrong(path)


def test_file_with_fewer_scenarios_than_it_announces_is_refused(saved):
    assert "announces 3 scenarios and has 2" in wrong(saved(*FEW[:2], head={"scenarios": 3}))


def at(path, value):
    """Puts a value at a place in a scenario, ``...`` takes the key away."""

    def change(scenario):
        *way, last = path
        for key in way:
            scenario = scenario[key]
        if value is ...:
            del scenario[last]
        else:
            scenario[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["id"], 5, "id: a text is needed, not 5"),
        (["config"], ..., "config: an object is needed, not None"),
        (["config", "capabilities"], 5, "config capabilities: a string with a hexadecimal number"),
        (["config", "capabilities"], "0x20000000000", "an IOMMU without QOSID"),
        (["config", "capabilities"], "0x3f00000000", "an IOMMU without PAS > 56"),
        (["config", "ddtp"], "0x10000000000000000", "ddtp: a string with a hexadecimal number"),
        (["config", "ddtp"], "0x" + "f" * 100_000, "ddtp: a string with a hexadecimal number"),
        (["config", "ddtp"], "0x-1", "ddtp: a string with a hexadecimal number"),
        (["config", "mem_size"], "0xffffffffffffffff", "mem_size: a size from"),
        (["config", "mem_size"], "0x0", "mem_size: a size from"),
        (["config", "cqb"], "0x3fffffffffffff", "cqb: a queue in"),
        (["config", "fqb"], "0x1f", "fqb: a queue in"),
        (["config", "pq_enable"], 2, "pq_enable: a number of at most 1 bits"),
        (["config", "pq_enable"], True, "pq_enable: a number of at most 1 bits"),
        (["config", "pq_enable"], 1.0, "pq_enable: a number of at most 1 bits"),
        (["mem"], {}, "mem: a list is needed"),
        (["mem", 0], ["0x1"], "mem[0]: [address, bytes] is needed"),
        (["mem", 0], ["0xfffffffffffffff8", "00"], "is not in 0x4000000 bytes of memory"),
        (["mem", 0], ["0x0", "0"], "mem[0]: [address, bytes] is needed"),
        (["mem", 0], ["0x3ffffff", "0000"], "is not in 0x4000000 bytes of memory"),
        (["steps"], 1, "steps: a list is needed"),
        (["steps", 0], None, "steps[0]: an object is needed"),
        (["steps", 0, "op"], "jump", "steps[0] op: one of write, command"),
        (["steps", 0, "exp"], ..., "steps[0] exp: an object is needed"),
        (["steps", 0, "exp", "status"], "maybe", "status: one of ok, ur, ca"),
        (["steps", 0, "exp", "cause"], ..., "cause: a number of at most 12 bits"),
        (["steps", 0, "exp", "fq"], [{}], "fq[0] iotval: a string"),
        (["steps", 0, "req", "iova"], 4096, "req iova: a string with a hexadecimal number"),
        (["steps", 0, "req", "did"], 1 << 24, "did: a number of at most 24 bits"),
        (["steps", 0, "req", "did"], -1, "did: a number of at most 24 bits"),
        (["steps", 0, "req", "op"], "rw", "op: one of r, w, x"),
        (["steps", 5, "raw"], "00", "raw: 32 hexadecimal digits"),
        (["steps", 5, "raw"], "zz" * 16, "raw: 32 hexadecimal digits"),
    ],
)
def test_wrong_value_is_named_with_its_place(saved, path, value, says):
    message = wrong(saved(changed(TRANSLATE, at(path, value))))
    assert says in message
    assert len(message) < 400


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0x0", "0x1000", "0xffffffffffffffff", "ok", "ur", "00" * 16]),
    lambda more: (
        st.lists(more, max_size=3) | st.dictionaries(st.text(max_size=4), more, max_size=3)
    ),
    max_leaves=4,
)


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_value_anywhere_is_replayed_or_refused(saved, data):
    scenario = copy.deepcopy(data.draw(st.sampled_from([TRANSLATE, PAGE_REQUEST])))
    for _ in range(data.draw(st.integers(1, 2))):
        place = scenario
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(list(keys)[:40]))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 9)) == 0:
                break
            place = inner
        place[key] = data.draw(JUNK)
        if not isinstance(scenario.get("steps"), list):
            break
    with contextlib.suppress(ConfigError):
        verify(saved(scenario))


# The command.


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mdevemu", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_command_tells_by_its_exit_status(saved):
    path = str(saved(*FEW[:3]))
    done = run("vectors", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 scenarios" in done.stdout
    assert "0 mismatches" in done.stdout
    path = str(saved(changed(TRANSLATE, status)))
    done = run("vectors", path, "--json")
    assert done.returncode == 1
    (file,) = json.loads(done.stdout)["files"]
    assert (file["file"], file["different"]) == (path, 1)
    assert file["mismatches"][0]["walk"]
    done = run("vectors", path + "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"mdevemu: {path}x: cannot be read: No such file or directory\n"


def test_bench_measures_every_kind():
    done = run("bench", "iommu", "--rounds", "1", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    kinds = {kind["name"]: kind for kind in found["kinds"]}
    assert kinds["dictionary lookup"]["lookups"] == 1.0
    # Wide bounds: a busy machine must not fail this.
    assert kinds["scalar hit"]["lookups"] < 30
    assert kinds["batch"]["lookups"] < 30
    assert kinds["scalar walk"]["nanoseconds"] > kinds["scalar hit in the IOTLB"]["nanoseconds"]
