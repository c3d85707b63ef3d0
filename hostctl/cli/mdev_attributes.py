"""``hostctl mdev set``: attributes of a slice in being."""

from collections.abc import Iterable
from pathlib import Path

import click

from hostctl.cli.options import connected, emulator_options, json_option
from hostctl.control import Mdev
from hostctl.output import Output
from hostctl.users import in_the_way, user_id
from mdevemu.errors import ConfigError

USERS, NONE = "users", "none"


@click.command("set")
@click.argument("name", metavar="MDEV")
@click.argument("wanted", metavar="ATTRIBUTE=VALUE...", nargs=-1, required=True)
@emulator_options
@json_option
def set_(
    name: str, wanted: tuple[str, ...], lab: str | None, control: str | None, as_json: bool
) -> None:
    """Change attributes of the MDEV of that name or UUID, all of them or none: weight=3.

    'mdev list -v' shows those that can be changed.  Users may be given by their names.
    """
    output, given = Output(json=as_json), tuple(_pair(each) for each in wanted)
    with connected(lab, control) as emulator:
        emulator.set_attributes(name, given)
        found = emulator.mdevs()
    if output.json:
        output.record("mdev.set", {"mdev": name, "attributes": dict(given)})
    for each in found:
        if name in (each.name, each.uuid):
            warn(output, each)


def _pair(text: str) -> tuple[str, str]:
    attribute, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("ATTRIBUTE=VALUE", f"{text!r} has no value (accepted: as in weight=3)")
    if attribute == USERS and value != NONE:
        value = ids(value.split(","))
    return attribute, value


def ids(users: Iterable[str]) -> str:
    """The attribute ``users`` of these, each by name or id.

    Raises:
        ConfigError: there is no such user.
    """
    return ",".join(str(user_id(each.strip())) for each in users)


def warn(output: Output, mdev: Mdev) -> None:
    """Say which of its users cannot come to an mdev's socket, and what is in their way."""
    for user in mdev.users:
        if folder := in_the_way(Path(mdev.socket), user):
            output.say(f"warning: {folder} does not let user {user} through to {mdev.socket}")
