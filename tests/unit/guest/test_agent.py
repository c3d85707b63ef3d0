"""The agent, spoken to in lines over a socket."""

import base64
import json
import os
import selectors
import signal
import socket
import threading
import time

import pytest

from guest import protocol
from guest.agent import Agent
from guest.benches import Benches
from guest.link import Link
from tests.unit.guest.model import Model


class Line:
    """A host that talks to an agent in a thread."""

    def __init__(self, opener=None):
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        self.socket = ours
        self.reader = ours.makefile("rb")
        self.off = threading.Event()
        self.models = []
        self.link = Link(theirs.detach())
        self.benches = Benches(opener or self._open)
        self.agent = Agent(self.link, self.benches, self.off.set)
        self.thread = threading.Thread(target=self.agent.run, daemon=True)
        self.thread.start()
        self.number = 0

    def _open(self, address, base):
        self.models.append(Model())
        return self.models[-1]

    def send(self, name, /, **arguments):
        self.number += 1
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.raw(protocol.encode(protocol.command(name, arguments, self.number)))
        return self.number

    def raw(self, data):
        self.socket.sendall(data)

    def next(self):
        return json.loads(self.reader.readline())

    def ask(self, name, /, **arguments):
        number = self.send(name, **arguments)
        answer = self.next()
        assert answer["id"] == number
        return answer

    def until(self, found):
        """Messages up to the one for which ``found`` is true."""
        messages = [self.next()]
        while not found(messages[-1]):
            messages.append(self.next())
        return messages

    def run(self, argv, **arguments):
        pid = self.ask("exec", argv=argv, **arguments)["return"]["pid"]
        return self.follow(pid)

    def follow(self, pid):
        messages = self.until(lambda m: m.get("event") == "exit" and m["data"]["pid"] == pid)
        text = {"stdout": b"", "stderr": b""}
        for message in messages[:-1]:
            if message.get("event") == "output" and message["data"]["pid"] == pid:
                text[message["data"]["stream"]] += base64.b64decode(message["data"]["data"])
        return messages[-1]["data"], text["stdout"], text["stderr"]

    def close(self):
        self.reader.close()
        self.socket.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.link.close()


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


def test_ping_is_answered(line):
    assert line.ask("ping") == {"return": {}, "id": 1}


def test_info_says_what_the_machine_is(line):
    info = line.ask("info")["return"]
    assert info["kernel"] == os.uname().release
    assert info["memory-kib"] > 0
    assert info["uptime"] > 0


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"execute": "nosuch", "id": 1}, "CommandNotFound"),
        ({"id": 1}, "CommandNotFound"),
        ({"execute": ["ping"], "id": 1}, "CommandNotFound"),
        ({"execute": "ping", "arguments": [], "id": 1}, "InvalidArgument"),
        ({"execute": "ping", "arguments": {"x": 1}, "id": 1}, "InvalidArgument"),
        ({"execute": "exec", "arguments": {"argv": []}, "id": 1}, "InvalidArgument"),
        ({"execute": "exec", "arguments": {"argv": ["/no/such"]}, "id": 1}, "NotFound"),
        ({"execute": "exec", "arguments": {"argv": ["a\0b"]}, "id": 1}, "NotFound"),
        ({"execute": "exec-input", "arguments": {"pid": 1 << 30}, "id": 1}, "NotFound"),
        ({"execute": "exec-signal", "arguments": {"pid": 1, "signal": 9}, "id": 1}, "NotFound"),
        ({"execute": "load-module", "arguments": {"name": "../x"}, "id": 1}, "InvalidArgument"),
        ({"execute": "check", "arguments": {"name": "nosuch"}, "id": 1}, "CommandNotFound"),
        ({"execute": "stop", "arguments": {"check": 99}, "id": 1}, "NotFound"),
        ({"execute": "release", "id": 1}, "NotFound"),
        ({"execute": "ping", "id": [1]}, "InvalidRequest"),
    ],
)
def test_wrong_command_is_refused_and_the_next_one_works(line, message, kind):
    line.raw(protocol.encode(message))
    assert line.next()["error"]["class"] == kind
    line.number = 5
    assert line.ask("ping") == {"return": {}, "id": 6}


def test_garbage_is_refused_and_the_next_one_works(line):
    line.raw(b"\xff\xfe what?\n" + b"x" * (2 * protocol.LINE_LIMIT) + b"\n[]\n")
    assert [line.next()["error"]["class"] for _ in range(3)] == ["InvalidRequest"] * 3
    assert line.ask("ping")["return"] == {}


def test_exec_output_and_exit_status_come_in_order(line):
    exit, stdout, stderr = line.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert exit["status"] == 7
    assert (stdout, stderr) == (b"out\n", b"err\n")


def test_exec_environment_and_folder_are_its_own(line, tmp_path):
    exit, stdout, _ = line.run(
        ["sh", "-c", "echo $COLOUR; pwd"], env={"COLOUR": "red"}, cwd=str(tmp_path)
    )
    assert exit["status"] == 0
    assert stdout == f"red\n{tmp_path}\n".encode()


def test_exec_without_input_reads_an_empty_file(line):
    assert line.run(["cat"])[:2][1] == b""


def test_exec_input_flows_through_and_ends(line):
    pid = line.ask("exec", argv=["cat"], input=True)["return"]["pid"]
    data = os.urandom(30_000)
    line.send("exec-input", pid=pid, data=base64.b64encode(data).decode(), eof=True)
    exit, stdout, _ = line.follow(pid)
    assert exit["status"] == 0
    assert stdout == data


def test_exec_input_is_answered_only_when_taken(line):
    pid = line.ask("exec", argv=["sleep", "100"], input=True)["return"]["pid"]
    data = base64.b64encode(bytes(300_000)).decode()
    number = line.send("exec-input", pid=pid, data=data)
    assert line.ask("ping")["return"] == {}
    line.send("exec-signal", pid=pid, signal=signal.SIGKILL)
    refused = next(
        m for m in line.until(lambda m: m.get("event") == "exit") if m.get("id") == number
    )
    assert refused["error"]["class"] == "BrokenPipe"


def test_exec_input_that_nobody_reads_is_refused(line):
    pid = line.ask("exec", argv=["sh", "-c", "exec <&-; sleep 100"], input=True)["return"]["pid"]
    time.sleep(0.2)
    answer = line.ask("exec-input", pid=pid, data="eA==")
    assert answer["error"]["class"] == "BrokenPipe"
    assert line.ask("exec-input", pid=pid, data="eA==")["error"]["class"] == "NotFound"


def test_exec_signal_reaches_what_it_started_too(line):
    pid = line.ask("exec", argv=["sh", "-c", "sleep 100; true"])["return"]["pid"]
    assert line.ask("exec-signal", pid=pid, signal=signal.SIGTERM)["return"] == {}
    exit = line.next()["data"]
    assert exit == {"pid": pid, "status": 128 + signal.SIGTERM, "signal": signal.SIGTERM}


def test_exec_that_leaves_a_child_behind_ends_with_its_own_status(line):
    begun = time.monotonic()
    exit, stdout, _ = line.run(["sh", "-c", "sleep 30 & echo $!; exit 4"])
    assert exit["status"] == 4
    assert time.monotonic() - begun < 10
    os.kill(int(stdout), signal.SIGKILL)


def test_exec_several_at_once_do_not_wait_for_each_other(line):
    slow = line.ask("exec", argv=["sh", "-c", "sleep 100"])["return"]["pid"]
    assert line.run(["true"])[0]["status"] == 0
    line.ask("exec-signal", pid=slow, signal=signal.SIGKILL)


def test_exec_more_output_than_the_host_reads_waits_in_the_process(line):
    """A host that does not read must not make the agent swallow all there is."""
    pid = line.ask("exec", argv=["head", "-c", "5000000", "/dev/zero"])["return"]["pid"]
    time.sleep(0.5)
    assert line.link.pending < 4 << 20
    exit, stdout, _ = line.follow(pid)
    assert exit["status"] == 0
    assert stdout == bytes(5_000_000)


def test_sync_hangs_up_what_ran_for_an_earlier_host(line):
    pid = line.ask("exec", argv=["sleep", "100"])["return"]["pid"]
    answer = line.ask("sync", token="abc")
    assert answer["return"]["token"] == "abc"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    else:
        pytest.fail("it still runs")
    assert line.ask("ping")["return"] == {}  # and nobody is told of its end


def test_end_of_the_line_ends_the_agent_and_what_it_ran():
    line = Line()
    pid = line.ask("exec", argv=["sleep", "100"])["return"]["pid"]
    line.close()
    assert not line.agent.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_poweroff_is_answered_before_it_happens(line):
    assert line.ask("poweroff")["return"] == {}
    assert line.off.wait(5)


def test_check_runs_beside_pings_and_can_be_stopped(line):
    number = line.send(
        "check", name="load", arguments={"seconds": 60, "size": 64, "place": "memory"}
    )
    time.sleep(0.2)
    pings = 0
    answers = []
    line.send("ping")
    answers += line.until(lambda m: m.get("id") == line.number)
    pings += 1
    line.send("stop", check=number)
    answers += line.until(lambda m: m.get("id") == number)
    facts = answers[-1]["return"]
    assert facts["commands"] > 0
    assert facts["seconds"] < 30


def test_check_progress_carries_its_number(line):
    number = line.send(
        "check", name="load", arguments={"seconds": 1.5, "size": 64, "place": "memory"}
    )
    messages = line.until(lambda m: m.get("id") == number)
    assert [m["data"]["id"] for m in messages[:-1] if m.get("event") == "progress"] == [number]


def test_check_beside_a_check_on_the_same_device_is_busy(line):
    number = line.send(
        "check", name="load", arguments={"seconds": 60, "size": 64, "place": "memory"}
    )
    time.sleep(0.2)
    assert line.ask("check", name="identity")["error"]["class"] == "Busy"
    line.send("stop", check=number)
    line.until(lambda m: m.get("id") == number)


def test_check_wrong_argument_names_it(line):
    error = line.ask("check", name="load", arguments={"secnods": 1})["error"]
    assert error["class"] == "InvalidArgument"
    assert "did you mean 'seconds'" in error["desc"]


def test_bind_then_release_then_bind_again(line):
    facts = line.ask("bind")["return"]
    assert facts["device"] == "model"
    assert line.ask("bind")["error"]["class"] == "Busy"
    assert line.ask("release")["return"] == {"device": "model"}
    assert line.models[0].closed
    assert line.ask("bind")["return"]["queues"] == 2
    assert len(line.models) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_bug_in_a_check_is_told_and_the_agent_lives():
    def opener(address, base):
        raise ZeroDivisionError("our bug")

    line = Line(opener)
    error = line.ask("bind")["error"]
    assert error["class"] == "Crash"
    assert "our bug" in error["desc"]
    assert line.ask("ping")["return"] == {}
    line.close()


def test_os_error_in_a_check_is_told():
    def opener(address, base):
        raise PermissionError(13, "Permission denied", "/dev/vfio/1")

    line = Line(opener)
    error = line.ask("bind")["error"]
    assert error["class"] == "OSError"
    assert "/dev/vfio/1" in error["desc"]
    line.close()


def test_idle_agent_sleeps(line):
    """A guest under TCG has no cycles to waste."""
    line.ask("ping")
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.2
    assert isinstance(line.agent._selector, selectors.DefaultSelector)
