"""Events of the emulator's trace, as they come and as lines of a file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hostctl.tables import Table
from mdevemu.errors import ConfigError

LOST = "trace.lost"
"""Kind of the event that stands where events were lost: its fact ``lost`` says how many."""

_HEAD = ("number", "time", "kind", "mdev")
_ACCEPTED = "accepted: what hostctl trace follow --json writes"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        number: counts every event of the emulator, also those that were not chosen.
        time: nanoseconds on the host's CLOCK_MONOTONIC.
        kind: dotted: ``register.write``, ``iommu.walk``.
        mdev: name of the one that it is about; None if it is about none.
        facts: more of it, by name; docs/tracing.md has those of each kind.
    """

    number: int
    time: int
    kind: str
    mdev: str | None
    facts: Mapping[str, object]

    @property
    def record(self) -> dict[str, object]:
        """All of it, as JSON can hold it."""
        head = {"number": self.number, "time": self.time, "kind": self.kind, "mdev": self.mdev}
        return {**head, **self.facts}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events: all that every filter lets through; an empty one lets all through.

    Attributes:
        mdev, kind, register: names with commas between them.
        queue, pasid: numbers and ranges, ``1,4-7``.
    """

    mdev: str = ""
    kind: str = ""
    register: str = ""
    queue: str = ""
    pasid: str = ""


def event(reply: Table) -> Event:
    """Read one event."""
    return Event(
        number=reply.whole("number", 0),
        time=reply.whole("time", 0),
        kind=reply.text("kind"),
        mdev=None if reply.raw("mdev") is None else reply.text("mdev"),
        facts={name: value for name, value in reply.facts.items() if name not in _HEAD},
    )


def load(file: Path) -> Iterator[Event]:
    """The events of a file with a JSON object a line, in its order.

    Raises:
        ConfigError: it cannot be read, or a line is something else; those before it were given.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _line(f"{file}:{number}", line)
    except (OSError, UnicodeDecodeError) as wrong:
        reason = getattr(wrong, "strerror", None) or "is not text"
        raise ConfigError(str(file), f"{reason} ({_ACCEPTED})") from None


def _line(where: str, line: str) -> Event:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(where, f"is not JSON ({_ACCEPTED})") from None
    if isinstance(found, dict):
        found.pop("schema", None)
    return event(Table(where, found))
