"""``hostctl trace follow``: what an emulator does, as it does it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from hostctl.cli.options import connected, emulator_options, json_option
from hostctl.cli.telling import tell_events
from hostctl.output import Output
from hostctl.tracing import Selection
from hostctl.tracing.perfetto import Perfetto
from mdevemu.errors import ConfigError


@click.command()
@click.argument("mdevs", metavar="[MDEV]...", nargs=-1)
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Such as command, iommu.walk.")
@click.option(
    "--register",
    "registers",
    multiple=True,
    metavar="NAME",
    help="Accesses to these registers only: status, queue_control[3], queue_*.",
)
@click.option("--queue", "queues", multiple=True, metavar="RANGE", help="Such as 0,2-4.")
@click.option("--pasid", "pasids", multiple=True, metavar="RANGE", help="Such as 5,0x10-0x1f.")
@click.option(
    "--perfetto",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a file that ui.perfetto.dev shows.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    help="For how long; until Ctrl-C if not given.",
)
@emulator_options
@json_option
def follow(
    mdevs: tuple[str, ...],
    kinds: tuple[str, ...],
    registers: tuple[str, ...],
    queues: tuple[str, ...],
    pasids: tuple[str, ...],
    perfetto: Path | None,
    seconds: float | None,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> None:
    """Show what happens to each MDEV, or to all, until Ctrl-C; with --json, a line for each event.

    Registers by name, commands, statuses, translations with their PASID, interrupts, faults.
    An event is shown if every filter that is given holds for it; a filter may be repeated, or
    have several values with commas between them.  While somebody follows, the emulator is
    slower; it does not wait for one who does not read, who then loses events and is told how
    many.
    """
    parts = (mdevs, kinds, registers, queues, pasids)
    chosen = Selection(*(",".join(each) for each in parts))
    output = Output(json=as_json)
    with connected(lab, control) as emulator, _drawing(perfetto) as drawing:
        if drawing is None:
            tell_events(output, emulator, chosen, seconds)
        else:
            tell_events(output, emulator, chosen, seconds, drawing.add)


@contextlib.contextmanager
def _drawing(file: Path | None) -> Iterator[Perfetto | None]:
    """A new Perfetto file, whole once the block is left; one that is there is not overwritten.

    There is none if the block raises ConfigError: nothing was followed.

    Raises:
        ConfigError: it cannot be made.
    """
    if file is None:
        yield None
        return
    try:
        opened = file.open("x", encoding="utf-8")
    except (OSError, ValueError) as wrong:
        raise ConfigError(str(file), getattr(wrong, "strerror", None) or str(wrong)) from None
    with opened:
        drawing = Perfetto(opened)
        try:
            yield drawing
        except ConfigError:
            file.unlink()
            raise
        finally:
            drawing.close()
