"""``hostctl layout``: how many mdevs of each type there shall be, as files say it."""

import dataclasses
from collections import Counter
from pathlib import Path

import click

from hostctl.cli.options import Commands, connected, emulator_options, json_option
from hostctl.control import Control, Plan
from hostctl.errors import FINDING, OK
from hostctl.layouts import Layout, as_toml, choose, read_layouts
from hostctl.output import Output

_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
_label = click.argument("label", metavar="[LABEL]", required=False)
_force = click.option("--force", is_flag=True, help="Also take away what is attached to a VMM.")


@click.group(cls=Commands)
def layout() -> None:
    """How many mdevs of each type there shall be, as files say it.

    FILE is TOML with a table [layout.LABEL] of counts by type, or a YAML of mig-parted's.
    """


def _chosen(emulator: Control, file: Path, label: str | None) -> tuple[str, Layout]:
    return choose(read_layouts(file, [kind.id for kind in emulator.types()]), label)


@layout.command("list")
@_file
@emulator_options
@json_option
def list_(file: Path, lab: str | None, control: str | None, as_json: bool) -> None:
    """List the layouts in FILE that are for this accelerator."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = read_layouts(file, [kind.id for kind in emulator.types()])
    if output.json:
        layouts = [{"label": label, "types": dict(types)} for label, types in found.items()]
        output.record("layout.list", {"layouts": layouts})
        return
    output.rows("", ("label", "types"), [(label, _words(types)) for label, types in found.items()])


@layout.command()
@_file
@_label
@_force
@emulator_options
@json_option
def plan(
    file: Path, label: str | None, force: bool, lab: str | None, control: str | None, as_json: bool
) -> None:
    """Say what apply would do, and do nothing."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        name, wanted = _chosen(emulator, file, label)
        made = emulator.plan(wanted, force=force)
    _show(output, "layout.plan", name, made)


@layout.command()
@_file
@_label
@_force
@emulator_options
@json_option
def apply(
    file: Path, label: str | None, force: bool, lab: str | None, control: str | None, as_json: bool
) -> None:
    """Create and remove mdevs until there is what FILE says under LABEL, or change nothing.

    Mdevs that are wanted and there stay, if all fits so; what is made again elsewhere keeps its
    UUID, name and attributes; its HBM is scrubbed.  What a VMM has stays, or nothing happens.
    """
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        name, wanted = _chosen(emulator, file, label)
        made = emulator.apply(wanted, force=force)
    _show(output, "layout.apply", name, made)


@layout.command("assert")
@_file
@_label
@emulator_options
@json_option
def assert_(
    file: Path, label: str | None, lab: str | None, control: str | None, as_json: bool
) -> int:
    """Exit with status 1 if there is not what FILE says under LABEL."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        name, wanted = _chosen(emulator, file, label)
        there = _there(emulator)
    differ = {
        kind: {"wanted": wanted.get(kind, 0), "there": there[kind]}
        for kind in sorted({*wanted, *there})
        if wanted.get(kind, 0) != there[kind]
    }
    if output.json:
        output.record("layout.assert", {"label": name, "holds": not differ, "differ": differ})
    for kind, counts in {} if output.json else differ.items():
        output.line(f"{kind}: {counts['there']} there, {counts['wanted']} wanted")
    return FINDING if differ else OK


@layout.command()
@click.option("--label", default="current", show_default=True, help="What to call it.")
@emulator_options
@json_option
def export(label: str, lab: str | None, control: str | None, as_json: bool) -> None:
    """Print what there is as a layout."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        there = _there(emulator)
    found = dict(sorted(there.items()))
    if output.json:
        output.record("layout.export", {"label": label, "types": found})
    else:
        click.echo(as_toml(label, found), nl=False)


def _there(emulator: Control) -> Counter[str]:
    return Counter(mdev.type for mdev in emulator.mdevs())


def _words(types: Layout) -> str:
    return " ".join(f"{kind} x{count}" for kind, count in types.items() if count) or "nothing"


def _show(output: Output, schema: str, label: str, made: Plan) -> None:
    if output.json:
        output.record(schema, {"label": label, "plan": dataclasses.asdict(made)})
        return
    for name in made.keep:
        output.line(f"keep    {name}")
    for name in made.remove:
        output.line(f"remove  {name}")
    for each in made.create:
        where = "" if each.hbm is None else f" at {each.hbm:#x}"
        again = f" ({each.again} again)" if each.again else ""
        output.line(f"create  {each.type}{where}{again}")
    if made.empty:
        output.line("nothing to do")
