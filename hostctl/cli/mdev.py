"""``hostctl mdev``: types, and slices in being."""

import dataclasses

import click

from hostctl.accesses import Accesses
from hostctl.cli.explain import show_explanation
from hostctl.cli.options import Commands, connected, emulator_options, json_option
from hostctl.control import Mdev
from hostctl.errors import OK
from hostctl.output import Output, size
from hostctl.spec import TYPE_PREFIX

_COLUMNS = ("name", "uuid", "type", "pasid", "weight", "hbm", "attached")


def row(mdev: Mdev) -> tuple[object, ...]:
    """An mdev as a row of a table with ``_COLUMNS``."""
    hbm = f"{size(mdev.hbm_size)} at {mdev.hbm_base:#x}" if mdev.hbm_size else "-"
    attached = "yes" if mdev.attached else "no"
    pasid = "-" if mdev.pasid is None else mdev.pasid
    return (mdev.name, mdev.uuid, mdev.type, pasid, mdev.weight, hbm, attached)


@click.group(cls=Commands)
def mdev() -> None:
    """Types, and slices in being."""


@mdev.command()
@emulator_options
@json_option
def types(lab: str | None, control: str | None, as_json: bool) -> None:
    """List what slices there can be."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.types()
    if output.json:
        output.record("mdev.types", {"types": [dataclasses.asdict(kind) for kind in found]})
        return
    output.rows(
        "",
        ("type", "available", "personality", "hbm", "weight", "queues", "description"),
        [
            (
                kind.id,
                kind.available,
                kind.personality,
                size(kind.hbm),
                kind.weight,
                kind.queues,
                # Before its last line the description repeats the attributes, as in sysfs.
                kind.description.rpartition("\n")[2],
            )
            for kind in found
        ],
    )


@mdev.command("list")
@emulator_options
@json_option
def list_(lab: str | None, control: str | None, as_json: bool) -> None:
    """List the mdevs that exist."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.mdevs()
    if output.json:
        output.record("mdev.list", {"mdevs": [dataclasses.asdict(each) for each in found]})
    else:
        output.rows("", _COLUMNS, [row(each) for each in found])


@mdev.command()
@click.argument("type_", metavar="TYPE")
@click.option("--name", help="What to call it; the emulator makes a name up otherwise.")
@click.option("--uuid", help="Its UUID; the emulator makes one up otherwise.")
@click.option("--weight", type=click.IntRange(1), help="Its share of the engines against others.")
@click.option("--explain", is_flag=True, help="Create nothing; say whether it fits, or why not.")
@emulator_options
@json_option
def create(
    type_: str,
    name: str | None,
    uuid: str | None,
    weight: int | None,
    explain: bool,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> int:
    """Create an mdev of TYPE and print its UUID.

    With --explain the exit status is 1 if it does not fit.
    """
    output = Output(json=as_json)
    kind = TYPE_PREFIX + type_.removeprefix(TYPE_PREFIX)
    with connected(lab, control) as emulator:
        if explain:
            return show_explanation(emulator.explain(kind), output)
        made = emulator.create(kind, name=name, uuid=uuid, weight=weight)
    if output.json:
        output.record("mdev.create", {"mdev": dataclasses.asdict(made)})
    else:
        output.line(made.uuid)
    return OK


@mdev.command()
@click.argument("name", metavar="MDEV")
@click.option("--force", is_flag=True, help="Also if a VMM is connected to it.")
@emulator_options
@json_option
def remove(name: str, force: bool, lab: str | None, control: str | None, as_json: bool) -> None:
    """Remove the MDEV of that name or UUID; its HBM is scrubbed."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        emulator.remove(name, force=force)
    if output.json:
        output.record("mdev.remove", {"removed": name})


@mdev.command()
@click.argument("name", metavar="MDEV")
@emulator_options
@json_option
def accesses(name: str, lab: str | None, control: str | None, as_json: bool) -> None:
    """Show what the driver of MDEV reached that no register covers, and what it waited for."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.accesses(name)
    if output.json:
        output.record("mdev.accesses", dataclasses.asdict(found))
    else:
        _show_accesses(output, found)


def _show_accesses(output: Output, found: Accesses) -> None:
    output.rows(
        "",
        ("no register at", "bytes", "access", "count"),
        [
            (f"BAR{each.bar} {each.offset:#x}", each.length, _access(each.write), each.count)
            for each in found.unmodelled
        ],
    )
    if found.others:
        output.say(f"and {found.others} more accesses elsewhere")
    output.console.print()
    output.rows(
        "",
        ("spins on", "reads", "value", "fields"),
        [
            (
                each.register or f"BAR{each.bar} {each.offset:#x}",
                each.reads,
                f"{each.value:#x}",
                " ".join(f"{name}={value}" for name, value in each.fields.items()) or "-",
            )
            for each in found.spins
        ],
    )


def _access(write: bool) -> str:
    return "write" if write else "read"
