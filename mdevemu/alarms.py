"""What is to be done at a time."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(order=True, slots=True)
class Alarm:
    """Something to be done at a time, unless it is cancelled.

    Attributes:
        due: nanoseconds on the clock.
    """

    due: int
    number: int
    ring: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Do not do it."""
        self.ring = None


class Alarms:
    """Alarms of one clock; nothing rings but in ``ring_due``."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """``clock`` returns nanoseconds."""
        self._clock = clock
        self._alarms: list[Alarm] = []
        self._set = 0

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """Call ``ring`` once ``delay`` nanoseconds have passed."""
        self._set += 1
        alarm = Alarm(self._clock() + delay, self._set, ring)
        heapq.heappush(self._alarms, alarm)
        return alarm

    def ring_due(self) -> int | None:
        """Do what is due; the nanoseconds until the next alarm, None if there is none."""
        while self._alarms:
            alarm = self._alarms[0]
            left = alarm.due - self._clock()
            if alarm.ring is not None and left > 0:
                return left
            heapq.heappop(self._alarms)
            if alarm.ring is not None:
                alarm.ring()
        return None
