"""Keeps the device busy with large copies, with little work for the processor."""

import time

from guest import native
from guest.access import Buffer
from guest.arguments import Arguments
from guest.bench import Bench, Run
from guest.errors import InvalidArgument
from guest.native import Operation, Status
from guest.protocol import Message
from guest.queue import Command, Queue

_PLACES = ("hbm", "memory")
_LATE = 60.0  # seconds that one command may take beside a busy neighbour
_REPORT = 1.0  # seconds between two reports


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Copy ``size`` bytes again and again for ``seconds``, or until stopped.

    ``depth`` commands are in flight; every fourth interrupts.  ``place`` is where the bytes
    are copied: within HBM (no memory of ours is needed) or within memory.

    Facts: commands and bytes completed, seconds from the first submission to the last
    completion, commands that failed.
    """
    largest = min(bench.device.max_transfer, bench.device.hbm // 2) or bench.device.max_transfer
    seconds = arguments.seconds("seconds", 5)
    size = arguments.number("size", largest, least=1)
    depth = arguments.number("depth", 8, least=1)
    place = arguments.text("place", "hbm")
    arguments.finish()
    if place not in _PLACES:
        raise InvalidArgument(f"place: {place!r} is unknown (accepted: {', '.join(_PLACES)})")
    if size > bench.device.max_transfer:
        raise InvalidArgument(f"size: at most {bench.device.max_transfer}, not {size}")
    if place == "hbm" and 2 * size > bench.device.hbm:
        raise InvalidArgument(f"size: at most half of HBM ({bench.device.hbm // 2}), not {size}")
    if depth > bench.device.max_entries // 2:
        raise InvalidArgument(f"depth: at most {bench.device.max_entries // 2}, not {depth}")
    log2_entries = depth.bit_length()
    with bench.open_queue(0, log2_entries=log2_entries, event_index=True) as queue:
        if place == "hbm":
            both = native.Flag.SOURCE_HBM | native.Flag.DESTINATION_HBM
            command = Command(Operation.COPY, size, 0, size, flags=both)
            return _keep_busy(queue, command, depth, seconds, run)
        with bench.memory(size) as source, bench.memory(size) as destination:
            command = _between(source, destination, size)
            return _keep_busy(queue, command, depth, seconds, run)


def _between(source: Buffer, destination: Buffer, size: int) -> Command:
    return Command(Operation.COPY, size, source.iova, destination.iova)


def _keep_busy(queue: Queue, command: Command, depth: int, seconds: float, run: Run) -> Message:
    quiet = command._replace(flags=command.flags | native.Flag.NO_INTERRUPT)
    stride = max(1, min(4, depth // 2))
    done = failed = 0
    begun = reported = time.monotonic()
    now = begun
    going = True
    while going or queue.outstanding:
        going = going and now - begun < seconds and not run.stopped()
        if going:
            while queue.outstanding < depth:
                queue.put(command if queue.submitted % stride == stride - 1 else quiet)
            queue.kick()
        elif not queue.outstanding:
            break
        # At the end the last commands may be quiet ones: look instead of waiting to be told.
        completions = queue.wait(_LATE, quiet=not going)
        done += len(completions)
        failed += sum(completion.status != Status.SUCCESS for completion in completions)
        now = time.monotonic()
        if now - reported >= _REPORT:
            reported = now
            run.tell({"bytes": done * command.length, "seconds": now - begun})
    return {
        "commands": done,
        "bytes": (done - failed) * command.length,
        "seconds": now - begun,
        "failed": failed,
        "size": command.length,
        "depth": depth,
    }
