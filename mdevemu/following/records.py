"""An event as followers and control clients read it."""

from typing import Any

from mdevemu.mdev.parent import Parent
from mdevemu.trace import Event

OWNERS = ("mdev", "function", "session")
"""Facts that name the mdev that an event is about."""

Record = dict[str, Any]


def record(event: Event, parent: Parent) -> Record:
    """An event with the mdev that it is about, None for none.

    ``time`` is in nanoseconds on the host's CLOCK_MONOTONIC; ``number`` counts every event.
    """
    facts: Record = dict(event.facts)
    named = [facts.pop(each) for each in OWNERS if each in facts]
    mdev = next((name for name in named if name), None)
    if mdev is None and (device_id := facts.get("device_id")) is not None:
        owner = parent.owner(device_id, facts.get("pasid"))
        mdev = owner and owner.name
    return {
        "number": event.number,
        "time": event.time,
        "kind": event.name,
        "mdev": mdev,
        **facts,
    }
