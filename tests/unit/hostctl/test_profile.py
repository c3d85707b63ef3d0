"""``hostctl profile``, and why a slice does not fit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.cli.explain import show_explanation
from hostctl.control import Control
from hostctl.output import Output
from tests.support.serving import Serving, short_folder
from tests.unit.hostctl.command import Hostctl


@pytest.fixture
def hostctl(tmp_path: Path) -> Hostctl:
    return Hostctl(tmp_path)


def test_shipped_profiles_are_listed_and_shown(hostctl: Hostctl) -> None:
    names = [each["name"] for each in hostctl.facts("profile", "list")["profiles"]]
    assert {"demo", "hbm-8x", "ioat", "queues"} <= set(names)
    assert "1g.5gb 1g.10gb 2g.10gb" in hostctl.run("profile", "list").stdout
    facts = hostctl.facts("profile", "show", "hbm-8x")["profile"]
    assert facts["hbm"] == 40 << 30
    assert facts["types"][1]["id"] == "mdevemu-1g.10gb"
    text = hostctl.run("profile", "show", "hbm-8x").stdout
    assert "hbm-8x: 0000:3b:00.0 below pci0000:3a, next to NUMA node 1\n" in text
    (line,) = (line for line in text.splitlines() if line.startswith("1g.10gb"))
    assert " ".join(line.split()) == "1g.10gb native 10 GiB 0 2 4 6 1 1 4 4096"
    assert "unseal  crypto0 > compute0" in text


def test_new_profile_is_valid_and_nothing_is_overwritten(hostctl: Hostctl, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert hostctl.run("profile", "new", str(file), "--like", "queues").stdout == f"{file}\n"
    assert hostctl.run("profile", "validate", str(file), "demo").stdout == f"{file}: ok\ndemo: ok\n"
    assert hostctl.facts("profile", "show", str(file))["profile"]["name"] == "mine"
    done = hostctl.run("profile", "new", str(file))
    assert (done.returncode, "File exists" in done.stderr) == (2, True)
    assert hostctl.facts("profile", "show", str(file))["profile"]["name"] == "mine"


def test_mistake_is_named_with_file_line_and_key(hostctl: Hostctl, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    hostctl.run("profile", "new", str(file), "--like", "queues")
    text = file.read_text().replace('mode = "shared"', 'mode = "shraed"', 1)
    file.write_text(text)
    line = text[: text.index("shraed")].count("\n") + 1
    done = hostctl.run("profile", "validate", "demo", str(file))
    assert done.returncode == 2
    assert f"mine.toml:{line}: [[queue]] 5: mode: unknown value 'shraed'" in done.stderr
    assert done.stdout == ""


@pytest.fixture(scope="module")
def sliced() -> Iterator[Control]:
    text = Path("mdevemu/profile/profiles/hbm-8x.toml").read_text()
    with short_folder() as folder:
        serving = Serving(folder, text=text)
        control = Control(serving.runtime / "control.sock")
        yield control
        control.close()
        serving.stop()


def test_refusal_is_explained_with_moves(
    sliced: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output()
    assert show_explanation(sliced.explain("mdevemu-3g.20gb"), output) == 0
    sliced.create("mdevemu-1g.5gb", name="red", uuid=None, weight=None)
    assert show_explanation(sliced.explain("mdevemu-4g.20gb"), output) == 1
    assert capsys.readouterr().out.splitlines() == [
        "mdevemu-3g.20gb fits, its HBM at 0x0",
        "mdevemu-4g.20gb does not fit",
        "  lacking: every place of its 4 memory shares is taken: share 0 (red)",
        "  blocked by: red",
        "  fits now: mdevemu-1g.5gb (6), mdevemu-1g.10gb (3), mdevemu-2g.10gb (2), "
        "mdevemu-3g.20gb (1)",
        "  move red from 0x0 to 0x500000000",
    ]
