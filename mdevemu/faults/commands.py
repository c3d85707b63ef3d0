"""Every fault that is injected into an accelerator, and the commands for it."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdevemu.control import Argument, Command
from mdevemu.errors import ConfigError, unknown
from mdevemu.faults.completions import Completions
from mdevemu.faults.dma import Dma
from mdevemu.faults.hbm import Hbm
from mdevemu.faults.injection import OPTIONS, RANGES, Injection, Kind, Order, option
from mdevemu.faults.interrupts import Interrupts
from mdevemu.faults.link import GuestLink
from mdevemu.faults.pace import Pace
from mdevemu.faults.seam import Seam
from mdevemu.mdev.parent import Mdev, Parent

SEAMS: tuple[type[Seam], ...] = (Dma, Completions, Interrupts, GuestLink, Pace, Hbm)
KINDS: Mapping[str, tuple[Kind, type[Seam]]] = {
    kind.name: (kind, seam) for seam in SEAMS for kind in seam.KINDS
}

MAX_INJECTIONS = 256
"""Faults that an mdev can have at once, spent ones included."""

Facts = dict[str, Any]


@dataclass(eq=False)
class _Victim:
    """An mdev that has had faults."""

    seams: Mapping[type[Seam], Seam]
    injections: dict[int, Injection] = field(default_factory=dict)

    @property
    def hbm(self) -> Hbm:
        seam = self.seams[Hbm]
        assert isinstance(seam, Hbm)
        return seam


class Faults:
    """Injects faults, lists and clears them."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._victims: dict[str, _Victim] = {}  # by UUID
        self._count = 0

    def commands(self) -> list[Command]:
        """Commands of the control socket."""
        mdev = Argument("mdev")
        options = [
            Argument(option(name), "int" if name in RANGES else "str", optional=True)
            for name in OPTIONS
        ]
        return [
            Command("inject-fault", self._inject, [mdev, Argument("kind"), *options]),
            Command("clear-faults", self._clear, [mdev, Argument("id", "int", optional=True)]),
            Command("query-injected-faults", self._query, [Argument("mdev", optional=True)]),
            Command("query-fault-kinds", _query_kinds),
        ]

    def errors(self, mdev: Mdev) -> dict[str, object]:
        """What an mdev's reads of HBM have met, by the names of counters."""
        victim = self._victims.get(mdev.uuid)
        return {
            "hbm-correctable-errors": victim.hbm.correctable if victim else 0,
            "hbm-uncorrectable-errors": victim.hbm.uncorrectable if victim else 0,
        }

    def inject(self, mdev: Mdev, kind: str, order: Order) -> Injection:
        """Have a fault strike an mdev.

        Raises:
            ConfigError: no such kind, an order that makes no sense for it, or an mdev that
                cannot have it; nothing has changed.
        """
        if kind not in KINDS:
            raise ConfigError("kind", unknown("fault", kind, KINDS))
        found, seam = KINDS[kind]
        injection = Injection(self._count + 1, found, order)
        victim = self._victims.get(mdev.uuid) or self._victim(mdev)
        if len(victim.injections) >= MAX_INJECTIONS:
            wrong = f"{mdev.name} has {MAX_INJECTIONS} faults already; clear some"
            raise ConfigError("kind", wrong, errno.ENOSPC)
        victim.injections[injection.number] = injection
        try:
            victim.seams[seam].arm(injection)
        except ConfigError:
            del victim.injections[injection.number]
            raise
        self._count += 1
        self._victims[mdev.uuid] = victim
        return injection

    def forget(self, mdev: Mdev) -> None:
        """Clear every fault of an mdev that is about to go."""
        if victim := self._victims.pop(mdev.uuid, None):
            _clear(victim, list(victim.injections))

    def _victim(self, mdev: Mdev) -> _Victim:
        def told(injection: Injection, **facts: object) -> None:
            self._parent.trace.emit(
                "fault.injected",
                mdev=mdev.name,
                id=injection.number,
                fault=injection.kind.name,
                hit=injection.hits,
                **facts,
            )

        return _Victim({seam: seam(mdev, told) for seam in SEAMS})

    # Commands.

    def _inject(self, mdev: str, kind: str, **given: Any) -> Facts:  # noqa: ANN401 (of each option)
        found = self._parent.find(mdev)
        return _show(found, self.inject(found, kind, Order(**given)))

    def _clear(self, mdev: str, id: int | None = None) -> Facts:
        found = self._parent.find(mdev)
        victim = self._victims.get(found.uuid)
        numbers = list(victim.injections) if victim else []
        if id is not None:
            if id not in numbers:
                accepted = ", ".join(map(str, numbers)) or "none"
                wrong = f"{found.name} has no fault {id} (accepted: {accepted})"
                raise ConfigError("id", wrong, errno.ENOENT)
            numbers = [id]
        if victim:
            _clear(victim, numbers)
        return {"cleared": numbers}

    def _query(self, mdev: str | None = None) -> list[Facts]:
        chosen = [self._parent.find(mdev)] if mdev else list(self._parent.mdevs.values())
        return [
            _show(each, injection)
            for each in chosen
            if each.uuid in self._victims
            for injection in self._victims[each.uuid].injections.values()
        ]


def _clear(victim: _Victim, numbers: list[int]) -> None:
    for number in numbers:
        injection = victim.injections.pop(number)
        victim.seams[KINDS[injection.kind.name][1]].disarm(injection)


def _show(mdev: Mdev, injection: Injection) -> Facts:
    return {
        "id": injection.number,
        "mdev": mdev.name,
        "kind": injection.kind.name,
        "options": {option(name): value for name, value in injection.order},
        "hits": injection.hits,
        "spent": injection.spent,
    }


def _query_kinds() -> list[Facts]:
    return [
        {
            "kind": kind.name,
            "occasion": kind.occasion,
            "effect": kind.effect,
            "options": sorted(map(option, kind.takes)),
            "needs": sorted(map(option, kind.needs)),
        }
        for kind, _ in KINDS.values()
    ]
