"""What queues must do whatever they run: complete once, interrupt, stall without losing."""

import time
from collections.abc import Callable

from guest import native
from guest.bench import Bench
from guest.native import Operation, QueueState
from guest.protocol import Message
from guest.queue import Command, Queue

_SINGLES = 4  # commands that are waited for one by one
_BATCH = 12  # commands at once: more than the ring of 8 holds, so that it wraps
_LOG2_ENTRIES = 3
_LATE = 1.0  # seconds for an interrupt behind its completion
_SETTLE = 0.05  # seconds for an interrupt that should not come


def look_at_queues(bench: Bench) -> list[Message]:
    """Each queue, by doorbells and by event index: commands, completions, interrupts."""
    return [
        _look(bench, number, event_index)
        for number in range(bench.device.queues)
        for event_index in ((False, True) if bench.device.event_index else (False,))
    ]


def _look(bench: Bench, number: int, event_index: bool) -> Message:
    with bench.open_queue(number, log2_entries=_LOG2_ENTRIES, event_index=event_index) as queue:
        cookies: list[int] = []
        for cookie in range(_SINGLES):
            cookies.append(queue.run(Command(Operation.NOP, cookie=cookie)).cookie)
            settle(queue, cookie + 1)
        single = queue.interrupts
        cookies += _batch(queue)
        while queue.interrupt and queue.interrupt.wait(_SETTLE):
            pass  # the batch's last may be late
        total = queue.interrupts
        quiet = Command(Operation.NOP, flags=native.Flag.NO_INTERRUPT, cookie=_SINGLES + _BATCH)
        cookies.append(queue.run(quiet).cookie)
        unwanted = queue.interrupt.wait(_SETTLE) if queue.interrupt else 0
        commands = _SINGLES + _BATCH + 1
        return {
            "queue": number,
            "event-index": event_index,
            "vector": None if queue.interrupt is None else native.FAULT_VECTOR + 1 + number,
            "commands": commands,
            "completed-once": sorted(cookies) == list(range(commands)),
            "doorbells": queue.doorbells,
            "interrupts": total,
            "interrupts-of-singles": single,
            "singles": _SINGLES,
            "unwanted-interrupts": unwanted,
        }


def settle(queue: Queue, count: int) -> None:
    """A completion may be seen before its interrupt arrives: wait for the ``count``-th."""
    deadline = time.monotonic() + _LATE
    while queue.interrupt and queue.interrupts < count and time.monotonic() < deadline:
        queue.interrupt.wait(_LATE)


def _batch(queue: Queue) -> list[int]:
    """Cookies completed for a batch that keeps the ring as full as it goes."""
    cookies: list[int] = []
    sent = 0
    while len(cookies) < _BATCH:
        while sent < _BATCH and queue.outstanding < queue.entries:
            queue.put(Command(Operation.NOP, cookie=_SINGLES + sent))
            sent += 1
        queue.kick()
        cookies += [completion.cookie for completion in queue.wait(30)]
    return cookies


def stall(bench: Bench) -> Message:
    """Fill a completion ring, ask for more, consume: the queue stalls and loses nothing."""
    with bench.open_queue(0, log2_entries=_LOG2_ENTRIES) as queue:
        for cookie in range(queue.entries):
            queue.put(Command(Operation.NOP, cookie=cookie))
        queue.kick()
        full = _until(lambda: queue.completed == queue.entries)
        for cookie in range(queue.entries, queue.entries + 3):
            queue.put(Command(Operation.NOP, cookie=cookie), fetched=True)
        queue.kick()
        stalled = _until(lambda: queue.state == QueueState.STALLED)
        cookies: list[int] = []
        while len(cookies) < queue.entries + 3:
            cookies += [completion.cookie for completion in queue.wait(30, quiet=True)]
        return {
            "filled": full,
            "stalled": stalled,
            "completed-once": cookies == list(range(queue.entries + 3)),
            "running-again": _until(lambda: queue.state == QueueState.RUNNING),
        }


def _until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether ``holds`` came true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
