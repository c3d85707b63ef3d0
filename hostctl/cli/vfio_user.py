"""``hostctl vfio-user``: look at the device of any vfio-user server."""

import dataclasses

import click

from hostctl.cli.options import Commands, json_option
from hostctl.device import lspci as listing
from hostctl.device.config_space import decode
from hostctl.device.probe import Probed
from hostctl.device.probe import probe as ask_everything
from hostctl.device.server import config_space, opened
from hostctl.output import Output, size
from mdevemu.errors import shown

REGIONS_LISTED = 7
"""Six BARs and the ROM."""

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0.01, max=3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may take over each request.",
)


@click.group("vfio-user", cls=Commands)
def vfio_user() -> None:
    """Look at the device behind any vfio-user socket, with no VM."""


@vfio_user.command()
@click.argument("socket", metavar="SOCKET")
@timeout_option
@json_option
def lspci(socket: str, timeout: float, as_json: bool) -> None:
    """Print what lspci -vvv would of the device behind SOCKET, with its BARs' sizes."""
    output = Output(json=as_json)
    with opened(socket, timeout) as client:
        count = client.info().num_regions
        sizes = [client.region(n).size if n < count else 0 for n in range(REGIONS_LISTED)]
        space = decode(config_space(client))
    if output.json:
        output.record("vfio-user.lspci", listing.facts(space, sizes))
        return
    for line in listing.text(space, sizes):
        output.line(line)


@vfio_user.command()
@click.argument("socket", metavar="SOCKET")
@timeout_option
@json_option
def probe(socket: str, timeout: float, as_json: bool) -> None:
    """Tell what the server behind SOCKET can do; nothing is asked that changes the device."""
    output = Output(json=as_json)
    found = ask_everything(socket, timeout)
    if output.json:
        output.record("vfio-user.probe", dataclasses.asdict(found))
    else:
        _show(output, found)


def _show(output: Output, found: Probed) -> None:
    output.line(f"version {found.version}, device {' '.join(found.flags) or 'without flags'}")
    told = {name: "said" if name in found.capabilities else "default" for name in found.limits}
    others = [name for name in found.capabilities if name not in found.limits]
    output.line("")
    output.rows(
        "",
        ("capability", "value", "from"),
        [(name, value, told[name]) for name, value in found.limits.items()]
        + [(shown(name), shown(found.capabilities[name]), "said") for name in others],
    )
    output.line("")
    output.rows(
        "",
        ("region", "size", "flags", "mappable"),
        [
            (
                each["name"],
                size(int(str(each["size"]))),
                " ".join(_texts(each["flags"])) or "-",
                "all" if each["file"] and not each["areas"] else len(_texts(each["areas"])) or "-",
            )
            for each in found.regions
        ],
    )
    output.line("")
    output.rows(
        "",
        ("interrupts", "count", "flags"),
        [
            (
                each["name"],
                each.get("refused", each["count"]),
                " ".join(_texts(each["flags"])) or "-",
            )
            for each in found.irqs
        ],
    )
    output.line("")
    output.rows(
        "",
        ("command", "request", "answer"),
        [(each.command, each.request, each.outcome) for each in found.answers],
    )


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(each) for each in value]
