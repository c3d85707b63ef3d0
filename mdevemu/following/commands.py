"""Who follows what: commands of the control socket."""

from collections.abc import Callable

from mdevemu.control import Argument, Command, Fed
from mdevemu.following.filters import Filter, Holds, kinds, numbers, registers
from mdevemu.following.follower import Follower
from mdevemu.following.kinds import KINDS, READ, WRITE
from mdevemu.following.records import Record, record
from mdevemu.following.registers import Registers
from mdevemu.mdev.parent import Mdev, Parent
from mdevemu.trace import Event, within


class Following:
    """Tells followers what happens; while there is none, nothing is looked at."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._followers: list[Follower] = []
        self._registers: dict[str, Registers] = {}  # by UUID, while somebody wants them
        parent.trace.listen(self._heard)

    def commands(self) -> list[Command]:
        """Commands of the control socket."""
        filters = [
            Argument(name, optional=True) for name in ("mdev", "kind", "register", "queue", "pasid")
        ]
        since, kind = Argument("since", "int", True), Argument("kind", optional=True)
        return [
            Command("trace-follow", self._follow, filters, feeds=True),
            Command("query-trace", self._query, [since, kind]),
            Command("query-trace-kinds", _query_kinds),
        ]

    def _follow(
        self,
        *,
        wake: Callable[[], None],
        mdev: str = "",
        kind: str = "",
        register: str = "",
        queue: str = "",
        pasid: str = "",
    ) -> Fed:
        """Tell this client of events from now on, by events TRACE.

        Raises:
            ConfigError: a filter is none, or names what there is not.
        """
        trace = self._parent.trace
        chosen = [self._parent.find(each.strip()) for each in mdev.split(",")] if mdev else []
        facts: dict[str, Holds] = {}
        if register:
            meant = chosen or self._parent.mdevs.values()
            names = frozenset[str]().union(*(Registers(each, trace).names for each in meant))
            facts["register"] = registers(register, names)
        if queue:
            facts["queue"] = numbers("queue", queue)
        if pasid:
            facts["pasid"] = numbers("pasid", pasid)
        mdevs = frozenset(each.name for each in chosen)
        wanted = Filter(mdevs, kinds(kind) if kind else (), facts)
        follower = Follower(wanted, wake, self._closed)
        self._followers.append(follower)
        for each in wanted.details():
            trace.want(each)
        self._join()
        return Fed({"mdevs": sorted(mdevs), "time": trace.clock()}, follower)

    def _closed(self, follower: Follower) -> None:
        self._followers.remove(follower)
        for each in follower.chosen.details():
            self._parent.trace.want(each, False)
        self._join()

    def _heard(self, event: Event) -> None:
        if not self._followers:
            return
        if event.name in ("mdev.created", "mdev.removed"):
            self._join()
        told = record(event, self._parent)
        for follower in self._followers:
            follower.offer(told)

    def _join(self) -> None:
        """Look at the registers of those mdevs that somebody wants to see them of."""
        mdevs = self._parent.mdevs
        for uuid in self._registers.keys() - mdevs.keys():
            del self._registers[uuid]
        for uuid, mdev in mdevs.items():
            wanted = any(_sees_registers(each.chosen, mdev) for each in self._followers)
            if wanted and uuid not in self._registers:
                self._registers[uuid] = Registers(mdev, self._parent.trace)
                mdev.function.observe(self._registers[uuid], True)
            elif not wanted and uuid in self._registers:
                mdev.function.observe(self._registers.pop(uuid), False)

    def _query(self, since: int = -1, kind: str = "") -> list[Record]:
        """Events after a number, of a kind or all, of those that are kept."""
        return [
            record(event, self._parent)
            for event in self._parent.trace.events
            if event.number > since and (not kind or within(event.name, kind))
        ]


def _sees_registers(chosen: Filter, mdev: Mdev) -> bool:
    details = chosen.details()
    return (READ in details or WRITE in details) and (not chosen.mdevs or mdev.name in chosen.mdevs)


def _query_kinds() -> list[Record]:
    return [{"kind": kind, "meaning": meaning} for kind, meaning in KINDS.items()]
