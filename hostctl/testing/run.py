"""One test with its accelerator: what it was given, what it left, and its story."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from guest.access import Access
from hostctl.accesses import Accesses, Unmodelled
from hostctl.control import Mdev
from hostctl.iommu import Walk
from hostctl.testing.guests import VmUnderTest
from hostctl.testing.moments import TEST, Moment
from hostctl.testing.rig import Rig
from hostctl.testing.story import Story
from hostctl.testing.views import Faults, Iommu, Tenant, Trace, listed
from hostctl.testing.wish import Wish
from hostctl.tracing import Event
from mdevemu.errors import ConfigError, MdevError

T = TypeVar("T")

DEVICE = "device"
"""The mdev of a test that has no guest."""
TENANTS = ("red", "blue", "green", "amber", "cyan", "violet", "white", "black")
_GUEST = "vm-"
_MOST_WALKS = 16
_PAGE = 4096
_IOVA_BITS = 32
_ADDRESSED = ("iommu.", "fault.injected")


@dataclass
class Run:
    """A test that has an accelerator.

    Attributes:
        test: how pytest calls it.
        rig: the accelerator.
        wish: what its markers say.
        seed: chooses where the test does not.
        failed: it has failed.
    """

    test: str
    rig: Rig
    wish: Wish
    seed: int
    failed: bool = False
    _mdevs: dict[str, Mdev] = field(default_factory=dict)
    _seen: dict[str, Accesses] = field(default_factory=dict)
    _clients: list[Access] = field(default_factory=list)
    _guests: list[VmUnderTest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rig.moments.clear()
        self.rig.moments.add(TEST, f"begins: {self.test}")
        self.begun = self.rig.moments.all[0].time
        self.trace = Trace(self.rig.control, self.begun, self.rig.idle)
        self.iommu = Iommu(self.rig.control, self.rig.control.iommu().faults)
        self.faults = Faults(self.rig.control, self.victim, self.seed, self.rig.moments)

    # What it is given.

    def victim(self) -> Mdev:
        """The mdev that is meant if the test names none.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if len(self._mdevs) != 1:
            names = ", ".join(self._mdevs) or "none yet"
            raise ConfigError("mdev", f"say which one is meant (there are: {names})")
        return next(iter(self._mdevs.values()))

    def device(self) -> Mdev:
        """An mdev of its own."""
        return self._make(DEVICE)

    def tenants(self) -> list[Tenant]:
        """As many as the marker wants, each with an mdev of its own."""
        names = TENANTS[: self.wish.tenants]
        return [Tenant(self._make(name), self.connect) for name in names]

    def _make(self, name: str) -> Mdev:
        made = self.rig.create(name, self.wish)
        self._adopt(made)
        return made

    def _adopt(self, mdev: Mdev) -> None:
        self._mdevs[mdev.name] = mdev
        self._seen[mdev.name] = self.rig.control.accesses(mdev.name)

    def connect(self, mdev: Mdev) -> Access:
        """A driver's access to an mdev, closed when the test ends.

        Each has Iovas of its own, so that those of another mean nothing to it.
        """
        made = self.rig.connect(mdev, (len(self._clients) + 1) << _IOVA_BITS)
        self._clients.append(made)
        return made

    def guests(self, count: int) -> list[VmUnderTest]:
        """Guests that are well, each with an mdev of its own.

        Raises:
            Unavailable, Wedged: there cannot be any, or not any more.
            VmError, TimedOut: one did not come up, or does not answer.
        """
        found = [self.rig.guest(_GUEST + name, self.wish) for name in TENANTS[:count]]
        for each in found:
            self._guests.append(each)
            each.begin(self.test)
            self._adopt(each.mdev)
        return found

    # What it leaves.

    def close(self) -> None:
        """Take back what it was given.

        Raises:
            MdevError: the accelerator does not answer any more, which is news.
        """
        try:
            for client in self._clients:
                client.close()
            self.faults.clear()
            for mdev in self.rig.control.mdevs():
                if not mdev.name.startswith(_GUEST):
                    self.rig.control.remove(mdev.uuid, force=True)
        except MdevError:
            # Of a test that failed it is what it failed by; the next gets another accelerator.
            if not self.failed:
                raise

    def suspicions(self) -> list[str]:
        """What a strict judge would not forgive."""
        found = [
            f"{each.mdev}: registers that are not modelled were accessed"
            for each in self._accesses()
            if each.unmodelled or each.others
        ]
        for each in self._accesses():
            found += [f"{each.mdev}: {spin.register} was waited for" for spin in each.spins]
        if refused := self.iommu.unseen():
            found.append(f"{len(refused)} IOMMU faults that the test has not looked at")
        return found

    def _accesses(self) -> list[Accesses]:
        """What drivers have done since each mdev became this test's."""
        now = (self.rig.control.accesses(name) for name in self._mdevs)
        return [since(self._seen[each.mdev], each) for each in now]

    # Its story.

    def story(self, failure: str, command: str) -> Story:
        """What happened up to now; ``failure`` is what the test said, empty if it is well."""
        troubles = list[str]()
        if failure:
            self.rig.moments.add(TEST, failure)
        events = _kept(troubles, self.trace.events)
        injected = _kept(troubles, self._injected)
        moments: list[Moment] = [*self.rig.moments.all]
        for guest in self._guests:
            moments += guest.told()
            if guest.wedged:
                troubles.append(f"{guest.name} is wedged: {guest.wedged}")
        level = self.rig.level
        return Story(
            title=f"accelerator at level {level}, seed {self.seed}; seconds since the test began",
            begun=self.begun,
            moments=moments,
            events=events,
            accesses=_kept(troubles, self._accesses),
            walks=_kept(troubles, lambda: self._walks(events)),
            injected=injected,
            troubles=list(dict.fromkeys(troubles)),
            command=command,
        )

    def _injected(self) -> list[str]:
        return [
            f"{each.mdev}: {each.kind} ({listed(each.options)}) struck {each.hits} times"
            for each in self.faults.all()
        ]

    def _walks(self, events: Sequence[Event]) -> list[Walk]:
        """How the pages that events are about are translated now; the last ones of many."""
        asked: dict[tuple[str, int, int | None, bool], None] = {}
        for event in reversed(events):
            iova, pasid = event.facts.get("iova"), event.facts.get("pasid")
            if not isinstance(iova, int) or not event.kind.startswith(_ADDRESSED):
                continue
            if event.mdev in self._mdevs and len(asked) < _MOST_WALKS:
                write = event.facts.get("access") == "write" or bool(event.facts.get("write"))
                page = iova & -_PAGE
                asked[event.mdev, page, pasid if isinstance(pasid, int) else None, write] = None
        found = []
        for mdev, iova, pasid, write in reversed(asked):
            # Its context may be gone.
            with contextlib.suppress(ConfigError):
                found.append(self.rig.control.walk(mdev, iova, pasid, write=write))
        return found


def _kept(troubles: list[str], ask: Callable[[], list[T]]) -> list[T]:
    """What somebody answers; nothing, and a trouble more, if he does not."""
    try:
        return ask()
    except MdevError as error:
        troubles.append(str(error))
        return []


def since(before: Accesses, now: Accesses) -> Accesses:
    """What drivers did between two looks."""

    def place(each: Unmodelled) -> Unmodelled:
        return dataclasses.replace(each, count=0)

    known = {place(each): each.count for each in before.unmodelled}
    more = (
        dataclasses.replace(each, count=each.count - known.get(place(each), 0))
        for each in now.unmodelled
    )
    return Accesses(
        mdev=now.mdev,
        unmodelled=tuple(each for each in more if each.count > 0),
        others=now.others - before.others,
        spins=tuple(each for each in now.spins if each not in before.spins),
    )
