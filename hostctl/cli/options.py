"""What commands have in common: options, and refusing names that nobody knows."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from hostctl import runtime
from hostctl.control import Control
from mdevemu.errors import unknown

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """A group that names the nearest command, and all of them, when it refuses one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See ``click.Group``."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(unknown("command", args[0], self.list_commands(ctx)), ctx)
        return super().resolve_command(ctx, args)


def json_option(command: F) -> F:
    """``--json``: data as JSON on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def lab_option(command: F) -> F:
    """``--lab``: which of the running labs."""
    return click.option(
        "--lab", "lab", metavar="NAME", help="The running lab; needed if there are several."
    )(command)


def emulator_options(command: F) -> F:
    """``--lab`` or ``--control``: which emulator."""
    option = click.option(
        "--control", metavar="PATH", help="Control socket of an emulator that is in no lab."
    )
    return lab_option(option(command))


@contextlib.contextmanager
def connected(lab: str | None, path: str | None) -> Iterator[Control]:
    """The control socket that the options name.

    Raises:
        ConfigError: no such lab runs.
        HostError: its emulator does not answer.
    """
    if path is None:
        path = runtime.select(lab)[1].control
    with contextlib.closing(Control(path)) as control:
        yield control


def number(text: str) -> int:
    """A whole number, decimal or with 0x; the type of an option or argument."""
    try:
        return int(text, 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number (accepted: 4096, 0x1000)") from None
