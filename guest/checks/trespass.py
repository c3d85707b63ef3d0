"""Check: a device's accesses to what it was never given, or no longer has, fault and do nothing."""

import time
from collections.abc import Iterator

from guest import native
from guest.access import PAGE, Buffer
from guest.arguments import Arguments
from guest.bench import Bench, Run, status_name
from guest.errors import InvalidArgument
from guest.native import FaultCode, Operation, QueueState
from guest.protocol import Message
from guest.queue import Command, Queue, Rings

_LENGTH = 64  # bytes of each access
_MARK = 0x5A  # fills our end, so that a byte that moved is seen
_SETTLE = 5.0  # seconds for a queue to fail
OPERATIONS = ("read", "write", "ring", "completion")


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Aim at each of ``targets``, and with ``own`` at what our own buffers leave unmapped.

    A target is ``{iova, operation?}``: ``read`` and ``write`` are copies from and to it,
    ``ring`` and ``completion`` put a queue's ring there.  Without an operation: read, write.

    Facts: each attempt's ``status``, ``cause``, ``address``, whether the address is our
    ``own`` and whether bytes ``moved``; the same for ``own``; whether the device is ``alive``.
    """
    targets = [
        (target.number("iova"), operation)
        for target in arguments.objects("targets", [])
        for operation in _asked(target)
    ]
    own = arguments.flag("own", True)
    arguments.finish()
    with bench.memory(PAGE) as buffer:
        attempts = [
            attempt(bench, buffer, iova, operation)
            for iova, operation in targets
            if not run.stopped()
        ]
        mine = list(_at_our_edges(bench, buffer)) if own else []
        return {"attempts": attempts, "own": mine, "alive": _alive(bench, buffer)}


def _asked(target: Arguments) -> tuple[str, ...]:
    """The operations that a target names; what else it holds is refused."""
    target.number("iova")
    operation = target.text("operation", "")
    target.finish()
    if operation and operation not in OPERATIONS:
        accepted = ", ".join(OPERATIONS)
        raise InvalidArgument(f"operation: {operation!r} is unknown (accepted: {accepted})")
    return (operation,) if operation else ("read", "write")


def attempt(bench: Bench, buffer: Buffer, iova: int, operation: str) -> Message:
    """One access to ``iova``; ``buffer`` is our end of it."""
    facts: Message = {"iova": iova, "operation": operation, "own": _is_ours(bench, iova)}
    if operation in ("read", "write"):
        facts.update(_copy(bench, buffer, iova, operation))
    else:
        facts.update(_point_ring(bench, iova, operation))
    return facts


def _copy(bench: Bench, buffer: Buffer, iova: int, operation: str) -> Message:
    marked = bytes([_MARK]) * _LENGTH
    buffer.view[:_LENGTH] = marked
    source, destination = (iova, buffer.iova) if operation == "read" else (buffer.iova, iova)
    with bench.open_queue(0) as queue:
        completion = queue.run(
            Command(Operation.COPY, length=_LENGTH, source=source, destination=destination)
        )
    return {
        "status": status_name(completion.status),
        "cause": completion.cause,
        "address": completion.address,
        "moved": bytes(buffer.view[:_LENGTH]) != marked,
    }


def _point_ring(bench: Bench, iova: int, operation: str) -> Message:
    """Run the last queue with one of its rings at ``iova``; the fault record must tell."""
    device = bench.device
    device.clear_fault()
    interrupt = bench.access.interrupt(native.FAULT_VECTOR) if bench.access.vectors else None
    if interrupt is not None:
        interrupt.take()
    aligned = iova & ~(native.DESCRIPTOR.size - 1)
    with bench.memory(PAGE) as spare:
        descriptors, completions = (
            (aligned, spare.iova) if operation == "ring" else (spare.iova, aligned)
        )
        rings = Rings(descriptors, completions, spare.iova + PAGE // 2)
        with bench.open_queue(device.queues - 1, log2_entries=1, rings=rings) as queue:
            queue.submit(Command(Operation.NOP))
            failed = _fails(queue)
            code = queue.failure
        moved = bool(any(spare.view)) and operation == "ring"
    fault = device.fault()
    interrupts = interrupt.wait(_SETTLE) if interrupt is not None and fault is not None else 0
    device.clear_fault()
    name = FaultCode(code).name.lower().replace("_", "-") if failed and code else "no fault"
    return {
        "status": name,
        "cause": fault.cause if fault else 0,
        "address": fault.address if fault else 0,
        "fault-interrupts": interrupts,
        "moved": moved,
    }


def _fails(queue: Queue) -> bool:
    deadline = time.monotonic() + _SETTLE
    while queue.state != QueueState.FAILED:
        if time.monotonic() > deadline or queue.completed:
            return False
        time.sleep(0.001)
    return True


def _at_our_edges(bench: Bench, buffer: Buffer) -> Iterator[Message]:
    """What was ours, and what lies next to ours: only what is mapped now may be reached."""
    with bench.memory(2 * PAGE) as other:
        end = other.iova + other.size
        for operation in ("read", "write"):
            yield {"case": "before unmapping", **attempt(bench, buffer, other.iova, operation)}
        bench.access.unmap(other)
        for operation in ("read", "write"):
            facts = attempt(bench, buffer, other.iova, operation)
            yield {"case": "after unmapping", **facts, "own": False}
        bench.access.map(other)
        for operation in ("read", "write"):
            yield {"case": "mapped again", **attempt(bench, buffer, other.iova, operation)}
            yield {"case": "over the end", **attempt(bench, buffer, end - _LENGTH // 2, operation)}
            yield {"case": "behind the end", **attempt(bench, buffer, end, operation)}
    yield {"case": "address zero", **attempt(bench, buffer, 0, "read")}


def _is_ours(bench: Bench, iova: int) -> bool:
    """Some buffer of ours is mapped there, all of the access."""
    return any(
        buffer.iova <= iova and iova + _LENGTH <= buffer.iova + buffer.size
        for buffer in bench.access.buffers()
    )


def _alive(bench: Bench, buffer: Buffer) -> bool:
    """The device still copies right."""
    buffer.view[:_LENGTH] = bytes(range(_LENGTH))
    with bench.open_queue(0) as queue:
        completion = queue.run(
            Command(
                Operation.COPY,
                length=_LENGTH,
                source=buffer.iova,
                destination=buffer.iova + PAGE // 2,
            )
        )
    arrived = bytes(buffer.view[PAGE // 2 : PAGE // 2 + _LENGTH]) == bytes(range(_LENGTH))
    return completion.status == native.Status.SUCCESS and arrived
