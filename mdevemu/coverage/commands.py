"""Collects what drivers try of the devices of one accelerator, while that is wanted."""

from collections.abc import Mapping
from typing import Any

from mdevemu import __version__
from mdevemu.control import Argument, Command
from mdevemu.coverage.tally import Tally
from mdevemu.mdev.parent import Mdev, Parent

SCHEMA = "mdevemu.coverage/1"

Facts = dict[str, Any]


class Coverage:
    """What was tried, by personality.

    Attributes:
        on: it is collected.
    """

    def __init__(self, parent: Parent, *, on: bool) -> None:
        self._parent = parent
        self._tallies: dict[str, Tally] = {}
        self.on = on

    def commands(self) -> list[Command]:
        """Commands of the control socket."""
        return [
            Command("coverage-set", self._set, [Argument("enable", "bool")]),
            Command("query-coverage", self._query),
        ]

    def watch(self, mdev: Mdev) -> None:
        """Look at an mdev, if that is wanted now, or not any more."""
        if tally := self._tally(mdev) if self.on else self._tallies.get(mdev.type.personality):
            mdev.function.observe(tally, self.on)
        mdev.personality.witness = tally if self.on else None

    def iommu_fault(self, facts: Mapping[str, object]) -> None:
        """The IOMMU refused an access; ``facts`` as in its event IOMMU_FAULT."""
        name, cause = facts["mdev"], facts["cause-name"]
        if self.on and isinstance(name, str):
            self._tally(self._parent.find(name)).cause(str(cause))

    def _tally(self, mdev: Mdev) -> Tally:
        name = mdev.type.personality
        if name not in self._tallies:
            self._tallies[name] = Tally(type(mdev.personality))
        return self._tallies[name]

    def _set(self, enable: bool) -> Facts:
        self.on = enable
        for mdev in self._parent.mdevs.values():
            self.watch(mdev)
        return {}

    def _query(self) -> Facts:
        return {
            "schema": SCHEMA,
            "version": __version__,
            "on": self.on,
            "devices": {name: tally.facts() for name, tally in self._tallies.items()},
        }
