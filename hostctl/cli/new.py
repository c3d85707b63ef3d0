"""``hostctl new`` and ``hostctl describe``: a device of one's own, and what one looks like."""

import subprocess
import sys
from pathlib import Path

import click

from hostctl import project
from hostctl.cli.options import Commands, json_option
from hostctl.output import Output


@click.group(cls=Commands)
def new() -> None:
    """Start a project of one's own."""


@new.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write it; ./NAME if not given."
)
@json_option
def personality(name: str, folder: Path | None, as_json: bool) -> None:
    """Write a project with a device that adds numbers, to be changed into another.

    Once it is installed beside mdevemu, its name is a personality like any other.
    """
    output = Output(json=as_json)
    files = project.write(name, Path(name) if folder is None else folder)
    if output.json:
        output.record("new.personality", {"name": name, "files": [str(each) for each in files]})
        return
    for each in files:
        output.line(str(each))
    output.say(f"how to install and test it: {files[1]}")


@click.command()
@click.argument("personality", metavar="PERSONALITY")
@click.option(
    "--format", "form", default="text", show_default=True, metavar="FORM",
    help="text, markdown, c, json or python.",
)  # fmt: skip
def describe(personality: str, form: str) -> int:
    """Print the registers, structs and codes of a device, made from its declarations."""
    command = [sys.executable, "-m", "mdevemu", "describe", personality, "--format", form]
    return subprocess.run(command, check=False).returncode
