"""``hostctl fault``: what goes wrong in an mdev because somebody wants it to."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import click

from hostctl.cli.options import Commands, connected, emulator_options, json_option, number
from hostctl.faults import Injection
from hostctl.output import Output

F = TypeVar("F", bound=Callable[..., object])

_COLUMNS = ("id", "mdev", "kind", "options", "hits", "state")

_OPTIONS = (
    ("after", "Occasions that it lets pass first."),
    ("count", "How many occasions it strikes."),
    ("percent", "How many of a hundred occasions it strikes."),
    ("seed", "Which of them; the same seed chooses the same ones."),
    ("address", "Only what touches this address: an Iova, or an offset in HBM or BAR 0."),
    ("length", "Bytes from the address on; 1 if not given."),
    ("vector", "Only this interrupt vector."),
    ("delay-us", "Microseconds."),
    ("rate", "Bytes per second."),
)


def _order(command: F) -> F:
    """The options of a fault."""
    access = "Only reads, or only writes, of memory."
    status = "What a command ends with: a status of the device, by name or number."
    command = click.option("--status", metavar="CODE", help=status)(command)
    command = click.option("--access", metavar="read|write", help=access)(command)
    for name, text in reversed(_OPTIONS):
        command = click.option(f"--{name}", type=number, metavar="NUMBER", help=text)(command)
    return command


@click.group(cls=Commands)
def fault() -> None:
    """Faults on purpose: inject, list and clear them."""


@fault.command()
@click.argument("mdev", metavar="MDEV")
@click.argument("kind", metavar="KIND")
@_order
@emulator_options
@json_option
def inject(
    mdev: str,
    kind: str,
    lab: str | None,
    control: str | None,
    as_json: bool,
    **order: int | str | None,
) -> None:
    """Have a fault of KIND strike MDEV, and print its number; ``kinds`` lists them."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        made = emulator.inject(mdev, kind, **order)
    if output.json:
        output.record("fault.inject", {"fault": dataclasses.asdict(made)})
    else:
        output.line(str(made.id))


@fault.command("list")
@click.argument("mdev", metavar="[MDEV]", required=False)
@emulator_options
@json_option
def list_(mdev: str | None, lab: str | None, control: str | None, as_json: bool) -> None:
    """List the faults that were injected and not cleared, and how often they struck."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.injections(mdev)
    if output.json:
        output.record("fault.list", {"faults": [dataclasses.asdict(each) for each in found]})
    else:
        output.rows("", _COLUMNS, [_row(each) for each in found])


@fault.command()
@click.argument("mdev", metavar="MDEV")
@click.argument("id_", metavar="[ID]", required=False, type=number)
@emulator_options
@json_option
def clear(mdev: str, id_: int | None, lab: str | None, control: str | None, as_json: bool) -> None:
    """Clear the fault with that ID, or every fault of MDEV; what it holds up goes on."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        cleared = emulator.clear_faults(mdev, id_)
    if output.json:
        output.record("fault.clear", {"cleared": cleared})


@fault.command()
@emulator_options
@json_option
def kinds(lab: str | None, control: str | None, as_json: bool) -> None:
    """List what can be injected, and which options mean something for it."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.fault_kinds()
    if output.json:
        output.record("fault.kinds", {"kinds": [dataclasses.asdict(each) for each in found]})
        return
    for each in found:
        options = (f"--{name}" + "*" * (name in each.needs) for name in each.options)
        output.line(f"{each.kind}  {' '.join(options)}")
        output.line(f"    {each.occasion}: {each.effect}")


def _row(found: Injection) -> tuple[object, ...]:
    options = " ".join(f"{name}={value}" for name, value in found.options.items())
    state = "spent" if found.spent else "armed"
    return (found.id, found.mdev, found.kind, options or "-", found.hits, state)
