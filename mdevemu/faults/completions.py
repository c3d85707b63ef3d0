"""Faults of finished commands."""

from collections.abc import Callable, Generator, Mapping

from mdevemu.accel.personality import Codes
from mdevemu.accel.scheduler import Lane
from mdevemu.errors import CommandFault, ConfigError, unknown
from mdevemu.faults.injection import WHEN, Injection, Kind
from mdevemu.faults.seam import Seam, Told
from mdevemu.mdev.parent import Mdev

FOREVER = 1 << 62
"""Nanoseconds that nobody waits for."""

_COMMAND = "a command that was executed"

LOST = Kind(name="completion-lost", occasion=_COMMAND, effect="it is never completed")
LATE = Kind(
    name="completion-late",
    occasion=_COMMAND,
    effect="it is completed delay-us later; those behind it in its queue wait",
    takes=WHEN | {"delay_us"},
    needs=frozenset({"delay_us"}),
)
DOUBLED = Kind(name="completion-doubled", occasion=_COMMAND, effect="it is completed twice")
ERROR = Kind(
    name="completion-error",
    occasion=_COMMAND,
    effect="it ends with a status although it was executed",
    takes=WHEN | {"status"},
)
HUNG = Kind(
    name="command-hung",
    occasion=_COMMAND,
    effect="it does not end, nor do those behind it in its queue, before a reset or clear",
)
LATENCY = Kind(
    name="latency",
    occasion=_COMMAND,
    effect="each takes delay-us longer",
    takes=WHEN | {"delay_us"},
    needs=frozenset({"delay_us"}),
    endless=True,
)


class Completions(Seam):
    """Decides what becomes of commands."""

    KINDS = (LOST, LATE, DOUBLED, ERROR, HUNG, LATENCY)

    def __init__(self, mdev: Mdev, told: Told) -> None:
        super().__init__(mdev, told)
        self._held: list[tuple[Injection, Callable[[bytes], None]]] = []

    def check(self, injection: Injection) -> None:
        if injection.kind is ERROR:
            self._status(injection)
        super().check(injection)

    def join(self, wanted: bool) -> None:
        self.mdev.personality.meddler = self if wanted else None

    def disarm(self, injection: Injection) -> None:
        super().disarm(injection)
        for each, release in list(self._held):
            if each is injection:
                release(b"")

    def conclude(self, lane: Lane) -> Generator[int, None, int]:
        """How often to complete a command; see ``Personality.conclude``.

        Raises:
            CommandFault: it is to fail.
        """
        for kind in (HUNG, LATE, LATENCY):
            if injection := self.pick(self.of(kind)):
                yield from self._hold(lane, injection)
        if injection := self.pick(self.of(ERROR)):
            raise CommandFault(self._status(injection), f"injected fault {injection.number}")
        if self.pick(self.of(LOST)):
            return 0
        return 2 if self.pick(self.of(DOUBLED)) else 1

    def _hold(self, lane: Lane, injection: Injection) -> Generator[int, None, None]:
        """Keep a lane waiting until the fault's delay is over, or it is cleared."""
        held: list[tuple[Injection, Callable[[bytes], None]]] = []

        def hold(release: Callable[[bytes | None], None]) -> None:
            held.append((injection, release))
            self._held.extend(held)

        try:
            yield from lane.wait(hold, injection.delay_ns or FOREVER)
        finally:
            for each in held:
                self._held.remove(each)

    def _status(self, injection: Injection) -> int:
        """The code that a command is to end with.

        Raises:
            ConfigError: the personality has no such code.
        """
        given, statuses = injection.order.status, self.mdev.personality.interface.statuses
        if statuses is None:
            if given is None:
                return 0
            raise ConfigError("status", f"the {self.mdev.type.personality} has no status codes")
        accepted = failures(statuses)
        by_number = {str(code): code for code in accepted.values()}
        found = accepted.get(given or "", by_number.get(given or ""))
        if found is None:
            if given is None:
                raise ConfigError("status", f"is missing (accepted: {', '.join(accepted)})")
            raise ConfigError("status", unknown("status", given, accepted))
        return found


def failures(statuses: Codes) -> Mapping[str, int]:
    """Codes that are not success, by the names that operators write."""
    return {
        each.name.lower().replace("_", "-"): int(each) for each in statuses if each.name and each
    }
