"""``hostctl bench``: how fast it is on this machine."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeAlias

import click

from hostctl import tools
from hostctl.bench import dma as dma_bench
from hostctl.bench import fairness as fairness_bench
from hostctl.bench import mmio as mmio_bench
from hostctl.bench import scale as scale_bench
from hostctl.bench.fairness import Fairness
from hostctl.bench.player import COMPILERS, compiler
from hostctl.bench.rows import COLUMNS, Row, cells, record
from hostctl.bench.scale import Scale
from hostctl.bench.stage import Stage, stage
from hostctl.bench.tenant import LENGTHS, Wanted
from hostctl.cli.options import Commands, F, json_option
from hostctl.errors import OK
from hostctl.output import Output, size

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


def tenant(text: str) -> Wanted:
    """A tenant of the bench, as ``large:4`` or ``tiny:1``; the type of an option."""
    found = fairness_bench.read_tenant(text)
    if found is None:
        kinds = " or ".join(LENGTHS)
        raise click.BadParameter(f"{text!r} (accepted: {kinds}, then :1 to :1000)")
    return found


@bench.command()
@click.option(
    "--tenant",
    "tenants",
    type=tenant,
    metavar="KIND:WEIGHT",
    multiple=True,
    default=("large:1", "large:4", "tiny:2", "tiny:1"),
    show_default=True,
    help="A tenant that copies 1 MiB or 64 bytes at a time, and its weight; two at least.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="How long shares are counted.",
)
@rounds_option
@json_option
def fairness(tenants: tuple[Wanted, ...], seconds: float, rounds: int, as_json: bool) -> int:
    """Give one accelerator to several tenants: what each gets of it, and how long each waits.

    Shares are counted while every tenant wants everything.  Waiting is that of one command
    at a time: alone, beside the first other tenant that copies much, and beside all others.
    """
    if len(tenants) < 2:
        raise click.UsageError("--tenant: one tenant has no neighbours (accepted: two or more)")
    output = Output(json=as_json)
    found = fairness_bench.measure(tenants, rounds, seconds)
    if as_json:
        shares = [{**asdict(each), "off": each.off} for each in found.shares]
        waits = [{**asdict(each), "held": each.held} for each in found.waits]
        facts = {"rounds": rounds, "seconds": seconds, "jain": found.jain, "fair": found.fair}
        output.record("bench.fairness", {**facts, "shares": shares, "waits": waits})
    else:
        _show_fairness(output, found)
    return OK


def _show_fairness(output: Output, found: Fairness) -> None:
    columns = ("tenant", "due %", "engine time %", "off %", "work %")
    shares = [
        (
            each.tenant,
            *(f"{100 * part:.1f}" for part in (each.due, each.time, each.off, each.work)),
        )
        for each in found.shares
    ]
    output.rows("", columns, shares)
    aim = f"{100 * fairness_bench.SHARE_AIM:g} % of the weights: {_verdict(found.fair)}"
    output.line(f"Jain's index {found.jain:.4f}; {aim}")
    waits = [
        (
            each.tenant,
            each.beside,
            f"{each.p50 / 1000:.0f}",
            f"{each.p99 / 1000:.0f}",
            f"{each.ratio:.2f}",
            f"{fairness_bench.LATENCY_AIM:g}: {_verdict(each.held)}" if each.aimed else "",
        )
        for each in found.waits
    ]
    output.rows("", ("tenant", "beside", "p50 us", "p99 us", "p99 to quiet", "aim"), waits)


def _verdict(held: bool) -> str:
    return "held" if held else "missed"


@bench.command()
@click.option(
    "--mdevs",
    type=click.IntRange(1, scale_bench.MAX_MDEVS - 1),
    default=1000,
    show_default=True,
    help="How many, next to ten.",
)
@click.option(
    "--idle",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    show_default=True,
    help="Seconds to watch them doing nothing.",
)
@json_option
def scale(mdevs: int, idle: float, as_json: bool) -> int:
    """Create very many mdevs on one accelerator: time, memory, and what they cost while idle."""
    output = Output(json=as_json)
    found = []
    for count in (10, mdevs):
        found.append(scale_bench.measure(count, idle))
        output.say(f"measured: {count} mdevs")
    if as_json:
        rows = [{**asdict(each), "held": each.held} for each in found]
        output.record("bench.scale", {"idle": idle, "rows": rows})
    else:
        _show_scale(output, found)
    return OK


def _show_scale(output: Output, found: list[Scale]) -> None:
    columns = ("mdevs", "created s", "last to first", "memory each", "idle cpu %", "listed s")
    rows = [
        (
            str(each.mdevs),
            f"{each.create:.2f}",
            f"{each.slowest:.2f}",
            size(round(each.memory)),
            f"{100 * each.cpu:.1f}",
            f"{each.listed:.3f}",
            f"{each.remove:.2f}",
            "" if each.held is None else f"{scale_bench.AIM_SECONDS:g} s: {_verdict(each.held)}",
        )
        for each in found
    ]
    output.rows("", (*columns, "removed s", "aim for a thousand"), rows)


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
