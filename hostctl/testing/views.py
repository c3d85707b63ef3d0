"""What the fixtures `trace`, `iommu`, `faults` and `tenants` give: one test's view of a rig."""

import time
from collections.abc import Callable, Mapping

from guest.access import Access
from hostctl.control import Control, Mdev
from hostctl.errors import TimedOut
from hostctl.faults import Injection
from hostctl.iommu import Fault, IommuCounters, PageRequest, Walk
from hostctl.testing.moments import TEST, Moments
from hostctl.tracing import Event
from mdevemu.errors import ConfigError

_SECONDS = 10.0
_CHOOSING = ("hbm-corrected", "hbm-uncorrected")  # kinds that choose places by a seed


class Trace:
    """Events since the test began."""

    def __init__(self, control: Control, begun: int, idle: Callable[[], None]) -> None:
        """``begun``: when the test did, in nanoseconds; ``idle`` lets time pass."""
        self._control = control
        self._begun = begun
        self._idle = idle

    def events(self, kind: str = "", **facts: object) -> list[Event]:
        """Those of this kind, or below it, with these facts (``mdev`` is one); oldest first.

        The accelerator keeps the last 4096 of all.
        """
        found = self._control.traced(kind=kind or None)
        return [each for each in found if each.time >= self._begun and _has(each, facts)]

    def wait(self, kind: str, *, seconds: float = _SECONDS, **facts: object) -> Event:
        """The first event of this kind with these facts, once it is there.

        Raises:
            TimedOut: it does not come in time.
        """
        end = time.monotonic() + seconds
        while not (found := self.events(kind, **facts)):
            if time.monotonic() > end:
                given = "".join(f" {key}={value!r}" for key, value in facts.items())
                raise TimedOut(f"event {kind}{given}", seconds)
            self._idle()
        return found[0]


def _has(found: Event, facts: Mapping[str, object]) -> bool:
    known = found.record
    return all(key in known and known[key] == facts[key] for key in facts)


class Iommu:
    """The accelerator's IOMMU.

    Attributes:
        looked_at: sequence number of the last fault record that the test has seen.
    """

    def __init__(self, control: Control, since: int) -> None:
        """``since``: sequence number of the last fault record before the test."""
        self._control = control
        self._since = self.looked_at = since

    def faults(self, mdev: Mdev | None = None) -> list[Fault]:
        """What it refused since the test began, oldest first."""
        found = self._control.faults(self._since, mdev.name if mdev else None)
        self.looked_at = max([self.looked_at, *(each.sequence for each in found)])
        return found

    def unseen(self) -> list[Fault]:
        """Faults that the test has not looked at."""
        return self._control.faults(self.looked_at)

    def page_requests(self, mdev: Mdev | None = None) -> list[PageRequest]:
        """Pages that functions asked for, of those that are kept."""
        return self._control.page_requests(mdev=mdev.name if mdev else None)

    def walk(self, mdev: Mdev, iova: int, pasid: int | None = None, *, write: bool = False) -> Walk:
        """How an Iova is translated; moves nothing."""
        return self._control.walk(mdev.name, iova, pasid, write=write)

    def counters(self) -> IommuCounters:
        """The IOMMU as a whole."""
        return self._control.iommu()


def listed(options: Mapping[str, object]) -> str:
    """Options of a fault, in words."""
    return " ".join(f"{name}={value}" for name, value in options.items()) or "no options"


class Faults:
    """Faults on purpose (docs/fault-injection.md); all are cleared when the test ends."""

    def __init__(
        self, control: Control, mdev: Callable[[], Mdev], seed: int, moments: Moments
    ) -> None:
        """``mdev``: whom they strike, if nothing else is said; ``seed`` chooses."""
        self._control = control
        self._mdev = mdev
        self._seed = seed
        self._moments = moments

    def inject(self, kind: str, mdev: Mdev | None = None, **options: int | str | None) -> Injection:
        """Have a fault strike the mdev; options as of ``hostctl fault inject``, ``_`` for ``-``.

        Raises:
            ConfigError: the kind or an option is refused; nothing has changed.
        """
        victim = (mdev or self._mdev()).name
        if "percent" in options or (kind in _CHOOSING and "address" not in options):
            options = {"seed": self._seed, **options}
        made = self._control.inject(victim, kind, **options)
        self._moments.add(TEST, f"injects {kind} into {victim}: {listed(made.options)}")
        return made

    def hits(self, injection: Injection) -> int:
        """How often it struck."""
        return self._now(injection).hits

    def spent(self, injection: Injection) -> bool:
        """It strikes no more."""
        return self._now(injection).spent

    def clear(self, injection: Injection | None = None) -> None:
        """Clear one fault, or all of them."""
        if injection is not None:
            self._control.clear_faults(injection.mdev, injection.id)
            return
        for name in dict.fromkeys(each.mdev for each in self._control.injections()):
            self._control.clear_faults(name)

    def all(self) -> list[Injection]:
        """Those that were not cleared."""
        return self._control.injections()

    def _now(self, injection: Injection) -> Injection:
        for each in self._control.injections(injection.mdev):
            if each.id == injection.id:
                return each
        raise ConfigError("fault", f"{injection.kind} {injection.id} was cleared")


class Tenant:
    """One of several that share the accelerator.

    Attributes:
        name: its own, and its mdev's.
        mdev: what it has of the accelerator.
    """

    def __init__(self, mdev: Mdev, connect: Callable[[Mdev], Access]) -> None:
        self.name = mdev.name
        self.mdev = mdev
        self._connect = connect
        self._client: Access | None = None

    @property
    def client(self) -> Access:
        """Its driver's access to the device; connected when it is first wanted."""
        if self._client is None:
            self._client = self._connect(self.mdev)
        return self._client
