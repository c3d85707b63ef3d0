"""From the slices that there are to those that a layout wants, with the fewest taken away."""

import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mdevemu.errors import ConfigError
from mdevemu.profile.occupancy import Holding, Occupancy, Place
from mdevemu.profile.types import MdevType

MOST_TRIES = 4_000
"""Places that a search for an order looks at before it gives up."""


@dataclass(frozen=True, slots=True)
class Creation:
    """A slice to be made; ``again`` names the one that it replaces, None for a new one."""

    type: MdevType
    place: Place
    again: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Names of slices that stay and that go, and those to be made then, in this order."""

    keep: tuple[str, ...]
    remove: tuple[str, ...]
    create: tuple[Creation, ...]


def plan(now: Occupancy, wanted: Mapping[str, int], *, force: bool) -> Plan:
    """How to get so many slices of each type, by type id.

    What is wanted and there stays, if all fits so; else what has no VMM is made again
    elsewhere.  What has a VMM goes only with ``force``.

    Raises:
        ConfigError: unknown type (EINVAL), a VMM is in the way (EBUSY), or it does not fit
            (EUSERS).
    """
    wanted = {kind: count for kind, count in wanted.items() if count}
    staying, going = _split(now, wanted)
    busy = [each.name for each in going if each.attached]
    if busy and not force:
        wrong = f"{', '.join(busy)}: attached to a VMM, and not in the layout"
        raise ConfigError("layout", wrong, errno.EBUSY)
    fixed = [each for each in staying if each.attached]
    tries = [staying, fixed, []] if force else [staying, fixed]
    for keep in tries:
        again = [each for each in staying if each not in keep]
        ordered = _ordered(Occupancy(now.spec, keep), _missing(now, wanted, keep))
        if ordered is not None:
            return Plan(
                tuple(each.name for each in keep),
                tuple(each.name for each in (*going, *again)),
                _named(ordered, again),
            )
    raise ConfigError("layout", _too_much(now, wanted, fixed), errno.EUSERS)


def _split(now: Occupancy, wanted: Mapping[str, int]) -> tuple[list[Holding], list[Holding]]:
    """Slices that a layout has a use for, and others; those with a VMM are used first."""
    left = Counter(wanted)
    staying: list[Holding] = []
    going: list[Holding] = []
    for each in sorted(now.held, key=lambda each: not each.attached):
        (staying if left[each.type.id] > 0 else going).append(each)
        left[each.type.id] -= 1
    return staying, going


def _missing(now: Occupancy, wanted: Mapping[str, int], keep: list[Holding]) -> Counter[str]:
    return Counter(wanted) - Counter(each.type.id for each in keep)


def _ordered(now: Occupancy, missing: Counter[str]) -> list[tuple[MdevType, Place]] | None:
    """An order of creation in which each goes to its lowest start and all fit; the largest first.

    None if there is none, or none was found in time.
    """
    types = sorted(
        (kind for kind in now.spec.types if missing[kind.id]), key=lambda kind: -kind.hbm
    )
    tries = iter(range(MOST_TRIES))

    def orders(now: Occupancy, left: Counter[str]) -> Iterator[list[tuple[MdevType, Place]]]:
        if not left.total():
            yield []
            return
        for kind in types:
            if left[kind.id] and next(tries, None) is not None:
                place = now.place(kind)
                if place is not None:
                    held = now.with_(Holding(f"new {left.total()}", kind, place))
                    for rest in orders(held, left - Counter([kind.id])):
                        yield [(kind, place), *rest]

    return next(orders(now, missing), None)


def _named(ordered: list[tuple[MdevType, Place]], again: list[Holding]) -> tuple[Creation, ...]:
    """Slices to be made, with the names of those that they replace."""
    names: dict[str, list[str]] = {}
    for each in again:
        names.setdefault(each.type.id, []).append(each.name)
    return tuple(
        Creation(kind, place, names[kind.id].pop(0) if names.get(kind.id) else None)
        for kind, place in ordered
    )


def _too_much(now: Occupancy, wanted: Mapping[str, int], fixed: list[Holding]) -> str:
    """What it is that does not fit, one slice after the other."""
    held = Occupancy(now.spec, fixed)
    missing = _missing(now, wanted, fixed)
    for kind in sorted(now.spec.types, key=lambda kind: -kind.hbm):
        for number in range(missing[kind.id]):
            place = held.place(kind)
            if place is None:
                return f"no room for {kind.id}: {'; '.join(held.lacking(kind))}"
            held = held.with_(Holding(f"{kind.name} {number + 1}", kind, place))
    return "no order was found in which all of it fits"
