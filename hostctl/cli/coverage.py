"""``hostctl coverage``: what drivers have tried of a device, and what they never have."""

import dataclasses
from pathlib import Path

import click

from hostctl import coverage as runs
from hostctl.cli.options import Commands, connected, emulator_options, json_option
from hostctl.output import Output

_FILES = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)


@click.group(cls=Commands)
def coverage() -> None:
    """What drivers have tried of a device, and what they never have."""


@coverage.command()
@emulator_options
def on(lab: str | None, control: str | None) -> None:
    """Collect from now on what drivers try; a little slower."""
    with connected(lab, control) as emulator:
        emulator.collect_coverage(True)


@coverage.command()
@emulator_options
def off(lab: str | None, control: str | None) -> None:
    """Collect no more; what there is stays."""
    with connected(lab, control) as emulator:
        emulator.collect_coverage(False)


@coverage.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@emulator_options
def save(file: Path, lab: str | None, control: str | None) -> None:
    """Write what was collected so far to FILE."""
    with connected(lab, control) as emulator:
        runs.write(file, emulator.coverage())


@coverage.command()
@_FILES
@click.option(
    "--output",
    "into",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where the sum is written.",
)
def merge(files: tuple[Path, ...], into: Path) -> None:
    """Write the sum of several runs to a file."""
    runs.write(into, runs.merged(map(runs.read, files)))


@coverage.command()
@_FILES
@click.option("--registers", is_flag=True, help="Every register and field, with its counts.")
@json_option
def show(files: tuple[Path, ...], registers: bool, as_json: bool) -> None:
    """Show the sum of several runs: how much was tried, and what was not."""
    output = Output(json=as_json)
    total = runs.merged(map(runs.read, files))
    if output.json:
        facts = {"summary": [dataclasses.asdict(row) for row in runs.summary(total)]}
        output.record("coverage.show", facts | {"coverage": runs.record(total)})
    elif registers:
        columns = ("device", "register", "reads", "writes", "field", "0", "1", "codes")
        output.rows("", columns, _registers(total))
    else:
        tell(total, output)


def tell(total: runs.Coverage, output: Output, most: int | None = None) -> None:
    """How much was tried, and what was not, as a table; ``most`` of the names at most."""
    output.rows(
        "",
        ("device", "what", "tried", "of", "never"),
        [
            (row.device, row.what, row.tried, row.all, _names(row.never, most))
            for row in runs.summary(total)
        ],
    )


def _names(never: tuple[str, ...], most: int | None) -> str:
    left_out = len(never[most:]) if most else 0
    return (", ".join(never[:most]) or "-") + (f" and {left_out} more" if left_out else "")


def _registers(total: runs.Coverage) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for device, found in total.items():
        for name, each in found.registers.items():
            reads = each.reads if each.readable else "-"
            rows.append((device, name, reads, each.writes if each.fields else "-", "", "", "", ""))
            for field, tally in each.fields.items():
                codes = " ".join(f"{code}:{count}" for code, count in tally.codes.items())
                rows.append((device, name, "", "", field, tally.zero, tally.nonzero, codes))
    return rows
