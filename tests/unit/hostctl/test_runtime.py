"""Folders of labs: private, readable by every hostctl, swept when their owner is dead."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl import runtime, sweep
from hostctl.errors import HostError
from hostctl.processes import Identity, boot_id, identify, spawn, stop
from hostctl.runtime import Folder, Record, VmRecord
from mdevemu.errors import ConfigError

DEAD = Identity(pid=2**22 - 1, start=1, boot=boot_id())


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder with a short path: sockets live in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def lab(name: str, owner: Identity, emulator: Identity | None = None) -> Folder:
    folder = runtime.folder_of(name)
    folder.path.mkdir()
    vm = VmRecord(
        name="red",
        argv=["qemu", "-m", "a b"],
        environment={"A": "b"},
        agent="/a",
        qmp="/q",
        mdevs=["red"],
        accelerator="tcg",
    )
    folder.write(
        Record(
            name=name,
            file="/lab.toml",
            owner=owner,
            since=time.time(),
            control=str(folder.control),
            emulator=emulator,
            vms=[vm],
        )
    )
    return folder


def test_root_is_private(home: Path) -> None:
    assert runtime.root() == home / "mdevemu"
    assert runtime.root().stat().st_mode & 0o777 == 0o700


def test_root_that_others_can_enter_is_refused(home: Path) -> None:
    (home / "mdevemu").mkdir(mode=0o755)
    with pytest.raises(HostError, match="only this user"):
        runtime.root()


def test_root_that_is_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (home / "mdevemu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError):
        runtime.root()


def test_without_runtime_dir_the_root_is_of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime.root() == Path(f"/tmp/mdevemu-{os.getuid()}")


def test_folder_with_too_long_socket_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="108 bytes"):
        Folder(tmp_path / ("x" * 80))


def test_longest_socket_name_fits_where_the_folder_is_accepted() -> None:
    folder = Folder(Path("/run/user/1000/mdevemu/abcdefghijklmnop"))
    longest = folder.mdev_socket("0" * 36)
    assert len(str(longest)) < 108
    assert len(str(folder.file("abcdefghijklmnop", "agent.sock"))) <= len(str(longest))


def test_record_is_read_back_as_it_was_written() -> None:
    folder = lab("one", identify(os.getpid()), emulator=DEAD)
    record = folder.read()
    assert record is not None
    assert record.owner == identify(os.getpid())
    assert record.emulator == DEAD
    assert record.vms[0].argv == ["qemu", "-m", "a b"]
    assert record.vms[0].process is None
    assert list(record.processes) == ["owner", "emulator"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', '{"owner": {"pid": "1"}}'])
def test_broken_record_is_no_record(text: str) -> None:
    folder = lab("one", DEAD)
    (folder.path / "lab.json").write_text(text)
    assert folder.read() is None


def test_select_takes_the_only_running_lab_and_refuses_guesses() -> None:
    with pytest.raises(ConfigError, match="no lab is running"):
        runtime.select(None)
    lab("alpha", identify(os.getpid()))
    lab("corpse", DEAD)
    assert runtime.select(None)[1].name == "alpha"
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        runtime.select("alhpa")
    lab("beta", identify(os.getpid()))
    with pytest.raises(ConfigError, match="alpha, beta"):
        runtime.select(None)


def test_lock_is_held_by_one_and_falls_with_its_holder() -> None:
    folder = lab("one", identify(os.getpid()))
    with folder.locked("red"), pytest.raises(HostError, match="in use"), folder.locked("red"):
        pass
    with folder.locked("red"):
        pass


def test_sweep_ends_recorded_processes_of_a_dead_owner_and_removes_the_folder() -> None:
    child = spawn([sys.executable, "-c", "import time; time.sleep(60)"], log=None)
    try:
        folder = lab("one", DEAD, emulator=identify(child.pid))
        found = sweep.corpses()
        assert [each.processes for each in found] == [{"emulator": child.pid}]
        swept = sweep.sweep(folder)
        assert swept is not None
        assert child.wait(5) != 0
        assert not folder.path.exists()
    finally:
        stop(child, 1)


def test_sweep_leaves_a_stranger_with_a_recorded_number_alone() -> None:
    child = spawn([sys.executable, "-c", "import time; time.sleep(60)"], log=None)
    try:
        real = identify(child.pid)
        folder = lab("one", DEAD, emulator=Identity(real.pid, real.start - 1, real.boot))
        sweep.sweep(folder)
        assert not folder.path.exists()
        assert child.poll() is None
    finally:
        stop(child, 1)


def test_sweep_leaves_a_lab_with_a_living_owner_alone() -> None:
    folder = lab("one", identify(os.getpid()))
    assert sweep.corpses() == []
    assert sweep.sweep(folder) is None
    assert folder.path.exists()


def test_folder_without_a_record_is_a_corpse_unless_somebody_holds_it() -> None:
    folder = runtime.folder_of("fresh")
    folder.path.mkdir()
    with folder.locked("owner"):
        assert sweep.corpses() == []
    assert [each.name for each in sweep.corpses()] == ["fresh"]
