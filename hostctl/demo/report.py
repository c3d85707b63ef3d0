"""The demo's facts and verdict, for people and as JSON."""

from dataclasses import asdict

from rich import box
from rich.table import Table
from rich.text import Text

from hostctl.demo.facts import Facts
from hostctl.demo.verdict import Judgement
from hostctl.output import Output, size

_BAR = 24


def as_json(facts: Facts, judgements: list[Judgement]) -> dict[str, object]:
    """Everything, JSON-able."""
    return {
        "held": all(judgement.held for judgement in judgements),
        **asdict(facts),
        "seconds": round(sum(step.seconds for step in facts.steps), 3),
        "verdict": [asdict(judgement) for judgement in judgements],
    }


def show(facts: Facts, judgements: list[Judgement], output: Output) -> None:
    """Everything that fits on a screen; plain lines if nobody looks."""
    _tenants(facts, output)
    _trespasses(facts, output)
    _shares(facts, output)
    _verdict(judgements, output)


def _tenants(facts: Facts, output: Output) -> None:
    output.rows(
        "Tenants",
        ("tenant", "driver", "pasid", "weight", "hbm", "operations", "right", "interrupts"),
        [
            (
                each.name,
                each.place,
                each.pasid,
                each.weight,
                f"{size(each.hbm_size)} at {each.hbm_base:#x}",
                len(each.operations),
                f"{sum(o.equal for o in each.operations.values())} of "
                f"{sum(o.runs for o in each.operations.values())}",
                each.interrupts,
            )
            for each in facts.tenants
        ],
    )


def _trespasses(facts: Facts, output: Output) -> None:
    """One line for tries that differ in nothing but the address."""
    alike: dict[tuple[str, ...], int] = {}
    for each in facts.trespasses:
        records = "; ".join(f"PASID {r.pasid} ({r.mdev}): {r.cause_name}" for r in each.records)
        line = (each.by, each.target, each.operation, each.status, records or "none")
        alike[line] = alike.get(line, 0) + 1
    output.rows(
        "Trespasses",
        ("by", "target", "access", "tries", "completion", "fault record"),
        [(*line[:3], tries, *line[3:]) for line, tries in alike.items()],
    )


def _shares(facts: Facts, output: Output) -> None:
    output.rows(
        "Sharing",
        ("tenant", "weight", "entitled", "measured", "moved", "share"),
        [
            (
                each.name,
                each.weight,
                f"{each.entitled:.0%}",
                f"{each.measured:.1%}",
                f"{each.bytes / each.seconds / (1 << 30):.2f} GiB/s",
                "#" * round(each.measured * _BAR),
            )
            for each in facts.shares
        ],
    )


def _verdict(judgements: list[Judgement], output: Output) -> None:
    if not output.console.is_terminal:
        for each in judgements:
            output.line(f"{'held' if each.held else 'FAILED':<6}  {each.claim}: {each.why}")
        return
    table = Table(
        title="Verdict",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("", "claim", "why"):
        table.add_column(column)
    for each in judgements:
        mark = Text("held", "green") if each.held else Text("FAILED", "bold red")
        table.add_row(mark, Text(each.claim), Text(each.why))
    output.console.print(table)
