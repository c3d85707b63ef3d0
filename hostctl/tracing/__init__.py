"""What happens in an emulator: events as they come or as they were saved, shown or drawn.

with contextlib.closing(Control(path)) as control, control.events(Selection("red")) as events:
    for event in events: ...

for event in load(Path("trace.jsonl")): ...
"""

from hostctl.tracing.events import Event, Selection, load

__all__ = ["Event", "Selection", "load"]
