"""Labs without VMs: up, looked at, taken down in every way, and nothing left behind."""

import json
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.hostctl.command import Hostctl, Session, until

LAB = """
[lab]
name = "bare"
accelerator = "demo"

[[mdev]]
name = "red"
type = "half"
weight = 3
"""


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        yield Path(name)


@pytest.fixture
def hostctl(runtime: Path) -> Hostctl:
    return Hostctl(runtime)


@pytest.fixture
def file(tmp_path: Path) -> str:
    lab = tmp_path / "bare.toml"
    lab.write_text(LAB)
    return str(lab)


@pytest.fixture
def session(hostctl: Hostctl, file: str) -> Iterator[Session]:
    session = hostctl.up(file)
    yield session
    session.close()
    assert hostctl.left_nothing()


def test_lab_that_is_up_is_seen_from_elsewhere(hostctl: Hostctl, session: Session) -> None:
    assert session.facts["schema"] == "mdevemu.hostctl.up/1"
    facts = hostctl.facts("ps")
    assert facts["schema"] == "mdevemu.hostctl.ps/1"
    (lab,) = facts["labs"]
    assert (lab["name"], lab["state"], lab["owner"]) == ("bare", "up", session.process.pid)
    (mdev,) = lab["mdevs"]
    assert (mdev["name"], mdev["weight"], mdev["attached"]) == ("red", 3, False)
    assert mdev["uuid"] == session.facts["mdevs"][0]["uuid"]


def test_sockets_are_where_dry_run_says_and_only_ours(
    hostctl: Hostctl, session: Session, file: str
) -> None:
    (mdev,) = hostctl.facts("up", file, "--dry-run")["mdevs"]
    socket = Path(session.facts["mdevs"][0]["socket"])
    assert socket.name == f"mdev-{mdev['uuid']}.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.parent.stat().st_mode) == 0o700


def test_down_ends_it_with_status_0(hostctl: Hostctl, session: Session) -> None:
    assert hostctl.facts("down") == {"schema": "mdevemu.hostctl.down/1", "lab": "bare"}
    assert session.wait() == 0
    assert hostctl.left_nothing()


def test_lab_is_taken_down_even_where_nothing_can_be_written(
    hostctl: Hostctl, session: Session
) -> None:
    (Path(session.facts["folder"]) / ".lab.json.new").mkdir()
    assert session.interrupt() == 130
    assert hostctl.left_nothing()


def test_ctrl_c_ends_it_with_status_130(hostctl: Hostctl, session: Session) -> None:
    assert session.interrupt() == 130
    assert hostctl.left_nothing()


def test_kill_9_leaves_no_process_and_cleanup_removes_the_rest(
    hostctl: Hostctl, session: Session
) -> None:
    session.process.kill()
    session.wait()
    assert until(lambda: not hostctl.leftovers(), 5)
    assert [each["lab"] for each in hostctl.facts("ps")["corpses"]] == ["bare"]
    planned = hostctl.facts("cleanup", "--dry-run")
    assert planned["removed"] is False
    assert not hostctl.left_nothing(0)
    assert [each["name"] for each in hostctl.facts("cleanup")["labs"]] == ["bare"]
    assert hostctl.left_nothing(0)
    assert hostctl.facts("cleanup")["labs"] == []


def test_killed_lab_can_come_up_again_without_cleanup(
    hostctl: Hostctl, session: Session, file: str
) -> None:
    session.process.kill()
    session.wait()
    again = hostctl.up(file)
    assert again.facts["mdevs"] == session.facts["mdevs"]
    assert again.interrupt() == 130


def test_death_of_the_emulator_ends_the_lab_with_status_4(
    hostctl: Hostctl, session: Session
) -> None:
    os.kill(hostctl.facts("ps")["labs"][0]["emulator"], signal.SIGKILL)
    assert session.wait() == 4
    assert "ended with status -9" in session.said
    assert hostctl.left_nothing()


def test_second_up_is_refused_and_changes_nothing(
    hostctl: Hostctl, session: Session, file: str
) -> None:
    done = hostctl.run("up", file)
    assert done.returncode == 2
    assert "is up already" in done.stderr
    assert hostctl.facts("ps")["labs"][0]["owner"] == session.process.pid


def test_detached_lab_outlives_the_command_and_goes_down(hostctl: Hostctl, file: str) -> None:
    facts = hostctl.facts("up", file, "--detach")
    assert hostctl.facts("ps")["labs"][0]["owner"] == facts["owner"]
    hostctl.facts("down", "bare")
    assert hostctl.left_nothing()


def test_mdevs_are_created_listed_and_removed(hostctl: Hostctl, session: Session) -> None:
    made = hostctl.facts("mdev", "create", "half", "--name", "extra", "--weight", "2")["mdev"]
    names = {each["name"]: each for each in hostctl.facts("mdev", "list")["mdevs"]}
    assert set(names) == {"red", "extra"}
    assert names["extra"] == made
    assert made["pasid"] != names["red"]["pasid"]
    (kind,) = hostctl.facts("mdev", "types")["types"]
    assert kind["available"] == 0
    assert hostctl.facts("mdev", "remove", "extra")["removed"] == "extra"
    assert hostctl.facts("mdev", "types")["types"][0]["available"] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("mdev", "create", "hafl"), "did you mean 'mdevemu-half'"),
        (("mdev", "remove", "rde"), "did you mean 'red'"),
        (("mdev", "lst"), "did you mean 'list'"),
        (("iommu", "walk", "red", "0xzz"), "'0xzz' is not a number"),
        (("run", "red", "--", "true"), "unknown VM 'red'"),
        (("mdev", "list", "--lab", "bear"), "did you mean 'bare'"),
    ],
)
def test_mistake_is_refused_with_status_2_and_the_nearest(
    hostctl: Hostctl, session: Session, arguments: tuple[str, ...], expected: str
) -> None:
    done = hostctl.run(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


def test_walk_of_own_hbm_succeeds_and_of_nothing_is_a_finding(
    hostctl: Hostctl, session: Session
) -> None:
    found = hostctl.facts("iommu", "walk", "red", "0xffff800000000000")
    assert found["hpa"] is not None
    assert found["steps"][-1]["leaf"]
    done = hostctl.run("iommu", "walk", "red", "0x1000", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["cause"] == 13
    text = hostctl.run("iommu", "walk", "red", "0x1000").stdout
    assert "fault: cause 13" in text.splitlines()[-1]


def test_output_for_pipes_is_plain_and_aligned(hostctl: Hostctl, session: Session) -> None:
    text = hostctl.run("mdev", "show").stdout
    assert "\x1b" not in text
    header, row = text.splitlines()
    assert header.startswith("NAME  UUID")
    assert row.startswith("red   ")


def test_nothing_running_is_empty_data_and_a_refusal_where_one_is_needed(hostctl: Hostctl) -> None:
    assert hostctl.facts("ps")["labs"] == []
    done = hostctl.run("mdev", "list", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "ConfigError"


def test_bad_lab_starts_nothing(hostctl: Hostctl, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(LAB.replace("weight", "wieght"))
    done = hostctl.run("up", str(file))
    assert done.returncode == 2
    assert "did you mean 'weight'" in done.stderr
    assert hostctl.left_nothing(0)


def test_accelerator_that_the_emulator_refuses_is_status_2_and_leaves_nothing(
    hostctl: Hostctl, tmp_path: Path
) -> None:
    accelerator = tmp_path / "odd.toml"
    accelerator.write_text(
        '[accelerator]\nname = "odd"\nhbm = "64MiB"\n'
        '[[engine]]\nname = "e"\noperations = ["cpoy"]\n'
        '[[type]]\nname = "half"\nhbm = "32MiB"\n'
    )
    file = tmp_path / "lab.toml"
    file.write_text(LAB.replace('"demo"', f'"{accelerator}"'))
    done = hostctl.run("up", str(file))
    assert done.returncode == 2
    assert "did you mean 'copy'" in done.stderr
    assert hostctl.left_nothing(0)


def test_lab_with_an_unwritable_runtime_folder_is_status_3(
    runtime: Path, tmp_path: Path, file: str
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = Hostctl(blocked).run("up", file)
    assert done.returncode == 3
    assert "fix: " in done.stderr


def test_lab_restarts_into_what_is_defined(hostctl: Hostctl, tmp_path: Path) -> None:
    file = tmp_path / "kept.toml"
    file.write_text(
        LAB.replace('accelerator = "demo"', 'accelerator = "demo"\ndefinitions = "kept"')
    )
    uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    session = hostctl.up(str(file))
    arguments = ("-u", uuid, "-p", "0000:01:00.0", "-t", "mdevemu-half", "--auto")
    assert hostctl.run("mdev", "define", *arguments).returncode == 0
    added = hostctl.run("mdev", "modify", "-u", uuid, "--addattr", "weight", "--value", "7")
    assert added.returncode == 0
    assert [mdev["name"] for mdev in hostctl.facts("mdev", "list")["mdevs"]] == ["red"]
    session.interrupt()
    session = hostctl.up(str(file))
    weights = {mdev["uuid"]: mdev["weight"] for mdev in hostctl.facts("mdev", "list")["mdevs"]}
    assert weights[uuid] == 7
    assert len(weights) == 2
    session.interrupt()
    assert (tmp_path / "kept/etc/mdevctl.d/0000:01:00.0" / uuid).is_file()
