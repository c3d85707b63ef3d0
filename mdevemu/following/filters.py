"""Which events a follower wants.

Every filter that is given must hold; one about a fact that an event does not have, does not.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.following.kinds import DETAILS, KINDS, LOST
from mdevemu.trace import within

Holds = Callable[[object], bool]
"""Whether a fact of an event is one of those that are wanted."""

_NUMBER = "(0x[0-9a-f]{1,16}|[0-9]{1,20})"
_RANGE = re.compile(f"{_NUMBER}(?:-{_NUMBER})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a follower wants.

    Attributes:
        mdevs: by name; none is all, and what belongs to none.
        kinds: names of events, or what several begin with; none is all.
        facts: by the name of a fact, what it must be.
    """

    mdevs: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()
    facts: Mapping[str, Holds] = field(default_factory=dict)

    def details(self) -> list[str]:
        """Events that must be made for this follower."""
        return [
            kind
            for kind, facts in DETAILS.items()
            if self._kind(kind) and facts.issuperset(self.facts)
        ]

    def passes(self, record: Mapping[str, Any]) -> bool:
        """It wants this record of an event."""
        kind = record["kind"]
        if kind == LOST:
            return True
        return (
            self._kind(kind)
            and (not self.mdevs or record["mdev"] in self.mdevs)
            and all(holds(record.get(name)) for name, holds in self.facts.items())
        )

    def _kind(self, kind: str) -> bool:
        return not self.kinds or any(within(kind, each) for each in self.kinds)


def kinds(text: str) -> tuple[str, ...]:
    """Kinds with commas between them.

    Raises:
        ConfigError: there is no such kind.
    """
    wanted = tuple(each.strip() for each in text.split(","))
    accepted = {each: None for kind in KINDS for each in (kind.partition(".")[0], kind)}
    for each in wanted:
        if each not in accepted:
            raise ConfigError("kind", unknown("kind", each, accepted))
    return wanted


def registers(text: str, known: Collection[str]) -> Holds:
    """Registers with commas between them: ``status``, ``queue_control`` (all of an array),
    ``queue_control[3]``, ``queue_*``.

    Raises:
        ConfigError: one of them fits none of the ``known`` names.
    """
    wanted = [each.strip() for each in text.split(",")]
    for each in wanted:
        if not any(_fits(name, each) for name in known):
            names = dict.fromkeys(sorted(name.partition("[")[0] for name in known))
            raise ConfigError("register", unknown("register", each, names))
    return lambda name: isinstance(name, str) and any(_fits(name, each) for each in wanted)


def _fits(register: str, wanted: str) -> bool:
    pattern = wanted.replace("[", "[[]")  # of an array, and not a set of characters
    return any(fnmatchcase(name, pattern) for name in (register, register.partition("[")[0]))


def numbers(what: str, text: str) -> Holds:
    """Numbers and ranges with commas between them: ``1,4-7,0x10``.

    Raises:
        ConfigError: it is something else.
    """
    ranges = []
    for each in text.split(","):
        if not (found := _RANGE.fullmatch(each.strip())):
            raise ConfigError(what, f"{shown(each)} (accepted: numbers and ranges, as 1,4-7,0x10)")
        low, high = _number(found[1]), _number(found[2] or found[1])
        ranges.append(range(low, high + 1))
        if not ranges[-1]:
            raise ConfigError(what, f"{shown(each)} ends before it begins")
    return lambda number: any(number in each for each in ranges)


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)
