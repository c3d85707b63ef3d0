"""The emulator as hostctl starts it, and its control socket."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.control import Control
from hostctl.emulator import Emulator
from hostctl.errors import HostError, TimedOut, VmError
from hostctl.qmp import Qmp
from hostctl.spec import find_lab, read_lab
from mdevemu.errors import ConfigError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        yield Path(name)


@pytest.fixture
def emulator(folder: Path) -> Iterator[Emulator]:
    accelerator = read_lab(find_lab("demo")).profile
    emulator = Emulator(accelerator, folder / "run", folder / "log", os.getpid())
    yield emulator
    emulator.close()


def test_mdev_is_created_described_and_removed(emulator: Emulator) -> None:
    control = emulator.control
    made = control.create("mdevemu-half", name="red", uuid=None, weight=2)
    assert control.mdevs() == [made]
    assert (made.name, made.weight, made.attached) == ("red", 2, False)
    assert made.pasid > 0
    assert made.hbm_size == 32 << 20
    assert Path(made.socket).is_socket()
    assert control.types()[0].available == 1
    assert control.counters()["red"].completed == 0
    assert control.faults() == []
    control.remove("red")
    assert control.mdevs() == []
    assert not Path(made.socket).exists()


def test_refusal_is_the_operators_and_changes_nothing(emulator: Emulator) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mdevemu-half'"):
        emulator.control.create("mdevemu-hafl", name=None, uuid=None, weight=None)
    with pytest.raises(ConfigError, match="no-such-command"):
        emulator.control.ask("no-such-command")
    assert emulator.control.mdevs() == []


def test_hung_up_control_connects_again(emulator: Emulator) -> None:
    emulator.control.mdevs()
    emulator.hang_up()
    assert emulator.control.mdevs() == []


def test_walk_of_an_unmapped_iova_says_why(emulator: Emulator) -> None:
    emulator.control.create("mdevemu-half", name="red", uuid=None, weight=None)
    walk = emulator.control.walk("red", 0x1000)
    assert walk.hpa is None
    assert walk.cause == 13
    assert [step.table for step in walk.steps][-1] == "first"


def test_close_ends_the_process_and_removes_its_sockets(folder: Path, emulator: Emulator) -> None:
    emulator.close()
    assert emulator.status == 0
    assert not emulator.identity.alive
    assert not (folder / "run" / "control.sock").exists()


def test_refused_accelerator_names_what_is_wrong(folder: Path) -> None:
    file = folder / "odd.toml"
    file.write_text('[accelerator]\nname = "odd"\nhmb = "1MiB"\n')
    with pytest.raises(ConfigError, match="did you mean 'hbm'"):
        Emulator(file, folder / "run", folder / "log", os.getpid())


def test_emulator_that_cannot_start_shows_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(VmError, match="ended with status 1 before it was ready") as caught:
        Emulator(folder / "none.toml", folder / "run", folder / "log", os.getpid())
    assert "reproduce: /bin/false" in str(caught.value)


def test_dead_emulator_is_the_machines_fault(emulator: Emulator) -> None:
    emulator.control.mdevs()
    os.kill(emulator.identity.pid, signal.SIGKILL)
    emulator.identity.wait(5)
    with pytest.raises(HostError, match="does not answer"):
        emulator.control.mdevs()


def test_nobody_at_the_socket_is_the_machines_fault(folder: Path) -> None:
    with pytest.raises(HostError, match="does not answer at"):
        Control(folder / "none.sock")


def test_qmp_client_speaks_to_the_emulator_as_to_any_qmp_server(emulator: Emulator) -> None:
    qmp = Qmp(emulator.control_path, "emulator")
    names = qmp.execute("query-commands")
    assert isinstance(names, list)
    assert {"name": "create-mdev"} in names
    qmp.close()


def test_timed_out_says_how_long_it_waited() -> None:
    assert TimedOut("boot", 2.5).waited == 2.5
    assert str(TimedOut("boot", 2.5)) == "boot: not done after 2.5 s"
    late = TimedOut("boot", 1, ["qemu", "a b"], {"console": ["the last line"], "log": []})
    assert str(late).splitlines()[1:] == [
        "  console:",
        "    the last line",
        "  reproduce: qemu 'a b'",
    ]
