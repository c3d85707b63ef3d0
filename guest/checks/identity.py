"""Check: the function is what it says, in config space and in its registers."""

from guest import native
from guest.arguments import Arguments
from guest.bench import Bench, Run
from guest.checks.function import look_at_config, try_register
from guest.protocol import Message


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Facts of config space, and ``wrong``: a sentence for each thing that is not as it must be.

    ``functions-changed``: what the device does was changed since the last look; ``events``:
    interrupts of the vector that tells of it since then.
    """
    arguments.finish()
    access, wrong = bench.access, list[str]()
    events = bench.events.take()
    changed = bench.device.take_event()
    config = look_at_config(access, (native.VENDOR, native.DEVICE), native.CLASS, wrong)
    whole = (1 << 64) - 1
    try_register(access, "SCRATCH", native.REGISTERS_BAR, native.SCRATCH, whole, wrong)
    return {
        **bench.facts(),
        **config,
        "counters": bench.device.counters(),
        "functions-changed": changed,
        "events": events,
        "wrong": wrong,
    }
