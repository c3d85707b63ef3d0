"""``hostctl find`` and ``hostctl topo``: where engines, memory and slices lie."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click

from hostctl import runtime
from hostctl.cli.options import connected, emulator_options, json_option
from hostctl.control import Control
from hostctl.errors import FINDING, OK
from hostctl.output import Output
from hostctl.topology import (
    Topology,
    answer,
    as_svg,
    as_tree,
    described,
    parse_query,
    read_topology,
)
from mdevemu.errors import ConfigError
from mdevemu.profile import locate

_profile_option = click.option(
    "--profile",
    "profiles",
    metavar="PROFILE",
    multiple=True,
    help="An accelerator that need not run: a file, or the name of a shipped one. Repeatable.",
)


def _chosen(profiles: Sequence[str], lab: str | None, control: str | None) -> list[Topology]:
    """Accelerators that the options name, or those of all labs that are up.

    Raises:
        ConfigError: a profile cannot be used, or no lab is up.
        HostError: an emulator does not answer.
    """
    found = [described(locate(name, where="--profile")) for name in profiles]
    if lab is not None or control is not None:
        with connected(lab, control) as emulator:
            found.append(read_topology(emulator))
    if found:
        return found
    for _, record in runtime.running().values():
        with contextlib.closing(Control(record.control)) as emulator:
            found.append(read_topology(emulator))
    if not found:
        raise ConfigError("--profile", "no lab is up; name a profile, or start one")
    return found


@click.command()
@click.argument("words", metavar="QUERY", nargs=-1, required=True)
@_profile_option
@emulator_options
@json_option
def find(
    words: tuple[str, ...],
    profiles: tuple[str, ...],
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> int:
    """Find engines by what they do and where they are; or say why there are none (status 1).

    QUERY is 'func=deflate', 'share(hbm): deflate, aes' or 'chain: deflate > aes', and selectors
    behind it: near=node1, numaNode=1, pcieRoot=pci0000:00, pciBusID=0000:01:00.0,
    accelerator=NAME.  It is asked of every lab that is up if no option names accelerators.
    """
    output = Output(json=as_json)
    query = parse_query(" ".join(words))
    found, refused = answer(query, _chosen(profiles, lab, control))
    if output.json:
        facts = {
            "found": [dataclasses.asdict(each) for each in found],
            "refused": [dataclasses.asdict(each) for each in refused],
        }
        output.record("find", facts)
        return OK if found else FINDING
    if found:
        output.rows(
            "",
            ("accelerator", "address", "node", "distance", "engines", "stack", "types"),
            [
                (
                    each.accelerator,
                    each.address,
                    each.node,
                    "-" if each.distance is None else each.distance,
                    " > ".join(each.engines) if each.stack is None else " ".join(each.engines),
                    each.stack or "-",
                    " ".join(each.types),
                )
                for each in found
            ],
        )
    for why in refused:
        output.say(f"not {why.accelerator}: {why.why}")
    return OK if found else FINDING


@click.command()
@click.option("--svg", metavar="FILE", type=click.Path(path_type=Path), help="Draw it to FILE.")
@_profile_option
@emulator_options
@json_option
def topo(
    svg: Path | None,
    profiles: tuple[str, ...],
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> None:
    """Draw accelerators: engines and what links them, HBM and who shares it, mdevs."""
    output = Output(json=as_json)
    found = _chosen(profiles, lab, control)
    if svg is not None:
        try:
            svg.write_text(as_svg(found), encoding="utf-8")
        except OSError as error:
            raise ConfigError(str(svg), error.strerror or str(error)) from None
    if output.json:
        shown = [
            {**dataclasses.asdict(each), "links": sorted(map(list, each.links))} for each in found
        ]
        output.record("topo", {"accelerators": shown})
        return
    for line in [] if svg else as_tree(found):
        output.line(line)
