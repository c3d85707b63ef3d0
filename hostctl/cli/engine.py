"""``hostctl engine``: what executes commands, and what it can be made to do instead."""

import dataclasses
import time

import click

from hostctl.cli.options import Commands, connected, emulator_options, json_option
from hostctl.control import Engine
from hostctl.errors import TimedOut
from hostctl.output import Output

_POLL_SECONDS = 0.05


@click.group(cls=Commands)
def engine() -> None:
    """What executes commands, and what it can be made to do instead."""


@engine.command("list")
@emulator_options
@json_option
def list_(lab: str | None, control: str | None, as_json: bool) -> None:
    """List engines, what each can do now, and which mdevs have it."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        _show(output, "engine.list", emulator.engines())


@engine.command()
@click.argument("name", metavar="ENGINE")
@click.argument("operations", metavar="OPERATION...", nargs=-1, required=True)
@click.option(
    "--policy",
    type=click.Choice(["drain", "reject", "kill"]),
    default="drain",
    show_default=True,
    help="drain: what comes waits until what runs has ended; reject: it is refused meanwhile; "
    "kill: what runs is aborted.",
)
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the change.",
)
@emulator_options
@json_option
def reprogram(
    name: str,
    operations: tuple[str, ...],
    policy: str,
    seconds: float,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> None:
    """Make ENGINE do these OPERATIONs and no others, while mdevs use it.

    Drivers of mdevs that have the engine are told; no other mdev notices.  What is not over
    after --wait (exit status 124) goes on; --policy kill ends it.
    """
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        emulator.reprogram(name, operations, policy)
        end = time.monotonic() + seconds
        while (now := next(e for e in emulator.engines() if e.name == name)).changing:
            if time.monotonic() >= end:
                raise TimedOut(f"the change of {name}", seconds)
            time.sleep(_POLL_SECONDS)
    _show(output, "engine.reprogram", [now])


def _show(output: Output, schema: str, found: list[Engine]) -> None:
    if output.json:
        output.record(schema, {"engines": [dataclasses.asdict(each) for each in found]})
        return
    output.rows(
        "",
        ("engine", "version", "running", "changing", "operations", "mdevs"),
        [
            (
                each.name,
                each.version,
                each.running,
                each.changing or "-",
                " ".join(each.operations) or "-",
                " ".join(each.mdevs) or "-",
            )
            for each in found
        ],
    )
