"""Leaves a canary wherever a tenant can leave bytes, for others to search for."""

from guest import native
from guest.access import PAGE
from guest.arguments import Arguments
from guest.bench import Bench, Run
from guest.errors import DeviceError, InvalidArgument
from guest.native import Operation, Status
from guest.protocol import Message
from guest.queue import Command, Queue

WORD = 8  # bytes: a canary is looked for by its words, since registers and cookies hold one each
_MEMORY = 16 * PAGE
_LIMIT = 256  # bytes of a canary


def canary_of(arguments: Arguments) -> bytes:
    """The argument ``canary``, checked."""
    canary = arguments.data("canary")
    if not canary or len(canary) % WORD or len(canary) > _LIMIT:
        raise InvalidArgument(f"canary: must be 8, 16, ... {_LIMIT} bytes, not {len(canary)}")
    if any(not any(word) for word in words_of(canary)):
        raise InvalidArgument("canary: 8 zero bytes are everywhere")
    return canary


def words_of(canary: bytes) -> list[bytes]:
    """The canary in pieces of 8 bytes."""
    return [canary[at : at + WORD] for at in range(0, len(canary), WORD)]


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Plant ``canary`` in memory, HBM, a queue's entries, and registers; all of it stays.

    ``flood`` fills all of HBM with its first word.

    Facts: bytes planted by place; the buffers, whose Iovas others may aim at.
    """
    canary = canary_of(arguments)
    flood = arguments.flag("flood", True)
    arguments.finish()
    words = words_of(canary)
    memory = bench.hold("canary", _MEMORY)
    memory.view[:] = canary * (_MEMORY // len(canary)) + canary[: _MEMORY % len(canary)]
    target = bench.hold("canary copy", _MEMORY)
    queue = bench.open_queue(bench.device.queues - 1)
    bench.keep(queue)
    _order(queue, Command(Operation.COPY, _MEMORY, memory.iova, target.iova))
    hbm, offsets = _plant_hbm(bench, queue, canary, memory.iova, flood)
    for number in range(queue.entries):
        word = int.from_bytes(words[number % len(words)], "little")
        _order(queue, Command(Operation.NOP, cookie=word))
    if Operation.AES_GCM_ENCRYPT in bench.device.operations:
        _seal_with(queue, canary, memory.view, memory.iova)
    scratch = int.from_bytes(words[0], "little")
    bench.device.write64(native.SCRATCH, scratch)
    buffers: list[Message] = [
        {"iova": one.iova, "size": one.size, "what": what} for what, one in bench.held.items()
    ]
    buffers.append({"iova": queue.memory.iova, "size": queue.memory.size, "what": "queue"})
    return {
        "canary": canary.hex(),
        "places": {
            "memory": memory.size + target.size,
            "hbm": hbm,
            "queues": 2 * queue.entries * WORD,
            "registers": WORD,
        },
        "hbm-offsets": offsets,
        "buffers": buffers,
        "iovas": [one["iova"] for one in buffers],
    }


def _order(queue: Queue, command: Command) -> None:
    completion = queue.run(command)
    if completion.status != Status.SUCCESS:
        raise DeviceError(f"cannot plant: {command} ended with {completion}")


def _plant_hbm(
    bench: Bench, queue: Queue, canary: bytes, source: int, flood: bool
) -> tuple[int, list[int]]:
    """By the device and through the aperture; gives bytes planted and where whole canaries are."""
    device = bench.device
    size, most = device.hbm, device.max_transfer
    if flood:
        word = int.from_bytes(canary[:WORD], "little")
        for at in range(0, size, most):
            length = min(most, size - at)
            flags = native.Flag.DESTINATION_HBM
            _order(
                queue, Command(Operation.FILL, length, destination=at, operand=word, flags=flags)
            )
    if size < 2 * _MEMORY:
        return (size if flood else 0), []
    offsets = [0, size // 2 & ~(PAGE - 1), size - _MEMORY]
    for at in offsets[:2]:
        flags = native.Flag.DESTINATION_HBM
        _order(queue, Command(Operation.COPY, _MEMORY, source, at, flags=flags))
    aperture = bench.access.aperture(native.HBM_BAR)
    if aperture is not None:
        last = offsets[2]
        aperture[last : last + _MEMORY] = bench.held["canary"].view
    else:
        flags = native.Flag.DESTINATION_HBM
        _order(queue, Command(Operation.COPY, _MEMORY, source, offsets[2], flags=flags))
    return (size if flood else 3 * _MEMORY), offsets


def _seal_with(queue: Queue, canary: bytes, view: memoryview, iova: int) -> None:
    """Let the cipher use the canary as its key, nonce and text, for what it may keep of them."""
    key = (canary * 4)[:32]
    at, text, out = _MEMORY - 2 * PAGE, _MEMORY - 3 * PAGE, _MEMORY - PAGE
    native.AES_GCM.pack_into(view, at, 32, WORD, (canary * 2)[:12], 0, key, iova + text)
    command = Command(
        Operation.AES_GCM_ENCRYPT,
        length=256,
        source=iova + text,
        destination=iova + out,
        operand=iova + at,
        capacity=256 + native.TAG_BYTES,
    )
    _order(queue, command)
