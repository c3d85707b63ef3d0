"""The host's client of the agent, against the real agent behind a socket."""

import os
import signal
import socket
import threading
import time

import pytest

from guest import protocol
from guest.agent import Agent as GuestAgent
from guest.benches import Benches
from guest.link import Link
from hostctl.errors import TimedOut
from hostctl.guest import Agent, AgentGone, AgentRefused, answers
from tests.unit.guest.model import Model


class Vm:
    """A socket like QEMU's: takes one host after the other and gives each to an agent."""

    def __init__(self, path, greeting=b""):
        self.path = path
        self.greeting = greeting
        self.off = threading.Event()
        self.lines = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            line.sendall(self.greeting)
            self.lines.append(line)
            link = Link(line.fileno())
            agent = GuestAgent(link, Benches(lambda address, base: Model()), self.off.set)
            agent.run()
            line.close()

    def hang_up(self):
        self.lines[-1].shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._listener.close()


@pytest.fixture
def vm(tmp_path):
    vm = Vm(tmp_path / "agent.sock")
    yield vm
    vm.close()


@pytest.fixture
def agent(vm):
    with Agent(vm.path, timeout=10) as agent:
        yield agent


def test_connect_says_the_agents_version(agent):
    assert agent.version == "0.1.0"
    assert agent.ping() < 5


def test_connect_nobody_listens_times_out(tmp_path):
    with pytest.raises(TimedOut, match=r"no\.sock"):
        Agent(tmp_path / "no.sock", timeout=0.1)
    assert not answers(tmp_path / "no.sock", 0.1)


def test_connect_silent_guest_times_out(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute.sock"))
        listener.listen()
        assert not answers(tmp_path / "mute.sock", 0.1)


def test_connect_what_an_earlier_host_left_is_skipped(tmp_path):
    old = protocol.encode(protocol.reply({"token": "old", "version": "9"}, 1))
    vm = Vm(tmp_path / "agent.sock", greeting=b'ent":"output"}\n\xff\xfe\n' + old)
    with Agent(vm.path, timeout=10) as agent:
        assert agent.version == "0.1.0"
    vm.close()


def test_one_host_after_the_other(vm):
    assert answers(vm.path)
    assert answers(vm.path)
    with Agent(vm.path) as agent:
        assert agent.run(["true"]).status == 0


def test_refusal_has_its_class_and_text(agent):
    with pytest.raises(AgentRefused) as caught:
        agent.call("nosuch")
    assert caught.value.kind == "CommandNotFound"
    assert "nosuch" in caught.value.text


def test_cut_line_is_told_to_who_waits(vm, agent):
    timer = threading.Timer(0.1, vm.hang_up)
    timer.start()
    with pytest.raises(AgentGone):
        agent.run(["sleep", "100"])
    timer.join()


def test_run_gives_status_and_both_streams(agent):
    done = agent.run(["sh", "-c", "cat; echo err >&2; exit 3"], data=b"in\0put")
    assert (done.status, done.stdout, done.stderr) == (3, b"in\0put", b"err\n")


def test_run_large_input_and_output(agent):
    data = os.urandom(1_000_000)
    assert agent.run(["cat"], data=data).stdout == data


def test_run_command_that_does_not_read_its_input_still_ends(agent):
    done = agent.run(["sh", "-c", "exec <&-; echo done"], data=bytes(500_000))
    assert (done.status, done.stdout) == (0, b"done\n")


def test_run_too_long_is_killed_there(agent):
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"0\.2 s"):
        agent.run(["sh", "-c", "echo $$; exec sleep 100"], timeout=0.2)
    assert time.monotonic() - begun < 10
    assert agent.ping() < 5


def test_run_unknown_program_is_refused(agent):
    with pytest.raises(AgentRefused, match="no-such-program"):
        agent.run(["no-such-program"])


def test_run_environment_and_folder(agent, tmp_path):
    done = agent.run(["sh", "-c", "pwd; echo $A"], env={"A": "b"}, cwd=str(tmp_path))
    assert done.stdout == f"{tmp_path}\nb\n".encode()


def test_stream_passes_input_and_output_on_as_they_come(agent):
    reader, writer = os.pipe()
    seen = []

    def output(stream, data):
        seen.append((stream, data))
        if data == b"one\n":  # only now comes the second line
            os.write(writer, b"two\n")
            os.close(writer)

    os.write(writer, b"one\n")
    assert agent.stream(["cat"], output, stdin=reader, timeout=20) == 0
    assert seen == [("stdout", b"one\n"), ("stdout", b"two\n")]
    os.close(reader)


def test_stream_without_input_reads_nothing(agent):
    seen = []
    assert agent.stream(["wc", "-c"], lambda stream, data: seen.append(data)) == 0
    assert b"".join(seen).strip() == b"0"


def test_stream_interrupted_here_is_interrupted_there(agent, tmp_path):
    def output(stream, data):
        if data == b"ready\n":
            raise KeyboardInterrupt

    trap = (
        f"trap 'touch {tmp_path}/interrupted; exit 1' INT; echo ready; while :; do sleep 0.05; done"
    )
    with pytest.raises(KeyboardInterrupt):
        agent.stream(["sh", "-c", trap], output)
    deadline = time.monotonic() + 5
    while not (tmp_path / "interrupted").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_run_side_by_side(agent):
    seen = {"a": [], "b": []}
    first = agent.launch(["sh", "-c", "sleep 0.1; echo a"], lambda _, data: seen["a"].append(data))
    second = agent.launch(["sh", "-c", "echo b"], lambda _, data: seen["b"].append(data))
    assert (first.wait(10), second.wait(10)) == (0, 0)
    assert seen == {"a": [b"a\n"], "b": [b"b\n"]}


def test_process_signal_ends_it(agent):
    process = agent.launch(["sleep", "100"], lambda stream, data: None)
    process.signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM


def test_check_begun_reported_and_stopped(agent):
    said = []
    arguments = {"seconds": 60, "size": 64, "place": "memory"}
    pending = agent.start_check("load", arguments, progress=said.append)
    with pytest.raises(TimedOut):
        pending.result(1.2)
    agent.stop(pending)
    facts = pending.result(10)
    assert facts["commands"] > 0
    assert set(said[0]) == {"bytes", "seconds"}


def test_bind_and_release(agent):
    assert agent.bind(base=1 << 33)["device"] == "model"
    agent.release()
    with pytest.raises(AgentRefused, match="NotFound"):
        agent.release()


def test_power_off_is_answered(vm, agent):
    agent.power_off()
    assert vm.off.wait(5)
