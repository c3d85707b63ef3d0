"""A lab with VMs: commands in guests, and every way to end it."""

import json
import os
import re
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.guest import Agent
from hostctl.guest_line import AgentRefused
from tests.unit.hostctl.command import Hostctl, Session, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

LAB = """
[lab]
name = "pair"
accelerator = "demo"

[[mdev]]
name = "red"
type = "half"

[[mdev]]
name = "blue"
type = "half"

[[vm]]
name = "both"
mdevs = ["red", "blue"]
memory = "512MiB"
kernel = ["mdevemu.word=1"]
"""


@pytest.fixture(scope="module")
def hostctl() -> Iterator[Hostctl]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        yield Hostctl(Path(name))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    lab = tmp_path_factory.mktemp("lab") / "pair.toml"
    lab.write_text(LAB)
    return str(lab)


@pytest.fixture(scope="module")
def shared(hostctl: Hostctl, file: str) -> Iterator[Session]:
    """A lab for tests that leave it as it is."""
    session = hostctl.up(file)
    yield session
    session.close()
    assert hostctl.left_nothing()


@pytest.fixture
def own(file: str) -> Iterator[tuple[Hostctl, Session]]:
    """A lab, in a runtime folder of its own, for a test that ends it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        hostctl = Hostctl(Path(name))
        session = hostctl.up(file)
        yield hostctl, session
        session.close()
        assert hostctl.left_nothing()


def test_run_passes_output_and_exit_status_on(hostctl: Hostctl, shared: Session) -> None:
    done = hostctl.run("run", "both", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_run_passes_input_on_unchanged(hostctl: Hostctl, shared: Session) -> None:
    text = "".join(f"line {number} ä\n" for number in range(20_000))
    assert hostctl.run("run", "both", "--", "cat", data=text).stdout == text


def test_run_of_a_missing_program_is_127_and_of_an_endless_one_124(
    hostctl: Hostctl, shared: Session
) -> None:
    assert hostctl.run("run", "both", "--", "nosuchprogram").returncode == 127
    done = hostctl.run("run", "both", "--timeout", "1", "--", "sleep", "60")
    assert done.returncode == 124
    listed = hostctl.run("run", "both", "--", "ps").stdout
    assert "sleep 60" not in listed


def test_run_as_json_gathers_everything(hostctl: Hostctl, shared: Session) -> None:
    done = hostctl.run(
        "run", "both", "--json", "--env", "A=b c", "--", "sh", "-c", "echo $A; exit 3"
    )
    assert done.returncode == 3
    facts = json.loads(done.stdout)
    assert (facts["schema"], facts["status"]) == ("mdevemu.hostctl.run/1", 3)
    assert (facts["stdout"], facts["stderr"]) == ("b c\n", "")


def test_second_run_at_the_same_time_waits_for_the_first(hostctl: Hostctl, shared: Session) -> None:
    first = hostctl.start("run", "both", "--", "sh", "-c", "echo started; sleep 3; echo over")
    assert first.stdout is not None
    assert first.stdout.readline() == "started\n"
    second = hostctl.run("run", "both", "--", "echo", "second")
    assert "waiting for another hostctl" in second.stderr
    assert second.stdout == "second\n"
    assert first.communicate(timeout=1)[0] == "over\n"


def test_interrupted_run_ends_in_the_guest_too(hostctl: Hostctl, shared: Session) -> None:
    first = hostctl.start("run", "both", "--", "sh", "-c", "echo started; sleep 77")
    assert first.stdout is not None
    assert first.stdout.readline() == "started\n"
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=20)
    assert first.returncode == 130
    assert "sleep 77" not in hostctl.run("run", "both", "--", "ps").stdout


def test_guest_has_both_slices_behind_ports_with_extended_config_space(
    hostctl: Hostctl, shared: Session
) -> None:
    listed = hostctl.run("run", "both", "--", "lspci", "-vvv", "-d", "1234:acc1")
    assert listed.returncode == 0
    assert listed.stdout.count("1234:acc1") + listed.stdout.count("Device acc1") >= 2
    assert "MSI-X: " in listed.stdout
    assert listed.stdout.count("Process Address Space ID (PASID)") == 2
    assert "<access denied>" not in listed.stdout
    assert listed.stderr == ""


def test_guest_has_the_labs_kernel_words_and_an_iommu(hostctl: Hostctl, shared: Session) -> None:
    line = hostctl.run("run", "both", "--", "cat", "/proc/cmdline").stdout.split()
    assert "mdevemu.word=1" in line
    assert "intel_iommu=on" in line
    groups = hostctl.run("run", "both", "--", "ls", "/sys/kernel/iommu_groups").stdout.split()
    assert len(groups) >= 2


def test_check_of_the_agent_is_run_from_the_command_line(hostctl: Hostctl, shared: Session) -> None:
    found = hostctl.facts(
        "vm",
        "check",
        "both",
        "trespass",
        "--arguments",
        '{"own": false}',
        "--device",
        "0000:02:00.0",
    )
    assert found["facts"] == {"attempts": [], "own": [], "alive": True}
    refused = hostctl.run("vm", "check", "both", "trespass", "--arguments", "[]")
    assert refused.returncode == 2
    assert "--arguments: '[]' is no JSON object" in refused.stderr


def test_refused_check_gives_the_mdev_back_and_says_which_there_are(
    hostctl: Hostctl, shared: Session
) -> None:
    device = "0000:02:00.0"
    refused = hostctl.run("vm", "check", "both", "channels", "--device", device)
    assert refused.returncode == 4
    assert "whose personality is native (accepted: identity, operations, " in refused.stderr
    folder = Path(hostctl.facts("ps")["labs"][0]["folder"])
    with Agent(folder / "both.agent.sock") as agent, pytest.raises(AgentRefused, match="not bound"):
        agent.release(device)


def test_vm_cmd_is_the_command_line_that_runs(hostctl: Hostctl, shared: Session) -> None:
    words = shlex.split(hostctl.run("vm", "cmd", "both").stdout)
    (vm,) = hostctl.facts("ps")["labs"][0]["vms"]
    running = Path(f"/proc/{vm['pid']}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words[-len(running) :] == [word.decode() for word in running]
    facts = hostctl.facts("vm", "cmd", "both")
    assert facts["argv"] == [word.decode() for word in running]


def test_dry_run_prints_the_very_same_command_line(
    hostctl: Hostctl, shared: Session, file: str
) -> None:
    dry = hostctl.facts("up", file, "--dry-run")["commands"]["both"]
    assert (
        dry[-len(hostctl.facts("vm", "cmd", "both")["argv"]) :]
        == (hostctl.facts("vm", "cmd", "both")["argv"])
    )


def test_ps_shows_the_vm_ready_and_its_mdevs_attached(hostctl: Hostctl, shared: Session) -> None:
    (lab,) = hostctl.facts("ps")["labs"]
    assert [(vm["name"], vm["state"], vm["mdevs"]) for vm in lab["vms"]] == [
        ("both", "ready", ["red", "blue"])
    ]
    assert all(mdev["attached"] for mdev in lab["mdevs"])


def test_attached_mdev_is_not_removed(hostctl: Hostctl, shared: Session) -> None:
    done = hostctl.run("mdev", "remove", "red")
    assert done.returncode == 2
    assert "attached" in done.stderr


def test_vms_share_memory_with_the_emulator_only_as_memfd(
    hostctl: Hostctl, shared: Session
) -> None:
    (vm,) = hostctl.facts("ps")["labs"][0]["vms"]
    maps = Path(f"/proc/{vm['pid']}/maps").read_text()
    assert re.search(r"rw-s .*memfd:", maps)


def test_kill_9_of_hostctl_takes_vms_and_emulator_with_it(own: tuple[Hostctl, Session]) -> None:
    hostctl, session = own
    os.kill(session.process.pid, signal.SIGKILL)
    session.wait()
    assert until(lambda: not hostctl.leftovers(), 10)
    assert [each["name"] for each in hostctl.facts("cleanup")["labs"]] == ["pair"]


def test_guest_that_turns_itself_off_is_reported_and_the_lab_goes_on(
    own: tuple[Hostctl, Session],
) -> None:
    hostctl, session = own
    hostctl.run("run", "both", "--", "poweroff", "-f")
    assert until(lambda: not hostctl.facts("ps")["labs"][0]["vms"], 20)
    assert not any(mdev["attached"] for mdev in hostctl.facts("mdev", "list")["mdevs"])
    assert session.interrupt() == 130
    assert "both was turned off from within" in session.said


def test_killed_qemu_ends_the_lab_with_status_4_and_its_command_line(
    own: tuple[Hostctl, Session],
) -> None:
    hostctl, session = own
    (vm,) = hostctl.facts("ps")["labs"][0]["vms"]
    os.kill(vm["pid"], signal.SIGKILL)
    assert session.wait() == 4
    assert "both: QEMU ended with status -9" in session.said
    assert "reproduce: " in session.said


def test_ctrl_c_while_vms_boot_leaves_nothing(file: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        hostctl = Hostctl(Path(name))
        process = hostctl.start("up", file, "--accel", "tcg")
        assert until(lambda: any("-kernel" in line for line in hostctl.leftovers()), 60)
        process.send_signal(signal.SIGINT)
        reader = threading.Timer(30, process.kill)
        reader.start()
        process.communicate()
        reader.cancel()
        assert process.returncode == 130
        assert hostctl.left_nothing(1)


def test_guest_that_does_not_boot_shows_its_last_words(tmp_path: Path) -> None:
    lab = tmp_path / "panic.toml"
    lab.write_text(LAB.replace("mdevemu.word=1", "rdinit=/nonexistent"))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        hostctl = Hostctl(Path(name))
        done = hostctl.run("up", str(lab), timeout=200)
        assert done.returncode == 4
        assert "guest's console:" in done.stderr
        assert "Kernel panic" in done.stderr
        assert hostctl.left_nothing()
