"""A project outside our tree: written, installed, found; its own tests pass."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl import project
from hostctl.cli.main import run
from hostctl.errors import OK, USAGE
from mdevemu.errors import ConfigError

ROOT = Path(__file__).parents[3]
ADDER = ROOT / "mdevemu/personalities/adder.py"
NAME, MODULE = "blink-er", "mdevemu_blink_er"
LIMIT = 100

wheels = pytest.mark.skipif(
    importlib.util.find_spec("setuptools.command.bdist_wheel") is None,
    reason="setuptools 70.1 or newer is needed to install a project without a network",
)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new") / "blinker"
    assert run(["new", "personality", NAME, "--folder", str(folder)]) == OK
    return folder


@pytest.fixture(scope="module")
def python(written, tmp_path_factory):
    """Runs a Python that has mdevemu and the installed project, in the project's folder."""
    site = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site)]
    command = [sys.executable, "-m", "pip", "install", *options, str(written)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}

    def execute(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=written,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    return execute


def test_project_is_what_it_says(written):
    ours = [f"{MODULE}/__init__.py", f"{MODULE}/device.py"]
    assert files(written) == ["README.md", *ours, "pyproject.toml", "tests/test_device.py"]
    for path in written.rglob("*.*"):
        assert "$" not in path.read_text().replace("\\$", ""), path


def test_device_is_the_adder_under_another_name(written):
    source = (written / MODULE / "device.py").read_text()
    assert "Adder" not in source
    assert "Copy this file" not in source
    back = re.sub(r"\bBlinkEr(Regs)?\b", r"Adder\1", source)
    assert back == ADDER.read_text().replace("  Copy this file.", "")


@wheels
def test_installed_device_is_found_and_its_own_tests_pass(python):
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@wheels
def test_installed_device_is_described(python):
    done = python("-m", "hostctl", "describe", NAME, "--format", "json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["device"]) == ("BlinkEr", 0xADD0)


@wheels
def test_accelerators_file_that_is_wrong_names_it_as_accepted(python):
    done = python("-m", "mdevemu", "describe", "blinker")
    assert done.returncode == USAGE
    assert "did you mean 'blink-er'? (accepted: adder, blink-er, ioat, native)" in done.stderr


@pytest.mark.parametrize(
    "name", ["", "Blinker", "1st", "a b", "-x", "x-", "a--b", "none", "true", "ä", "x" * 33, "../x"]
)
def test_name_that_cannot_be_one_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="name: "):
        project.write(name, tmp_path / "made")
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["adder", "ioat", "native"])
def test_name_of_ours_is_refused(tmp_path, name, capsys):
    where = str(tmp_path / "made")
    assert run(["new", "personality", name, "--folder", where]) == USAGE
    assert "is a personality of mdevemu's own" in capsys.readouterr().err.replace("\n", " ")
    assert files(tmp_path) == []


def test_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        project.write("blinker", tmp_path)
    assert files(tmp_path) == ["mine.txt"]


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        project.write("blinker", tmp_path / "none" / "made")
    assert files(tmp_path) == []
