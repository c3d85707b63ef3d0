"""Faults of the link to the guest: reads of all ones, and writes that get nowhere.

Spec: PCI Express Base 5.0 §2.9.1 (a link that is down resets what is below it), §6.6.2 (what
a function may do while it is being reset)
"""

from mdevemu.alarms import Alarm
from mdevemu.errors import ConfigError
from mdevemu.faults.injection import WHEN, Injection, Kind
from mdevemu.faults.seam import Seam, Told
from mdevemu.mdev.parent import Mdev
from mdevemu.pci.function import CONFIG

READ_ONES = Kind(
    name="read-ones",
    occasion="a guest's read of a region; of BAR 0 if there is an address, which is an offset",
    effect="it reads all ones",
    takes=WHEN | {"address", "length"},
)
DOWN = Kind(
    name="link-down",
    occasion="at once",
    effect="reads are all ones, writes are lost; without delay-us until it is cleared, as "
    "after a surprise removal; the function is then as after a reset",
    takes=frozenset({"delay_us"}),
)
SLOW_RESET = Kind(
    name="reset-slow",
    occasion="a reset of the function",
    effect="reads are all ones, and writes are lost, for delay-us",
    takes=WHEN | {"delay_us"},
    needs=frozenset({"delay_us"}),
)


class GuestLink(Seam):
    """Stands between a function and its guest."""

    KINDS = (READ_ONES, DOWN, SLOW_RESET)

    def __init__(self, mdev: Mdev, told: Told) -> None:
        super().__init__(mdev, told)
        self._cut: dict[Injection, Alarm | None] = {}

    def check(self, injection: Injection) -> None:
        if injection.kind is DOWN and any(each.kind is DOWN for each in self._cut):
            raise ConfigError("kind", f"the link of {self.mdev.name} is down already")
        super().check(injection)

    def arm(self, injection: Injection) -> None:
        super().arm(injection)
        if injection.kind is DOWN:
            self.strike(injection)
            self.mdev.function.reset()
            self._cut_for(injection)

    def refresh(self) -> None:
        super().refresh()
        self.join(bool(self._armed or self._cut))

    def join(self, wanted: bool) -> None:
        self.mdev.function.link = self if wanted else None

    def disarm(self, injection: Injection) -> None:
        self._restore(injection)
        super().disarm(injection)

    def passes(self, region: int, offset: int, length: int, *, write: bool) -> bool:
        """An access gets through; see ``function.Link``."""
        if self._cut:
            return False
        if write:
            return True
        meant = [
            each
            for each in self.of(READ_ONES)
            if each.order.address is None or (region == 0 and each.touches(offset, length))
        ]
        place = "config" if region == CONFIG else f"BAR {region}"
        return self.pick(meant, region=place, offset=offset, length=length) is None

    def was_reset(self) -> None:
        """The function was reset."""
        if injection := self.pick(self.of(SLOW_RESET)):
            self._cut_for(injection)

    def _restore(self, injection: Injection) -> None:
        """Let accesses through again, as far as this fault is concerned."""
        if injection in self._cut:
            if alarm := self._cut.pop(injection):
                alarm.cancel()
            self.refresh()

    def _cut_for(self, injection: Injection) -> None:
        """Let nothing through for the delay of a fault, or until it is cleared."""
        delay = injection.delay_ns
        alarm = self.mdev.flow.after(delay, lambda: self._restore(injection)) if delay else None
        if before := self._cut.get(injection):
            before.cancel()
        self._cut[injection] = alarm
        self.refresh()
