"""A trace as ui.perfetto.dev draws it: a group for each tenant, in it a track for each queue,
interrupt vector, for faults, and for what else there is.

The file is an array of events, which may end anywhere: what was written until then is shown.

Spec: Trace Event Format (Google), JSON Array Format; complete, instant and metadata events
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from hostctl.tracing.events import Event

HOST = "the accelerator"
"""Whose track it is if it is no tenant's."""

_NAMES = {
    "iommu": "IOMMU",
    "register": "registers",
    "function": "function",
    "session": "VMM",
    "dma": "VMM",
    "iofd": "VMM",
    "mdev": "function",
    "trace": "lost events",
}


@dataclass
class _Tenant:
    """A group of tracks.

    Attributes:
        number: its process id in the file.
        tracks: their thread ids, by name.
        open: the event that began the command at hand, by queue.
    """

    number: int
    tracks: dict[str, int] = field(default_factory=dict)
    open: dict[int, Event] = field(default_factory=dict)


class Perfetto:
    """Writes one file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._tenants: dict[str, _Tenant] = {}
        self._numbers = itertools.count(1)
        self._last = 0
        self._written = 0

    def add(self, event: Event) -> None:
        """Draw an event."""
        self._last = event.time
        tenant = self._tenant(event.mdev or HOST)
        queue = event.facts.get("queue")
        if isinstance(queue, int) and event.kind in ("command.begin", "command.end"):
            self._close(tenant, queue, event)
            if event.kind == "command.begin":
                tenant.open[queue] = event
            return
        if event.kind == "device.fault" and isinstance(queue, int):
            self._close(tenant, queue, event)
        if event.kind in ("function.reset", "mdev.removed"):
            for number in list(tenant.open):
                self._close(tenant, number, event)
        self._instant(tenant, event)

    def close(self) -> None:
        """End the array; commands that have not ended are drawn up to the last event."""
        end = Event(0, self._last, "trace.end", None, {})
        for tenant in self._tenants.values():
            for queue in list(tenant.open):
                self._close(tenant, queue, end)
        self._file.write("\n]\n" if self._written else "[]\n")
        self._file.flush()

    def _close(self, tenant: _Tenant, queue: int, by: Event) -> None:
        """Draw the command of a queue up to the event that ended it."""
        begun = tenant.open.pop(queue, None)
        ended = by.kind == "command.end"
        if begun is None and not ended:
            return
        first = begun or by
        status = by.facts if ended else {"ended by": by.kind}
        self._write(
            {
                "ph": "X",
                "name": str(first.facts.get("operation") or "command"),
                "cat": "command",
                "ts": first.time / 1000,
                "dur": (by.time - first.time) / 1000,
                **self._place(tenant, f"queue {queue}"),
                "args": {**first.facts, **status},
            }
        )

    def _instant(self, tenant: _Tenant, event: Event) -> None:
        self._write(
            {
                "ph": "i",
                "s": "t",
                "name": _title(event),
                "cat": event.kind.partition(".")[0],
                "ts": event.time / 1000,
                **self._place(tenant, _track(event)),
                "args": {"kind": event.kind, **event.facts},
            }
        )

    def _tenant(self, name: str) -> _Tenant:
        if name not in self._tenants:
            tenant = self._tenants[name] = _Tenant(next(self._numbers))
            self._describe("process_name", name, {"pid": tenant.number})
        return self._tenants[name]

    def _place(self, tenant: _Tenant, track: str) -> dict[str, object]:
        if track not in tenant.tracks:
            # No number twice, as a thread with its process's number is another kind of thread.
            tenant.tracks[track] = next(self._numbers)
            place = {"pid": tenant.number, "tid": tenant.tracks[track]}
            self._describe("thread_name", track, place)
        return {"pid": tenant.number, "tid": tenant.tracks[track]}

    def _describe(self, what: str, name: str, place: Mapping[str, object]) -> None:
        self._write({"ph": "M", "name": what, "ts": 0, **place, "args": {"name": name}})

    def _write(self, facts: Mapping[str, object]) -> None:
        self._file.write((",\n" if self._written else "[\n") + json.dumps(facts))
        self._written += 1


def _track(event: Event) -> str:
    """The name of the track that an event without a length is on."""
    kind, facts = event.kind, event.facts
    if kind == "fault.injected":
        return "injected faults"
    if kind.endswith(".fault") or kind in ("iommu.page_request", "device.spin"):
        return "faults"
    if kind == "interrupt":
        return f"interrupt {facts.get('vector')}"
    return _NAMES.get(kind.partition(".")[0], kind)


def _title(event: Event) -> str:
    """What is written on the track."""
    facts = event.facts
    for name in ("register", "fault", "cause_name", "command", "lost", "reason"):
        if facts.get(name) is not None:
            return f"{event.kind} {facts[name]}"
    return event.kind
