"""What can be read and written of an mdev, as files in its sysfs folder would say it."""

import errno
from collections.abc import Callable
from dataclasses import dataclass

from mdevemu.definitions import Attributes
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.mdev.parent import Mdev, Parent


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute; its value is a text without a newline.

    Attributes:
        read: its value now.
        write: change it, or refuse; None if nobody can.
    """

    read: Callable[[Mdev], str]
    write: Callable[[Parent, Mdev, str], None] | None = None


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise ConfigError(name, f"{shown(value)} is not a whole number")
    return int(value)


def _set_weight(parent: Parent, mdev: Mdev, value: str) -> None:
    parent.set_weight(mdev, _whole("weight", value))


def _set_bandwidth(parent: Parent, mdev: Mdev, value: str) -> None:
    parent.set_limit(mdev, "bandwidth", _whole("bandwidth_limit", value))


def _set_commands(parent: Parent, mdev: Mdev, value: str) -> None:
    parent.set_limit(mdev, "commands", _whole("command_limit", value))


NOBODY = "none"
OVERFLOW = 65534
"""The id that stands for all users who have none here.  Spec: user_namespaces(7), overflowuid"""
_LAST_USER = 0xFFFF_FFFE
"""Spec: setreuid(2): the id above it is none."""


def _users(mdev: Mdev) -> str:
    return ",".join(map(str, sorted(mdev.users))) or NOBODY


def _set_users(parent: Parent, mdev: Mdev, value: str) -> None:
    users = frozenset(_user(each.strip()) for each in value.split(",") if value != NOBODY)
    mdev.admit(users)
    mdev.users = users


def _user(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LAST_USER):
        raise ConfigError("users", f"{shown(text)} (accepted: {NOBODY}, or ids, as in 109,64055)")
    if int(text) == OVERFLOW:
        raise ConfigError("users", f"{text} stands for everybody who has no id here")
    return int(text)


ATTRIBUTES: dict[str, Attribute] = {
    "bandwidth_limit": Attribute(lambda mdev: str(mdev.flow.limits.bandwidth.rate), _set_bandwidth),
    "busy_ns": Attribute(lambda mdev: str(mdev.flow.busy_ns)),
    "command_limit": Attribute(lambda mdev: str(mdev.flow.limits.commands.rate), _set_commands),
    "hbm_base": Attribute(lambda mdev: str(mdev.partition.offset if mdev.partition else 0)),
    "hbm_high_water": Attribute(lambda mdev: str(mdev.personality.hbm_use.high_water)),
    "hbm_imported": Attribute(lambda mdev: str(mdev.personality.hbm_use.imported)),
    "hbm_scrubbing": Attribute(lambda mdev: str(mdev.personality.hbm_use.scrubbing)),
    "hbm_size": Attribute(lambda mdev: str(mdev.type.hbm)),
    "hbm_used": Attribute(lambda mdev: str(mdev.personality.hbm_use.used)),
    "name": Attribute(lambda mdev: mdev.name),
    "pasid": Attribute(lambda mdev: "" if mdev.space.pasid is None else str(mdev.space.pasid)),
    "personality": Attribute(lambda mdev: mdev.type.personality),
    "users": Attribute(_users, _set_users),
    "weight": Attribute(lambda mdev: str(mdev.flow.weight), _set_weight),
    "work_queue": Attribute(lambda mdev: mdev.place.work_queue or ""),
}


def writable(mdev: Mdev) -> Attributes:
    """All that can be written of an mdev, as it is now."""
    return tuple((name, each.read(mdev)) for name, each in ATTRIBUTES.items() if each.write)


def write(parent: Parent, mdev: Mdev, name: str, value: str) -> None:
    """Change an attribute.

    Raises:
        ConfigError: there is none of that name (ENOENT), nobody can change it (EACCES), or
            the value cannot be (EINVAL); nothing has changed.
    """
    attribute = ATTRIBUTES.get(name)
    if attribute is None:
        raise ConfigError("attribute", unknown("attribute", name, ATTRIBUTES), errno.ENOENT)
    if attribute.write is None:
        writable = ", ".join(sorted(name for name, each in ATTRIBUTES.items() if each.write))
        raise ConfigError(name, f"can only be read (accepted: {writable})", errno.EACCES)
    attribute.write(parent, mdev, value.strip())
