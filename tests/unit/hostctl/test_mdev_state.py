"""``hostctl mdev save``, ``restore`` and ``move``, and what is said of VMs that migrate."""

import json

import pytest

from hostctl.cli import doctor
from hostctl.cli.main import run
from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.features_wire import MigState
from tests.support.serving import Serving, short_folder, until

SCRATCH = 0x28


@pytest.fixture
def emulator():
    with short_folder() as folder:
        serving = Serving(folder)
        serving.line = ("--control", serving.ready["control"])
        serving.ask = serving.control()
        yield serving
        status, _, complaints = serving.stop()
        assert (status, complaints) == (0, "")


def scratch(path, value=None):
    """What is in a register that remembers; put there if it is given."""
    with Client(path) as client:
        if value is not None:
            client.write_u64(0, SCRATCH, value)
        return client.read_u64(0, SCRATCH)


def create(emulator, name, kind="native"):
    return emulator.ask("create-mdev", type=f"mdevemu-{kind}", name=name)["socket"]


def test_save_and_restore_bring_an_mdev_back(emulator, capsys):
    socket = create(emulator, "red")
    scratch(socket, 0xABCD)
    file = emulator.folder / "red.mdev"
    assert run(["mdev", "save", "red", str(file), *emulator.line]) == 0
    assert run(["mdev", "restore", str(file), *emulator.line]) == 2
    until(lambda: not emulator.ask("query-mdevs")[0]["attached"])
    emulator.ask("remove-mdev", uuid="red")
    capsys.readouterr()
    assert run(["mdev", "restore", str(file), *emulator.line, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.mdev.restore/1"
    assert said["mdev"]["name"] == "red"
    assert scratch(said["mdev"]["socket"]) == 0xABCD


def test_save_that_fails_says_why(emulator, capsys):
    create(emulator, "red")
    assert run(["mdev", "save", "red", "/nowhere/x.mdev", *emulator.line]) == 3
    assert "red was not saved: /nowhere/x.mdev: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--no-live",), ("--stopped",)])
def test_move_takes_the_state_from_one_socket_to_another(emulator, capsys, options):
    here, there = create(emulator, "red"), create(emulator, "blue")
    scratch(here, 0x77)
    assert run(["mdev", "move", here, there, *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["running"] is ("--stopped" not in options)
    with Client(there) as client:
        state = client.migration.state()
        assert state is (MigState.STOP if options == ("--stopped",) else MigState.RUNNING)
        assert client.read_u64(0, SCRATCH) == 0x77
    with Client(here) as client:
        assert client.migration.state() is MigState.STOP


def test_move_to_another_kind_is_refused_and_the_source_runs_on(emulator, capsys):
    here, there = create(emulator, "red"), create(emulator, "sum", "adder")
    scratch(here, 0x77)
    assert run(["mdev", "move", here, there]) != 0
    assert "MIG_DATA_WRITE refused" in capsys.readouterr().err
    with Client(here) as client:
        assert client.migration.state() is MigState.RUNNING
        assert client.read_u64(0, SCRATCH) == 0x77


def test_vm_migrate_refuses_and_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("hostctl.cli.vm.find", lambda lab, name: (None, Named(name)))
    assert run(["vm", "migrate", "red", "tcp:elsewhere:4444"]) == 3
    said = capsys.readouterr().err
    assert "red is not migrated" in said
    assert "without the state of its vfio-user devices" in said


class Named:
    """A VM of a lab."""

    def __init__(self, name):
        self.name = name


def test_doctor_says_that_migration_is_not_safe():
    finding = doctor._migration()
    assert finding.state == "unsafe"
    assert "does not say so" in finding.found
