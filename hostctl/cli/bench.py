"""``hostctl bench``: how fast it is on this machine."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import click

from hostctl import tools
from hostctl.bench import dma as dma_bench
from hostctl.bench import mmio as mmio_bench
from hostctl.bench.player import COMPILERS, compiler
from hostctl.bench.rows import COLUMNS, Row, cells, record
from hostctl.bench.stage import Stage, stage
from hostctl.cli.options import Commands, F, json_option
from hostctl.errors import OK
from hostctl.output import Output

Measure: TypeAlias = Callable[[Stage, int, int], Iterator[Row]]


@click.group(cls=Commands)
def bench() -> None:
    """Measure how fast something is on this machine."""


def rounds_option(command: F) -> F:
    """``--rounds``: how often everything is measured."""
    kind = click.IntRange(1, 1000)
    return click.option(
        "--rounds", type=kind, default=9, show_default=True, help="Each number is their median."
    )(command)


def count_option(command: F) -> F:
    """``--count``: how long a round is."""
    kind = click.IntRange(100, 1_000_000)
    return click.option(
        "--count", type=kind, default=5000, show_default=True, help="Accesses in a round, about."
    )(command)


@bench.command()
@rounds_option
@json_option
def iommu(rounds: int, as_json: bool) -> int:
    """Compare translations with dictionary lookups; each number is the median of all rounds."""
    arguments = ("bench", "iommu", "--rounds", str(rounds))
    if not as_json:
        return tools.show(*arguments)
    status, facts = tools.facts(*arguments, "--json")
    Output(json=True).record("bench.iommu", facts)
    return status


@bench.command()
@rounds_option
@count_option
@json_option
def mmio(rounds: int, count: int, as_json: bool) -> int:
    """Compare accesses to a device's registers with two C programs that send the same bytes.

    Server and clients share a core, those beside a busy neighbour have another one if there is.
    """
    return _show("bench.mmio", mmio_bench.measure, rounds, count, as_json)


@bench.command()
@rounds_option
@count_option
@json_option
def dma(rounds: int, count: int, as_json: bool) -> int:
    """Compare maps, messages for memory and copies with two C programs that send the same bytes."""
    return _show("bench.dma", dma_bench.measure, rounds, count, as_json)


def _show(name: str, measure: Measure, rounds: int, count: int, as_json: bool) -> int:
    """Measure and show, or say why not; an aim that was missed is no failure.

    Raises:
        MdevError: a process of the bench failed.
    """
    output = Output(json=as_json)
    program, skipped = compiler(), None
    rows: list[Row] = []
    if program is None:
        skipped = f"there is no C compiler ({', '.join(COMPILERS)}), and so no baseline"
        output.say(f"skipped: {skipped}")
    else:
        with stage(program) as made:
            for row in measure(made, rounds, count):
                output.say(f"measured: {row.name}, clients: {row.clients}")
                rows.append(row)
    if as_json:
        facts = {"rounds": rounds, "count": count, "skipped": skipped}
        output.record(name, {**facts, "rows": [record(row) for row in rows]})
    elif rows:
        output.rows("", COLUMNS, [cells(row) for row in rows])
    return OK
