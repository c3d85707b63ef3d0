"""``hostctl bench``: how fast it is on this machine."""

import click

from hostctl import tools
from hostctl.cli.options import Commands, json_option
from hostctl.output import Output


@click.group(cls=Commands)
def bench() -> None:
    """Measure how fast something is on this machine."""


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True)
@json_option
def iommu(rounds: int, as_json: bool) -> int:
    """Compare translations with dictionary lookups; each number is the median of all rounds."""
    arguments = ("bench", "iommu", "--rounds", str(rounds))
    if not as_json:
        return tools.show(*arguments)
    status, facts = tools.facts(*arguments, "--json")
    Output(json=True).record("bench.iommu", facts)
    return status
