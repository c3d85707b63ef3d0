"""Events of the trace on stdout, one line each, as they come."""

import contextlib
from collections.abc import Callable

from hostctl.control import Control
from hostctl.output import Output
from hostctl.tracing import Event, Selection
from hostctl.tracing.events import LOST
from hostctl.tracing.lines import Lines


def tell_events(
    output: Output,
    emulator: Control,
    chosen: Selection,
    seconds: float | None,
    also: Callable[[Event], None] = lambda event: None,
) -> None:
    """Show what happens for ``seconds``, or until Ctrl-C, and count what was lost.

    ``also`` is called with each event.
    """
    lines, told, lost = Lines(), 0, 0
    with contextlib.suppress(KeyboardInterrupt), emulator.events(chosen, seconds) as events:
        output.say("following; Ctrl-C ends it")
        for event in events:
            also(event)
            if event.kind == LOST and isinstance(many := event.facts.get("lost"), int):
                lost += many
            else:
                told += 1
            if output.json:
                output.event("trace.event", event.record)
            else:
                output.text(lines.text(event))
    output.say(f"{told} events, {lost} events lost")
