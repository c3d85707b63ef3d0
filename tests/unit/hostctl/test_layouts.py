"""``hostctl layout``: files, plans, and that all of a layout is applied or nothing."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.cli.main import hostctl as command
from hostctl.control import Control
from hostctl.layouts import as_toml, choose, read_layouts
from mdevemu.errors import ConfigError
from mdevemu.vfio_user.client import Client
from tests.support.mdevctl import shipped
from tests.support.serving import LIMIT, Serving, short_folder

TYPES = [f"mdevemu-{name}" for name in ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "7g.40gb")]

OURS = """
[layout.halves]
"3g.20gb" = 2

[layout."a mix"]
"mdevemu-1g.5gb" = 2
"2g.10gb" = 1

[layout.none]
"""

MIG_PARTED = """
version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false
  all-enabled:
    - devices: all
      mig-enabled: true
      mig-devices: {}
  all-1g.5gb:
    - devices: all
      mig-enabled: true
      mig-devices:
        "1g.5gb": 7
  split:
    - devices: [0, 1]
      mig-enabled: true
      mig-devices:
        "3g.20gb": 1
        "1g.5gb": 2
    - devices: [2]
      mig-enabled: false
  all-balanced:
    - device-filter: ["0x20B010DE", "0x20B110DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "1g.5gb": 2
        "2g.10gb": 1
    - device-filter: ["0x233010DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "1g.10gb": 2
        "3g.40gb": 1
  others:
    - devices: [1]
      mig-enabled: false
"""


def written(folder: Path, text: str, name: str = "layouts.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_own_file_is_read(tmp_path: Path) -> None:
    assert read_layouts(written(tmp_path, OURS), TYPES) == {
        "halves": {"mdevemu-3g.20gb": 2},
        "a mix": {"mdevemu-1g.5gb": 2, "mdevemu-2g.10gb": 1},
        "none": {},
    }


def test_file_of_mig_parted_is_read_as_it_is(tmp_path: Path) -> None:
    found = read_layouts(written(tmp_path, MIG_PARTED, "config.yaml"), TYPES)
    assert found == {
        "all-disabled": {},
        "all-enabled": {},
        "all-1g.5gb": {"mdevemu-1g.5gb": 7},
        "split": {"mdevemu-3g.20gb": 1, "mdevemu-1g.5gb": 2},
        "all-balanced": {"mdevemu-1g.5gb": 2, "mdevemu-2g.10gb": 1},
    }


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("version: v1", "version: v2", "version: 'v2' (accepted: v1)"),
        ("mig-configs:", "mig-config:", "unknown key 'mig-config'; did you mean 'mig-configs'?"),
        ("mig-enabled: false", "mig-enabled: 0", "mig-enabled: must be true or false"),
        ('"1g.5gb": 7', '"1g.5bg": 7', "unknown type '1g.5bg'; did you mean '1g.5gb'?"),
        ('"1g.5gb": 7', '"1g.5gb": -1', "1g.5gb: -1 is out of range"),
        ("devices: [2]", "devices: [0]", "split: more than one entry is for device 0"),
        ("version: v1", "version: [", "is not YAML: "),
        ("version: v1", "version: !!python/object:os.system {}", "is not YAML: "),
    ],
)
def test_mistake_in_a_yaml_is_refused_by_file_and_key(
    tmp_path: Path, old: str, new: str, wrong: str
) -> None:
    assert old in MIG_PARTED
    with pytest.raises(ConfigError) as caught:
        read_layouts(written(tmp_path, MIG_PARTED.replace(old, new), "config.yaml"), TYPES)
    assert "config.yaml" in str(caught.value)
    assert wrong in str(caught.value)


def test_mistake_in_a_toml_is_refused_by_file_and_key(tmp_path: Path) -> None:
    for text, wrong in (
        ("[layouts.x]", "unknown key 'layouts'; did you mean 'layout'?"),
        ('[layout.x]\n"3g.20bg" = 1', "layout.x: unknown type '3g.20bg'"),
        ('[layout.x]\n"3g.20gb" = true', "layout.x.3g.20gb: must be a whole number"),
        ('[layout.x]\n"3g.20gb" = 5000', "layout.x.3g.20gb: 5000 is out of range"),
        ("layout = 1", "layout: must be a table"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_layouts(written(tmp_path, text), TYPES)
        assert wrong in str(caught.value)


def test_label_is_needed_where_there_are_several(tmp_path: Path) -> None:
    layouts = read_layouts(written(tmp_path, OURS), TYPES)
    for label, wrong in ((None, "is needed"), ("half", "did you mean 'halves'.")):
        with pytest.raises(ConfigError, match=wrong + r" \(accepted: a mix, halves, none"):
            choose(layouts, label)
    assert choose({"x": {}}, None) == ("x", {})


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with short_folder() as folder:
        made = Serving(folder, text=shipped("hbm-8x"))
        yield made
        made.stop()


@pytest.fixture
def control(serving: Serving) -> Iterator[Control]:
    control = Control(serving.runtime / "control.sock")
    yield control
    for mdev in control.mdevs():
        control.remove(mdev.uuid, force=True)
    control.close()


def run(serving: Serving, *arguments: object) -> tuple[int, str]:
    """Exit status and output of ``hostctl layout``, in this process."""
    out = io.StringIO()
    where = ["--control", str(serving.runtime / "control.sock")]
    with contextlib.redirect_stdout(out):
        status = command.main(
            ["layout", *map(str, arguments), *where], "hostctl", standalone_mode=False
        )
    return int(status or 0), out.getvalue()


def counts(control: Control) -> dict[str, int]:
    kinds = [mdev.type for mdev in control.mdevs()]
    return {kind: kinds.count(kind) for kind in kinds}


def test_layout_is_planned_applied_asserted_and_exported(
    serving: Serving, control: Control, tmp_path: Path
) -> None:
    file = written(tmp_path, OURS)
    listed = run(serving, "list", file)[1].splitlines()[1]
    assert listed.split() == ["halves", "mdevemu-3g.20gb", "x2"]
    planned = run(serving, "plan", file, "halves")
    made = "create  mdevemu-3g.20gb at"
    assert planned == (0, f"{made} 0x0\n{made} 0x500000000\n")
    assert control.mdevs() == []
    assert run(serving, "assert", file, "halves") == (
        1,
        "mdevemu-3g.20gb: 0 there, 2 wanted\n",
    )
    assert run(serving, "apply", file, "halves") == planned
    assert run(serving, "assert", file, "halves") == (0, "")
    assert run(serving, "export", "--label", "now")[1] == '[layout."now"]\n"3g.20gb" = 2\n'
    uuids = [mdev.uuid for mdev in control.mdevs()]
    status, out = run(serving, "apply", file, "halves", "--json")
    assert (status, json.loads(out)["plan"]["create"]) == (0, [])
    assert [mdev.uuid for mdev in control.mdevs()] == uuids
    run(serving, "apply", file, "a mix")
    assert counts(control) == {"mdevemu-2g.10gb": 1, "mdevemu-1g.5gb": 2}
    exported = written(tmp_path, run(serving, "export")[1], "exported.toml")
    assert run(serving, "assert", exported)[0] == 0


def test_what_is_made_again_elsewhere_keeps_its_identity(
    serving: Serving, control: Control, tmp_path: Path
) -> None:
    red = control.create("mdevemu-1g.5gb", name="red", uuid=None, weight=9)
    file = written(tmp_path, '[layout.x]\n"4g.20gb" = 1\n"1g.5gb" = 1\n')
    assert "create  mdevemu-1g.5gb at 0x500000000 (red again)" in run(serving, "apply", file)[1]
    (again,) = (mdev for mdev in control.mdevs() if mdev.name == "red")
    assert (again.uuid, again.weight, again.hbm_base) == (red.uuid, 9, 4 * 5 << 30)


def test_refused_layout_changes_nothing(serving: Serving, control: Control, tmp_path: Path) -> None:
    red = control.create("mdevemu-1g.5gb", name="red", uuid=None, weight=None)
    client = Client(red.socket, timeout=LIMIT)
    before = control.mdevs()
    file = written(tmp_path, OURS)
    with pytest.raises(ConfigError, match="red: attached to a VMM, and not in the layout"):
        run(serving, "apply", file, "halves")
    big = written(tmp_path, '[layout.x]\n"1g.5gb" = 1\n"7g.40gb" = 1\n', "big.toml")
    with pytest.raises(ConfigError, match=r"no room for mdevemu-7g\.40gb"):
        run(serving, "apply", big)
    assert control.mdevs() == before
    run(serving, "apply", file, "halves", "--force")
    assert counts(control) == {"mdevemu-3g.20gb": 2}
    client.close()


def test_toml_of_a_layout_is_read_back(tmp_path: Path) -> None:
    layout = {"mdevemu-1g.5gb": 2, "mdevemu-7g.40gb": 0}
    assert read_layouts(written(tmp_path, as_toml("x y", layout)), TYPES) == {"x y": layout}
