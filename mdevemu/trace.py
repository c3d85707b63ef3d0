"""What happened, in order: named events with facts, for people, tests and the control socket."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        number: counts every event of a trace, from 0.
        time: nanoseconds on the trace's clock.
        name: dotted, subject first: ``iommu.fault``, ``session.open``.
        facts: JSON-able values by name.
    """

    number: int
    time: int
    name: str
    facts: Mapping[str, object]


class Trace:
    """A bounded record of events, and whoever listens to it.

    Attributes:
        clock: returns nanoseconds; the time of every event.
        events: the last ones, oldest first.
    """

    def __init__(self, clock: Callable[[], int], depth: int = 4096) -> None:
        """``clock`` returns nanoseconds; ``depth`` is how many events are kept."""
        self.clock = clock
        self._listeners: list[Callable[[Event], None]] = []
        self._count = 0
        self.events: deque[Event] = deque(maxlen=depth)

    def emit(self, name: str, **facts: object) -> None:
        """Record an event and tell every listener."""
        event = Event(self._count, self.clock(), name, facts)
        self._count += 1
        self.events.append(event)
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every later event."""
        self._listeners.append(listener)
