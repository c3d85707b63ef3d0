"""``hostctl mdev``: slices in being; mdevctl's verbs, and a few of our own."""

import dataclasses

import click

from hostctl.accesses import Accesses
from hostctl.cli import mdev_attributes, mdev_state, mdevctl
from hostctl.cli.explain import show_explanation
from hostctl.cli.options import Commands, connected, emulator_options, json_option
from hostctl.control import Mdev
from hostctl.errors import OK
from hostctl.output import Output, size
from hostctl.spec import TYPE_PREFIX
from mdevemu.errors import ConfigError, unknown

COLUMNS = ("uuid", "type", "pasid", "weight", "hbm", "buffers", "attached")
"""Of a table of mdevs, after their names."""


def row(mdev: Mdev) -> tuple[object, ...]:
    """An mdev as a row of such a table."""
    hbm = f"{size(mdev.hbm_size)} at {mdev.hbm_base:#x}" if mdev.hbm_size else "-"
    attached = "yes" if mdev.attached else "no"
    pasid = "-" if mdev.pasid is None else mdev.pasid
    buffers = _buffers(mdev)
    return (mdev.name, mdev.uuid, mdev.type, pasid, mdev.weight, hbm, buffers, attached)


def _buffers(mdev: Mdev) -> str:
    """What an mdev's driver does with its HBM."""
    told = [
        (mdev.hbm_high_water, f"{size(mdev.hbm_used)}, at most {size(mdev.hbm_high_water)}"),
        (mdev.hbm_scrubbing, f"{size(mdev.hbm_scrubbing)} to scrub"),
        (mdev.hbm_imported, f"{size(mdev.hbm_imported)} imported"),
    ]
    return "; ".join(text for there, text in told if there) or "-"


@click.group(cls=Commands)
def mdev() -> None:
    """Types, definitions, and slices in being: mdevctl's verbs, and a few of our own."""


own = (mdev_attributes.set_, mdev_state.save, mdev_state.restore, mdev_state.move_)
for command in (*mdevctl.COMMANDS, *own):
    mdev.add_command(command)


@mdev.command()
@click.argument("names", metavar="[MDEV]...", nargs=-1)
@emulator_options
@json_option
def show(names: tuple[str, ...], lab: str | None, control: str | None, as_json: bool) -> None:
    """Show mdevs, all or some by name or UUID: PASID, weight, HBM and buffers, who is attached."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.mdevs()
    for name in names:
        if not any(name in (each.name, each.uuid) for each in found):
            raise ConfigError("MDEV", unknown("mdev", name, [each.name for each in found]))
    chosen = [each for each in found if not names or {each.name, each.uuid} & set(names)]
    if output.json:
        output.record("mdev.show", {"mdevs": [dataclasses.asdict(each) for each in chosen]})
    else:
        output.rows("", ("name", *COLUMNS), [row(each) for each in chosen])


@mdev.command()
@click.argument("type_", metavar="TYPE")
@click.option("--name", help="What to call it; the emulator makes a name up otherwise.")
@click.option("--uuid", help="Its UUID; the emulator makes one up otherwise.")
@click.option("--weight", type=click.IntRange(1), help="Its share of the engines against others.")
@click.option(
    "--user",
    "users",
    metavar="NAME|UID",
    multiple=True,
    help="Who may connect to it, besides the emulator's own user and root; several times for more.",
)
@click.option("--explain", is_flag=True, help="Create nothing; say whether it fits, or why not.")
@emulator_options
@json_option
def create(
    type_: str,
    name: str | None,
    uuid: str | None,
    weight: int | None,
    users: tuple[str, ...],
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
        given = {mdev_attributes.USERS: mdev_attributes.ids(users)} if users else {}
        made = emulator.create(kind, name=name, uuid=uuid, weight=weight, attributes=given)
    mdev_attributes.warn(output, made)
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
