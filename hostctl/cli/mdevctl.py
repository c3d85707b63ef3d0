"""``hostctl mdev define``, ``start``, ``list``, ...: mdevctl's verbs, flags and output."""

import contextlib
import dataclasses
import os
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

import click

from hostctl import mdevctl, runtime
from hostctl.cli.options import connected, emulator_options, json_option
from hostctl.mdevctl import Change, Mdevctl
from hostctl.output import Output
from mdevemu.definitions import Definitions, pretty
from mdevemu.errors import ConfigError

ROOT_VARIABLE = "MDEVCTL_ENV_ROOT"

_uuid = click.option("-u", "--uuid", type=click.UUID, help="The mdev's UUID.")
_needed_uuid = click.option("-u", "--uuid", type=click.UUID, required=True, help="The mdev's UUID.")
_parent = click.option("-p", "--parent", help="The accelerator's PCI address.")
_type = click.option("-t", "--type", "type_", help="Id of the mdev's type.")
_file = click.option(
    "--jsonfile", type=click.Path(path_type=Path), help="A file with the whole definition."
)
_root = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help=f"Folder with etc/mdevctl.d; else ${ROOT_VARIABLE}, else the accelerator's own.",
)
_dump = click.option("--dumpjson", is_flag=True, help="Print mdevctl's JSON.")


@contextlib.contextmanager
def _opened(
    root: Path | None, lab: str | None, path: str | None, *, files: bool = True
) -> Iterator[Mdevctl]:
    """Definitions and the accelerator that the options name; none need be up.

    Raises:
        ConfigError: definitions are needed, and nobody says where they are.
    """
    with contextlib.ExitStack() as stack:
        control = None
        if path or lab or runtime.running():
            control = stack.enter_context(connected(lab, path))
        if root is None and os.environ.get(ROOT_VARIABLE):
            root = Path(os.environ[ROOT_VARIABLE])
        if root is None and control is not None and (own := control.accelerator().definitions):
            root = Path(own)
        if root is None and files:
            raise ConfigError("--root", "is needed: the accelerator has no folder of definitions")
        yield Mdevctl(Definitions(root) if root else None, control)


def _text(uuid: uuids.UUID | None) -> str | None:
    return None if uuid is None else str(uuid)


def _either(uuid: object, parent: object) -> None:
    if uuid is None and parent is None:
        raise click.UsageError("--uuid or --parent is needed")


def _alone(given: object, *others: tuple[str, object]) -> None:
    """Refuse options beside --jsonfile."""
    for name, value in others:
        if given is not None and value:
            raise click.UsageError(f"--jsonfile cannot be used with {name}")


@click.command()
@_uuid
@_parent
@_type
@click.option("-a", "--auto", is_flag=True, help="Start it when the accelerator comes up.")
@_file
@_root
@emulator_options
def define(
    uuid: uuids.UUID | None,
    parent: str | None,
    type_: str | None,
    auto: bool,
    jsonfile: Path | None,
    root: Path | None,
    lab: str | None,
    control: str | None,
) -> None:
    """Define an mdev that outlives its accelerator; prints a UUID that was made up.

    Of a running mdev, parent, type and attributes need not be given.
    """
    _either(uuid, parent)
    _alone(jsonfile, ("--type", type_), ("--auto", auto))
    with _opened(root, lab, control) as tool:
        made = tool.define(_text(uuid), parent, type_, auto, jsonfile)
    if uuid is None:
        click.echo(made)


@click.command()
@_needed_uuid
@_parent
@_root
@emulator_options
def undefine(
    uuid: uuids.UUID, parent: str | None, root: Path | None, lab: str | None, control: str | None
) -> None:
    """Remove the definitions of a UUID, on one parent or on all."""
    with _opened(root, lab, control) as tool:
        tool.undefine(str(uuid), parent)


@click.command()
@_needed_uuid
@_parent
@_type
@click.option("--addattr", metavar="NAME", help="Add an attribute.")
@click.option("--delattr", is_flag=True, help="Take an attribute out.")
@click.option("-i", "--index", type=click.IntRange(0), help="Which attribute; else the last.")
@click.option("--value", help="The value of the attribute to add.")
@click.option("-a", "--auto", is_flag=True, help="Start it when the accelerator comes up.")
@click.option("-m", "--manual", is_flag=True, help="Do not.")
@click.option("-l", "--live", is_flag=True, help="Change the running mdev, by --jsonfile.")
@click.option("-d", "--defined", is_flag=True, help="With --live: its definition too.")
@_file
@_root
@emulator_options
def modify(
    uuid: uuids.UUID,
    parent: str | None,
    type_: str | None,
    addattr: str | None,
    delattr: bool,
    index: int | None,
    value: str | None,
    auto: bool,
    manual: bool,
    live: bool,
    defined: bool,
    jsonfile: Path | None,
    root: Path | None,
    lab: str | None,
    control: str | None,
) -> None:
    """Change a definition, or with --live a running mdev.

    Exactly one of --addattr, --delattr, --auto, --manual and --jsonfile.
    """
    ways = [addattr is not None, delattr, auto, manual, jsonfile is not None]
    if sum(ways) != 1:
        ways_named = "--addattr, --delattr, --auto, --manual, --jsonfile"
        raise click.UsageError(f"exactly one of {ways_named} is needed")
    if (addattr is None) != (value is None):
        raise click.UsageError("--addattr and --value go together")
    if index is not None and addattr is None and not delattr:
        raise click.UsageError("--index goes with --addattr or --delattr")
    _alone(jsonfile, ("--type", type_))
    if live and jsonfile is None:
        raise click.UsageError("--live needs --jsonfile")
    change = Change(
        type=type_,
        add=None if addattr is None or value is None else (addattr, value),
        delete=delattr,
        index=index,
        auto=True if auto else False if manual else None,
        file=jsonfile,
    )
    with _opened(root, lab, control, files=not live or defined) as tool:
        if live and jsonfile is not None:
            tool.modify_live(str(uuid), parent, jsonfile, defined=defined)
        else:
            tool.modify(str(uuid), parent, change)


@click.command()
@_uuid
@_parent
@_type
@_file
@_root
@emulator_options
def start(
    uuid: uuids.UUID | None,
    parent: str | None,
    type_: str | None,
    jsonfile: Path | None,
    root: Path | None,
    lab: str | None,
    control: str | None,
) -> None:
    """Start a defined mdev by its UUID, or any by parent and type; prints a made-up UUID."""
    _either(uuid, parent)
    _alone(jsonfile, ("--type", type_))
    with _opened(root, lab, control, files=False) as tool:
        made = tool.start(_text(uuid), parent, type_, jsonfile)
    if uuid is None:
        click.echo(made)


@click.command()
@_needed_uuid
@click.option("-f", "--force", is_flag=True, help="Also if a VMM is connected to it.")
@_root
@emulator_options
def stop(
    uuid: uuids.UUID, force: bool, root: Path | None, lab: str | None, control: str | None
) -> None:
    """Stop a running mdev; its HBM is scrubbed."""
    with _opened(root, lab, control, files=False) as tool:
        tool.stop(str(uuid), force=force)


@click.command("list")
@click.option("-d", "--defined", is_flag=True, help="Definitions, not running mdevs.")
@_dump
@click.option("-v", "--verbose", is_flag=True, help="With their attributes.")
@_uuid
@_parent
@_root
@emulator_options
@json_option
def list_(
    defined: bool,
    dumpjson: bool,
    verbose: bool,
    uuid: uuids.UUID | None,
    parent: str | None,
    root: Path | None,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> None:
    """List the mdevs that run, or that are defined.

    --dumpjson prints mdevctl's JSON, --json everything that the emulator knows of them.
    """
    if as_json:
        with connected(lab, control) as emulator:
            found = [dataclasses.asdict(each) for each in emulator.mdevs()]
        Output(json=True).record("mdev.list", {"mdevs": found})
        return
    with _opened(root, lab, control, files=defined) as tool:
        shown = (tool.defined if defined else tool.active)(_text(uuid), parent)
        marked = [each for each in shown if (tool.runs if defined else tool.is_defined)(each)]
    if dumpjson:
        click.echo(pretty(mdevctl.list_json(shown, one=uuid is not None)), nl=False)
        return
    mark = "active" if defined else "defined"
    click.echo(mdevctl.list_text(shown, marked, mark, verbose=verbose), nl=False)


@click.command()
@_parent
@_dump
@emulator_options
@json_option
def types(
    parent: str | None, dumpjson: bool, lab: str | None, control: str | None, as_json: bool
) -> None:
    """List what slices there can be, and how many more of each.

    --dumpjson prints mdevctl's JSON, --json everything that the emulator knows of them.
    """
    with connected(lab, control) as emulator:
        if as_json:
            found = [dataclasses.asdict(kind) for kind in emulator.types()]
            Output(json=True).record("mdev.types", {"types": found})
            return
        there = Mdevctl(None, emulator).types(parent)
    if dumpjson:
        click.echo(pretty(mdevctl.types_json(there)), nl=False)
    else:
        click.echo(mdevctl.types_text(there), nl=False)


COMMANDS = (define, undefine, modify, start, stop, list_, types)
