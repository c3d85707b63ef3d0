"""mdevctl's verbs in ``hostctl mdev``, where neither mdevctl nor FUSE is needed.

tests/protocol/test_mdevctl.py holds them against mdevctl itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.control import Control
from hostctl.mdevctl import Change, Mdevctl
from mdevemu.definitions import Definitions
from mdevemu.errors import ConfigError
from tests.support.serving import Serving, short_folder
from tests.unit.hostctl.command import Hostctl

PARENT = "0000:01:04.3"
A, B = (f"83b8f4f2-509f-382f-3c1e-e6bfe0fa100{n}" for n in (1, 2))
NATIVE = "mdevemu-native"


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with short_folder() as folder:
        made = Serving(folder, "--root", str(folder / "root"))
        yield made
        made.stop()


@pytest.fixture
def control(serving: Serving) -> Iterator[Control]:
    control = Control(serving.runtime / "control.sock")
    yield control
    for mdev in control.mdevs():
        control.remove(mdev.uuid, force=True)
    control.close()


@pytest.fixture
def tool(control: Control, tmp_path: Path) -> Mdevctl:
    return Mdevctl(Definitions(tmp_path), control)


def file(folder: Path, *attributes: tuple[str, str], kind: str = NATIVE) -> Path:
    """A definition in a file."""
    made = folder / "definition.json"
    listed = [{name: value} for name, value in attributes]
    made.write_text(json.dumps({"mdev_type": kind, "start": "manual", "attrs": listed}))
    return made


def weights(control: Control) -> dict[str, int]:
    return {mdev.uuid: mdev.weight for mdev in control.mdevs()}


def test_set_changes_all_that_is_given_or_nothing(
    serving: Serving, control: Control, tmp_path: Path
) -> None:
    control.create(NATIVE, name="red", uuid=A, weight=None)
    hostctl = Hostctl(tmp_path)
    where = ("--control", str(serving.runtime / "control.sock"))
    done = hostctl.run("mdev", "set", "red", "weight=9", "command_limit=50", *where)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = {each.name: each.value for each in control.attributes(A)}
    assert (found["weight"], found["command_limit"]) == ("9", "50")
    for wrong, says in (
        ("command_limit=x", "whole number"),
        ("weight", "no value"),
        ("b=1", "'b'"),
    ):
        done = hostctl.run("mdev", "set", "red", "weight=7", wrong, *where)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
        assert {each.name: each.value for each in control.attributes(A)} == found


def test_output_is_mdevctls(serving: Serving, control: Control, tmp_path: Path) -> None:
    hostctl = Hostctl(tmp_path)
    where = ("--control", str(serving.runtime / "control.sock"))
    assert hostctl.run("mdev", "types", *where).stdout.splitlines()[:6] == [
        PARENT,
        "  mdevemu-adder",
        "    Available instances: 4096",
        "    Device API: vfio-pci",
        "    Name: adder",
        "    Description: personality=adder, hbm=0, weight=1, queues=4, attach=pasid,"
        " interrupts=msix",
    ]
    defined = hostctl.run("mdev", "define", "-u", A, "-p", PARENT, "-t", NATIVE, "-a", *where)
    assert (defined.returncode, defined.stdout) == (0, "")
    place = serving.folder / "root/etc/mdevctl.d" / PARENT / A
    assert place.read_text() == (
        '{\n  "mdev_type": "mdevemu-native",\n  "start": "auto",\n  "attrs": []\n}'
    )
    hostctl.run("mdev", "start", "-u", A, *where)
    assert hostctl.run("mdev", "list", "-v", *where).stdout == (
        f'{A} {PARENT} {NATIVE} auto (defined)\n  Attrs:\n    @{{0}}: {{"bandwidth_limit":"0"}}\n'
        '    @{1}: {"command_limit":"0"}\n    @{2}: {"users":"none"}\n'
        '    @{3}: {"weight":"2"}\n'
    )
    assert hostctl.run("mdev", "list", "-d", *where).stdout == (
        f"{A} {PARENT} {NATIVE} auto (active)\n"
    )
    assert hostctl.run("mdev", "undefine", "-u", A, *where).returncode == 0
    assert list(place.parent.iterdir()) == []


def test_nothing_need_be_up_to_define(tmp_path: Path) -> None:
    hostctl = Hostctl(tmp_path / "run", MDEVCTL_ENV_ROOT=str(tmp_path))
    (tmp_path / "run").mkdir()
    assert hostctl.run("mdev", "define", "-u", A, "-p", "x", "-t", "y").returncode == 0
    assert hostctl.run("mdev", "list", "-d").stdout == f"{A} x y manual\n"
    assert hostctl.run("mdev", "list", "--dumpjson").stdout == "[]"
    refused = hostctl.run("mdev", "start", "-u", A)
    assert (refused.returncode, "'x' is not up" in refused.stderr) == (2, True)


def test_without_a_folder_of_definitions_it_is_asked_for(tmp_path: Path) -> None:
    done = Hostctl(tmp_path).run("mdev", "define", "-u", A, "-p", "x", "-t", "y")
    assert (done.returncode, "--root: is needed" in done.stderr) == (2, True)


def test_start_that_fails_leaves_nothing(tool: Mdevctl, control: Control, tmp_path: Path) -> None:
    for bad in (("weight", "0"), ("pasid", "1"), ("wieght", "1")):
        with pytest.raises(ConfigError):
            tool.start(A, PARENT, None, file(tmp_path, ("weight", "9"), bad))
        assert control.mdevs() == []
    tool.start(A, PARENT, None, file(tmp_path, ("weight", "9"), ("weight", "5")))
    assert weights(control) == {A: 5}


def test_live_modification_that_is_refused_changes_nothing(
    tool: Mdevctl, control: Control, tmp_path: Path
) -> None:
    tool.start(A, PARENT, NATIVE, None)
    tool.define(A, PARENT, NATIVE, False, None)
    before = tool.defined(A)
    for defined in (False, True):
        for bad in (("weight", "1001"), ("nothing", "1")):
            with pytest.raises(ConfigError):
                tool.modify_live(A, None, file(tmp_path, ("weight", "9"), bad), defined=defined)
            assert weights(control) == {A: 2}
            assert tool.defined(A) == before
    with pytest.raises(ConfigError, match="the running mdev is of type mdevemu-native"):
        tool.modify_live(A, None, file(tmp_path, kind="mdevemu-adder"), defined=False)
    tool.modify_live(A, None, file(tmp_path, ("weight", "9")), defined=True)
    assert weights(control) == {A: 9}
    assert tool.defined(A)[0].attributes == (("weight", "9"),)


def test_modification_that_is_refused_changes_nothing(tool: Mdevctl) -> None:
    tool.define(A, PARENT, NATIVE, True, None)
    before = tool.defined()
    for change in (
        Change(add=("weight", "1"), index=1),
        Change(delete=True, index=0),
        Change(file=Path("/nowhere")),
    ):
        with pytest.raises(ConfigError):
            tool.modify(A, PARENT, change)
        assert tool.defined() == before
    tool.modify(A, None, Change(add=("weight", "1"), index=0, type="mdevemu-adder"))
    assert tool.defined()[0].content == {
        "mdev_type": "mdevemu-adder",
        "start": "auto",
        "attrs": [{"weight": "1"}],
    }


def test_automatic_ones_start_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    with short_folder() as folder:
        tool = Mdevctl(Definitions(folder / "root"), None)
        bad = file(tmp_path, ("weight", "0"))
        tool.define(A, PARENT, None, False, bad)
        tool.modify(A, None, Change(auto=True))
        tool.define(B, PARENT, NATIVE, True, None)
        (folder / "root/etc/mdevctl.d" / PARENT / A.replace("1001", "1000")).write_text("{")
        serving = Serving(folder, "--root", str(folder / "root"))
        control = Control(serving.runtime / "control.sock")
        assert [mdev.uuid for mdev in control.mdevs()] == [B]
        control.close()
        status, _, said = serving.stop()
        assert status == 0
        assert [line.split(" is not started: ")[0] for line in said.splitlines()] == [
            f"mdevemu: {A.replace('1001', '1000')}",
            f"mdevemu: {A}",
        ]
