"""``hostctl trace follow`` in front of an emulator: lines, JSON, drawings, and slow followers."""

import contextlib
import json
import os
import signal
import socket

import pytest

from guest.bench import Bench
from guest.checks import run_check
from hostctl.control import Control
from hostctl.emulator import Emulator
from hostctl.socket_access import SocketAccess
from hostctl.spec import find_lab, read_lab
from hostctl.tracing import Selection, load
from mdevemu.errors import ConfigError
from tests.support.perfetto import tracks
from tests.unit.hostctl.command import until

OK, USAGE, ENVIRONMENT = 0, 2, 3
STATUS = 0x24


@pytest.fixture(scope="module")
def emulator(folder):
    accelerator = read_lab(find_lab("rid")).profile
    made = Emulator(accelerator, folder / "run", folder / "log", os.getpid())
    for name in ("red", "blue"):
        made.control.create("mdevemu-function", name=name, uuid=None, weight=None)
    yield made
    made.close()


@pytest.fixture
def benches(emulator):
    """A guest of each mdev."""
    made = {each.name: Bench(SocketAccess(each.socket)) for each in emulator.control.mdevs()}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def start(hostctl, emulator):
    """Starts a command, and waits until it follows."""
    started = []

    def one(*arguments):
        words = [str(each) for each in arguments]
        made = hostctl.start(*words, "--control", str(emulator.control_path))
        started.append(made)
        assert made.stderr.readline() == "following; Ctrl-C ends it\n"
        return made

    yield one
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()


def ended(process, mark="session.close"):
    """What it said until a line with a mark, then Ctrl-C: (lines, narration)."""
    lines = []
    while not lines or mark not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended too early"
    process.send_signal(signal.SIGINT)
    rest, err = process.stdout.read(), process.stderr.read()
    assert process.wait(20) == OK, err
    return [line.rstrip("\n") for line in [*lines, *rest.splitlines()]], err


def act(bench):
    return run_check("pasids", bench, {"leave": True})


def test_lines_name_tenants_registers_commands_translations_and_interrupts(start, benches):
    followed = start("trace", "follow", "red")
    facts = act(benches["red"])
    benches["blue"].device.reset()
    benches.pop("red").close()
    lines, said = ended(followed)
    assert {line.split()[1] for line in lines} == {"red"}
    text = "\n".join(lines)
    assert "register.write" in text
    assert "queue_pasid[0] = 0x0  pasid=0  user=0" in text
    pasid, source = facts["pasids"]["a"], facts["addresses"]["source"]
    assert "operation=copy  status=success" in text
    assert f"PASID {pasid}  read  iova {source:#x} -> hpa 0x" in text
    assert "interrupt          vector=1  way=message" in text
    assert "13 Read page fault" in text
    assert f"{len(lines)} events, 0 events lost" in said


def test_lines_of_json_can_be_loaded_again(start, benches, folder):
    kinds = ("--kind", "command,session", "--kind", "iommu.fault")
    followed = start("trace", "--follow", "red", "--json", *kinds)
    act(benches["red"])
    benches.pop("red").close()
    lines, _ = ended(followed)
    saved = folder / "saved.jsonl"
    saved.write_text("\n".join(lines) + "\n")
    events = list(load(saved))
    assert {json.loads(line)["schema"] for line in lines} == {"mdevemu.hostctl.trace.event/1"}
    assert {event.kind for event in events} == {
        *("command.begin", "command.end", "iommu.fault", "session.close")
    }
    assert {event.mdev for event in events} == {"red"}
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert len({event.number for event in events}) == len(events)
    assert json.loads(lines[0]) == {
        "schema": "mdevemu.hostctl.trace.event/1",
        **events[0].record,
    }


def test_drawing_has_a_track_for_each_queue_vector_and_for_faults(start, benches, folder):
    file = folder / "drawn.json"
    followed = start("trace", "follow", "--perfetto", file)
    for bench in benches.values():
        act(bench)
    benches.pop("blue").close()
    ended(followed)
    drawn = tracks(file.read_text())
    assert {"red", "blue"} <= set(drawn)
    for tenant in ("red", "blue"):
        assert {"registers", "queue 0", "interrupt 1", "faults", "IOMMU"} <= set(drawn[tenant])
        commands = drawn[tenant]["queue 0"]
        assert {each["ph"] for each in commands} == {"X"}
        assert all(each["dur"] > 0 for each in commands)
        assert {each["args"]["status"] for each in commands} >= {"success", "read_fault"}


def test_injected_fault_has_a_track_of_its_own(start, benches, emulator, folder):
    file = folder / "injected.json"
    followed = start("trace", "follow", "red", "--perfetto", file, "--kind", "fault")
    emulator.control.ask("inject-fault", mdev="red", kind="read-ones", count=1)
    benches["red"].device.read32(STATUS)
    lines, _ = ended(followed, "fault.injected")
    emulator.control.ask("clear-faults", mdev="red")
    assert "fault=read-ones" in lines[0]
    assert list(tracks(file.read_text())["red"]) == ["injected faults"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("follow", "green"), "unknown mdev 'green'"),
        (("follow", "--kind", "regster"), "did you mean 'register'"),
        (("follow", "--register", "stat"), "did you mean 'status'"),
        (("follow", "--queue", "x"), "accepted: numbers and ranges"),
        (("follow", "--perfetto", "/nowhere/at/all"), "No such file"),
        (("--follow", "red", "--pasid", "9-1"), "ends before it begins"),
    ],
)
def test_refusals_name_what_is_wrong(hostctl, emulator, arguments, words):
    done = hostctl.run("trace", *arguments, "--control", str(emulator.control_path))
    assert done.returncode == USAGE
    assert words in " ".join(done.stderr.split())


def test_refused_drawing_leaves_no_file_and_one_that_is_there_stays(hostctl, emulator, folder):
    file = folder / "kept.json"
    words = ("--perfetto", str(file), "--control", str(emulator.control_path))
    assert hostctl.run("trace", "follow", "green", *words).returncode == USAGE
    assert not file.exists()
    file.write_text("mine")
    assert "File exists" in hostctl.run("trace", "follow", *words).stderr
    assert file.read_text() == "mine"


def test_following_ends_after_its_seconds_or_with_its_emulator(hostctl, emulator, folder):
    path = str(emulator.control_path)
    done = hostctl.run("trace", "follow", "--seconds", "0.2", "--control", path)
    assert (done.returncode, done.stdout) == (OK, "")
    accelerator = read_lab(find_lab("rid")).profile
    other = Emulator(accelerator, folder / "other", folder / "other-log", os.getpid())
    followed = hostctl.start("trace", "follow", "--control", str(other.control_path))
    assert followed.stderr.readline().startswith("following")
    other.close()
    _, said = followed.communicate(timeout=20)
    assert followed.returncode == ENVIRONMENT
    assert "emulator is gone" in said


def test_one_who_hangs_up_leaves_nothing_switched_on(emulator, benches):
    chosen = Selection(mdev="red", kind="register")
    with (
        contextlib.closing(Control(emulator.control_path)) as mine,
        mine.events(chosen, 0.5) as events,
    ):
        benches["red"].device.reset()
        assert {event.kind for event in events} == {"register.read", "register.write"}

    def quiet():
        latest = emulator.control.traced()[-1].number
        benches["red"].device.reset()
        return not emulator.control.traced(latest, "register")

    assert until(quiet, 10)


def test_one_who_does_not_read_loses_events_and_delays_nobody(emulator, benches):
    hostile = socket.socket(socket.AF_UNIX)
    hostile.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hostile.settimeout(20)
    hostile.connect(str(emulator.control_path))
    for command in ("qmp_capabilities", "trace-follow"):
        hostile.sendall(json.dumps({"execute": command}).encode())
    reader = hostile.makefile("rb")
    while "mdevs" not in (reply := json.loads(reader.readline()).get("return", {})):
        assert isinstance(reply, dict)
    red, rounds = benches["red"], 40
    for _ in range(rounds):
        act(red)
    made = emulator.control.traced()[-1].number
    told = lost = 0
    while not lost:
        message = json.loads(reader.readline())
        for each in message.get("data", {}).get("events", ()):
            told += 1
            lost += each.get("lost", 0)
    hostile.close()
    reader.close()
    assert told > 8192
    assert told - 1 + lost <= made + 1


def test_iommu_trace_shows_those_of_the_iommu(start, benches):
    followed = start("iommu", "trace", "--event", "walk", "--json")
    act(benches["red"])
    lines, _ = ended(followed, "iommu.walk")
    assert {json.loads(line)["kind"] for line in lines} == {"iommu.walk"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "wrong.jsonl:1.number: is missing"),
        ("[1]", "wrong.jsonl:1: must be a table"),
        ("nonsense", "wrong.jsonl:1: is not JSON (accepted: what hostctl trace follow --json"),
        ('{"number": 1, "time": "now", "kind": "a"}', "time: must be a whole number"),
    ],
)
def test_file_of_something_else_is_refused(tmp_path, text, words):
    file = tmp_path / "wrong.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        list(load(file))
    assert words in str(refused.value)
    with pytest.raises(ConfigError, match="No such file"):
        list(load(tmp_path / "none"))
