"""``hostctl mdev save``, ``restore`` and ``move``: the state of a slice, into a file or another."""

import dataclasses
from pathlib import Path

import click

from hostctl.cli.options import connected, emulator_options, json_option
from hostctl.device.server import named, opened
from hostctl.output import Output, size
from mdevemu.vfio_user.features_wire import MigState
from mdevemu.vfio_user.moving import move

file_argument = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@click.command()
@click.argument("name", metavar="MDEV")
@file_argument
@emulator_options
@json_option
def save(name: str, file: Path, lab: str | None, control: str | None, as_json: bool) -> None:
    """Save the whole state of MDEV to FILE; it rests meanwhile, and goes on.

    FILE is written by the emulator, and replaced only when the new one is whole.
    """
    output, file = Output(json=as_json), file.absolute()
    with connected(lab, control) as emulator:
        emulator.save(name, str(file))
    if output.json:
        output.record("mdev.save", {"mdev": name, "file": str(file)})


@click.command()
@file_argument
@emulator_options
@json_option
def restore(file: Path, lab: str | None, control: str | None, as_json: bool) -> None:
    """Create the mdev that was saved to FILE, with its UUID, name and state, and print its UUID.

    It rests until a client that has lent it memory reaches its registers.
    """
    output, file = Output(json=as_json), file.absolute()
    with connected(lab, control) as emulator:
        made = emulator.restore(str(file))
    if output.json:
        output.record("mdev.restore", {"mdev": dataclasses.asdict(made), "file": str(file)})
    else:
        output.line(made.uuid)


@click.command("move")
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@click.option("--live/--no-live", default=True, help="Move memory first, while it works.")
@click.option("--stopped", is_flag=True, help="Leave it stopped, for its next client to run.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.01),
    default=10.0,
    show_default=True,
    help="Seconds that each answer of a server may take.",
)
@json_option
def move_(
    source: str, destination: str, live: bool, stopped: bool, timeout: float, as_json: bool
) -> None:
    """Move the state of the device behind the socket SOURCE to that behind DESTINATION.

    Both are vfio-user sockets that no VMM is connected to, of one emulator or of two.
    SOURCE is left stopped.  DESTINATION runs on, and has nobody's memory: commands that
    wait in its rings fault, unless it is left --stopped for a client that lends some.
    """
    output = Output(json=as_json)
    with opened(source, timeout) as here, opened(destination, timeout) as there:
        with named(source, timeout):
            moved = move(here, there, live=live)
        if not stopped:
            there.migration.set_state(MigState.RUNNING)
    facts = {"source": source, "destination": destination, "bytes": moved, "running": not stopped}
    if output.json:
        output.record("mdev.move", facts)
    else:
        output.line(f"{size(moved)} of state moved")
