"""``hostctl iommu vectors``: the IOMMU against recorded answers."""

import click

from hostctl import tools
from hostctl.cli.options import json_option
from hostctl.output import Output


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def vectors(files: tuple[str, ...], as_json: bool) -> int:
    """Replay recorded answers, plain or in xz; exit status 1 if one differs."""
    if not as_json:
        return tools.show("vectors", "--", *files)
    status, facts = tools.facts("vectors", "--json", "--", *files)
    Output(json=True).record("iommu.vectors", facts)
    return status
