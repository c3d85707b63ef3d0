"""``hostctl mdev set``: attributes of a slice in being."""

import click

from hostctl.cli.options import connected, emulator_options, json_option
from hostctl.output import Output
from mdevemu.errors import ConfigError


@click.command("set")
@click.argument("name", metavar="MDEV")
@click.argument("wanted", metavar="ATTRIBUTE=VALUE...", nargs=-1, required=True)
@emulator_options
@json_option
def set_(
    name: str, wanted: tuple[str, ...], lab: str | None, control: str | None, as_json: bool
) -> None:
    """Change attributes of the MDEV of that name or UUID, all of them or none: weight=3.

    'mdev list -v' shows those that can be changed.
    """
    given = tuple(_pair(each) for each in wanted)
    with connected(lab, control) as emulator:
        emulator.set_attributes(name, given)
    if as_json:
        Output(json=True).record("mdev.set", {"mdev": name, "attributes": dict(given)})


def _pair(text: str) -> tuple[str, str]:
    attribute, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("ATTRIBUTE=VALUE", f"{text!r} has no value (accepted: as in weight=3)")
    return attribute, value
