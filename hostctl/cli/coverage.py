"""``hostctl coverage``: what drivers have tried of a device, and what they never have."""

import dataclasses
import json
import os
from pathlib import Path

import click

from hostctl import coverage as runs
from hostctl.cli.options import Commands, connected, emulator_options, json_option
from hostctl.output import Output
from mdevemu.errors import ConfigError

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
        _write(file, emulator.coverage())


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
    _write(into, runs.merged(map(runs.read, files)))


@coverage.command()
@_FILES
@click.option("--registers", is_flag=True, help="Every register and field, with its counts.")
@json_option
def show(files: tuple[Path, ...], registers: bool, as_json: bool) -> None:
    """Show the sum of several runs: how much was tried, and what was not."""
    output = Output(json=as_json)
    total = runs.merged(map(runs.read, files))
    rows = runs.summary(total)
    if output.json:
        facts = {"summary": [dataclasses.asdict(row) for row in rows]}
        output.record("coverage.show", facts | {"coverage": runs.record(total)})
    elif registers:
        columns = ("device", "register", "reads", "writes", "field", "0", "1", "codes")
        output.rows("", columns, _registers(total))
    else:
        output.rows(
            "",
            ("device", "what", "tried", "of", "never"),
            [(row.device, row.what, row.tried, row.all, _names(row.never)) for row in rows],
        )


def _names(never: tuple[str, ...]) -> str:
    return ", ".join(never) or "-"


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


def _write(file: Path, coverage: runs.Coverage) -> None:
    """Write a file: whole, or not at all.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(runs.record(coverage), indent=1) + "\n", encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ConfigError(str(file), error.strerror or str(error)) from None
