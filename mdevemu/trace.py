"""What happened, in order: named events with facts, for people, tests and the control socket."""

from collections import Counter, deque
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
        self._wishes: Counter[str] = Counter()
        self._wanted: frozenset[str] = frozenset()
        self._switched: list[Callable[[], None]] = []
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

    # Events that are too many to be made unless somebody wants them.

    @property
    def wanted(self) -> frozenset[str]:
        """What was asked for: names of such events, or what several begin with."""
        return self._wanted

    def want(self, name: str, wanted: bool = True) -> None:
        """Have detailed events made from now on; or take one such wish back.

        ``name`` is an event's, ``iommu.walk``, or stands for all below it, ``iommu``.
        Several may wish for the same: it is made until all of them took that back.
        """
        if wanted:
            self._wishes[name] += 1
        elif self._wishes[name] > 1:
            self._wishes[name] -= 1
        else:
            self._wishes.pop(name, None)
        self._wanted = frozenset(self._wishes)
        for switched in self._switched:
            switched()

    def wants(self, name: str) -> bool:
        """Somebody asked for a detailed event.

        Whoever makes very many such events asks when ``on_switch`` tells, and not each time.
        """
        return bool(self._wanted) and any(within(name, each) for each in self._wanted)

    def on_switch(self, switched: Callable[[], None]) -> None:
        """Call ``switched`` each time that something else is wanted."""
        self._switched.append(switched)


def within(name: str, whole: str) -> bool:
    """An event's name is ``whole`` or below it."""
    return name == whole or name.startswith(whole + ".")
