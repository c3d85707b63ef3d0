"""Faults of interrupts."""

from collections.abc import Callable

from mdevemu.alarms import Alarm
from mdevemu.errors import ConfigError
from mdevemu.faults.injection import MICROSECOND, WHEN, Injection, Kind
from mdevemu.faults.seam import Seam, Told
from mdevemu.mdev.parent import Mdev

APART_US = 1000
"""Microseconds between spurious interrupts, if nothing else is asked for."""

LOST = Kind(
    name="interrupt-lost",
    occasion="an interrupt that the personality raises",
    effect="nobody hears of it",
    takes=WHEN | {"vector"},
)
LATE = Kind(
    name="interrupt-late",
    occasion="an interrupt that the personality raises",
    effect="it comes delay-us later",
    takes=WHEN | {"vector", "delay_us"},
    needs=frozenset({"delay_us"}),
)
SPURIOUS = Kind(
    name="interrupt-spurious",
    occasion="at once, and count times in all, delay-us (1000) apart",
    effect="an interrupt (of vector 0) that nothing is the reason of",
    takes=frozenset({"count", "vector", "delay_us"}),
)


class Interrupts(Seam):
    """Stands between a personality and its function's vectors."""

    KINDS = (LOST, LATE, SPURIOUS)

    def __init__(self, mdev: Mdev, told: Told) -> None:
        super().__init__(mdev, told)
        self._alarms: dict[int, tuple[Injection, Alarm]] = {}

    def check(self, injection: Injection) -> None:
        vectors, vector = self.mdev.personality.vectors, injection.order.vector or 0
        if vector >= vectors:
            wrong = f"{vector} (accepted: 0 to {vectors - 1})" if vectors else "there is none"
            raise ConfigError("vector", wrong)
        super().check(injection)

    def arm(self, injection: Injection) -> None:
        super().arm(injection)
        if injection.kind is SPURIOUS:
            self._spurious(injection)

    def join(self, wanted: bool) -> None:
        function = self.mdev.function
        self.mdev.personality.interrupt = self._raised if wanted else function.interrupt

    def disarm(self, injection: Injection) -> None:
        super().disarm(injection)
        for number, (each, alarm) in list(self._alarms.items()):
            if each is injection:
                alarm.cancel()
                del self._alarms[number]

    def _raised(self, vector: int) -> None:
        """The personality raises a vector."""
        meant = [each for each in self.of(LOST, LATE) if each.order.vector in (None, vector)]
        injection = self.pick(meant, vector=vector)
        function = self.mdev.function
        if injection is None:
            function.interrupt(vector)
        elif injection.kind is LATE:
            self._after(injection, injection.delay_ns, lambda: function.interrupt(vector))

    def _spurious(self, injection: Injection) -> None:
        """One spurious interrupt, and the next one later."""
        vector = injection.order.vector or 0
        self.strike(injection, vector=vector)
        self.mdev.function.interrupt(vector)
        if not injection.spent:
            delay = injection.delay_ns or APART_US * MICROSECOND
            self._after(injection, delay, lambda: self._spurious(injection))

    def _after(self, injection: Injection, delay: int, ring: Callable[[], None]) -> None:
        """Do something ``delay`` nanoseconds later, unless the fault is cleared."""

        def due() -> None:
            del self._alarms[alarm.number]
            ring()

        alarm = self.mdev.flow.after(delay, due)
        self._alarms[alarm.number] = injection, alarm
