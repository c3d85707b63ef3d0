"""Every help page is there, and every command that README and docs show is one that there is."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from hostctl.cli.main import hostctl
from hostctl.cli.main import run as run_hostctl
from mdevemu.__main__ import main as mdevemu

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"hostctl": hostctl, "mdevemu": mdevemu}
LAB = ("test", "python")
"""Words that ./lab keeps for itself."""


def commands(name, command):
    """(words, command) of a command and of those below it."""
    yield name, command
    for word, each in getattr(command, "commands", {}).items():
        yield from commands(f"{name} {word}", each)


EVERY = [found for name, group in PROGRAMS.items() for found in commands(name, group)]


@pytest.mark.parametrize(("words", "command"), EVERY, ids=[words for words, _ in EVERY])
def test_help_says_what_a_command_and_each_of_its_options_does(words, command):
    context = click.Context(command, info_name=words)
    assert f"Usage: {words}" in command.get_help(context)
    assert command.help
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [each.opts for each in options if not each.help and each.type.name != "choice"] == []


def test_every_group_and_command_answers_help(capsys):
    for words, _ in EVERY:
        if words.startswith("hostctl "):
            assert run_hostctl([*words.split()[1:], "--help"]) == 0
            assert "Usage: " in capsys.readouterr().out


def examples():
    """(where, words after the program's name) of what pages show and help pages name."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                yield f"{page.name}: {line}", line
    for words, command in EVERY:
        for line in re.findall(r"`(hostctl [^`]+)`", command.help or ""):
            yield f"{words} --help: {line}", line


def typed(line):
    """The words of a hostctl command, None if it is another program's or only a synopsis."""
    if set("[]") & set(line):
        return None
    first, *words = shlex.split(line, comments=True) or [""]
    if first not in ("./lab", "hostctl") or (words and words[0] in LAB):
        return None
    return list(takewhile(lambda word: word not in ("&", "&&", "|", ">"), words))


EXAMPLES = [(at, typed(line)) for at, line in examples() if typed(line)]


@pytest.mark.parametrize("words", [words for _, words in EXAMPLES], ids=[at for at, _ in EXAMPLES])
def test_example_is_a_command_with_options_that_there_are(words):
    command, context = hostctl, None
    while isinstance(command, click.Group):
        context = click.Context(command, context)
        name, command, words = command.resolve_command(context, words)
    command.make_context(name, words, context)


def test_there_are_examples():
    assert len(EXAMPLES) > 30
    assert any("--help: hostctl trace follow" in at for at, _ in EXAMPLES)
