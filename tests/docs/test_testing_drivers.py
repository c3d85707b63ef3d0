"""docs/testing-drivers.md names the options that there are, and all of them."""

import re
from pathlib import Path

from hostctl.cli.vm_run import run

PAGE = (Path(__file__).parents[2] / "docs/testing-drivers.md").read_text()


def test_options_of_the_page_are_those_of_the_command():
    there = {option for each in run.params for option in each.opts if option.startswith("--")}
    named = set(re.findall(r"`(--[a-z]+)", PAGE.partition("## dmatest")[0]))
    assert named | {"--kernel", "--accel"} == there


def test_files_that_the_page_shows_are_there():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / target).exists(), target
