"""Every device that can be found: ours, and those that other distributions bring.

A distribution brings one by an entry point of the group ``mdevemu.personalities``, whose
name is the personality's, and which is a subclass of ``Personality``.

Spec: Python Packaging User Guide, entry points
"""

import functools
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mdevemu.accel import Personality
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.personalities import PERSONALITIES

GROUP = "mdevemu.personalities"


@functools.cache
def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """What other distributions bring, by name; looked up once."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for each in entry_points(group=GROUP):
        found[each.name] = (*found.get(each.name, ()), each)
    return found


def names() -> list[str]:
    """Every name that ``find`` knows."""
    return sorted({*PERSONALITIES, *installed()})


def find(name: str) -> type[Personality[Any]]:
    """The personality of a name.

    Raises:
        ConfigError: there is none, there are several, or it cannot be used; the message names
            the distribution.
    """
    ours, others = PERSONALITIES.get(name), installed().get(name, ())
    if ours and not others:
        return ours
    if not others:
        raise ConfigError("personality", unknown("personality", name, names()))
    brought = " and ".join(_distribution(each) for each in others)
    if ours:
        raise ConfigError("personality", f"{name!r} is ours, and {brought} has it too")
    if len(others) > 1:
        raise ConfigError("personality", f"{name!r} is in {brought}; uninstall all but one")
    return _load(others[0])


def _load(entry: EntryPoint) -> type[Personality[Any]]:
    """Import what a distribution brings.

    Raises:
        ConfigError: it cannot be imported, or is no device.
    """
    where = f"personality {entry.name!r} of {_distribution(entry)}"
    try:
        found = entry.load()
    except Exception as error:  # whatever the code of others does while it is imported
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(where, f"{entry.value} cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, Personality)):
        raise ConfigError(where, f"{entry.value} is {shown(found)}, not a subclass of Personality")
    if inspect.isabstract(found) or not hasattr(found, "identity"):
        raise ConfigError(where, f"{entry.value} lacks an identity, or a method that it must have")
    return found


def _distribution(entry: EntryPoint) -> str:
    """The name of the distribution that an entry point is from."""
    return entry.dist.name if entry.dist else "an unknown distribution"
