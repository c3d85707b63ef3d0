"""docs/testing-drivers.md names the options that there are, and what it has people type works."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from guest.checks import CHECKS
from hostctl.cli.vm_run import run
from hostctl.testing import plugin, wish

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/testing-drivers.md").read_text()


def part(title):
    """The part of the page below a heading, up to the next one of its rank or above."""
    rank = title.split()[0]
    text = PAGE.partition(f"\n{title}\n")[2]
    assert text, title
    return re.split(rf"\n#{{2,{len(rank)}}} ", text)[0]


def test_options_of_the_page_are_those_of_the_command():
    there = {option for each in run.params for option in each.opts if option.startswith("--")}
    named = set(re.findall(r"`(--[a-z]+)", PAGE.partition("## dmatest")[0]))
    assert named | {"--kernel", "--accel"} == there


def test_files_that_the_page_shows_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (PROJECT / "docs" / target).exists(), target


def test_checks_of_the_page_are_those_of_the_agent():
    rows = re.findall(r"^\| (`[a-z`, ]+) \|", part("## The agent's checks"), re.M)
    assert sorted(re.findall(r"`(\w+)`", ", ".join(rows))) == sorted(CHECKS)


def test_options_of_the_plugin_are_all_there_and_no_others():
    parser = pytest.Parser(_ispytest=True)
    plugin.pytest_addoption(parser)
    there = {name for each in parser.getgroup("accel").options for name in each.names()}
    assert set(re.findall(r"^\| `(--accel-[a-z]+)", part("### Options of pytest"), re.M)) == there


def test_levels_arguments_and_fixtures_are_all_there_and_no_others():
    levels = re.findall(r"^\| `([a-z]+)`", part("### Options of pytest"), re.M)
    assert levels == list(plugin.LEVELS)
    rows = re.findall(r"^\| (`.*?) \|", part("### The marker"), re.M)
    assert re.findall("`([a-z_]+)`", " ".join(rows)) == list(wish.accepted())
    assert re.findall(r"(\w+)=,", plugin._MARKER.replace("=)", "=,")) == list(wish.accepted())
    rows = re.findall(r"^\| (`.*?) \|", part("### Fixtures"), re.M)
    fixtures = [name for name, each in vars(plugin).items() if _fixture(each) and name[0] != "_"]
    assert sorted(re.findall("`([a-z_]+)`", " ".join(rows))) == sorted(fixtures)


def _fixture(each):
    return type(each).__name__ == "FixtureFunctionDefinition"


@pytest.mark.vm
@pytest.mark.timeout(300)
def test_five_minutes_fail_and_then_pass(tmp_path):
    scripts = re.findall(r"```sh\n(.*?)```", part("### Five minutes"), re.S)
    said = []
    for script in scripts:
        done = subprocess.run(
            ["sh", "-c", script.replace("/tmp/first", str(tmp_path))],
            cwd=PROJECT,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        said.append(done.stdout)
    assert len(said) == 2
    assert said[0].endswith("\n1\n"), said[0]
    assert "1 failed" in said[0]
    assert re.search(r"vm-red log +ioatdma .*Self-test copy timed out", said[0])
    assert "vm-red: completion-lost (after=1) struck 1 times" in said[0]
    assert "1 passed" in said[1], said[1]
