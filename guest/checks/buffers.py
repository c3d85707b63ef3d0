"""Check: the allocator of HBM gives zeroed buffers of what is free, and mistakes have answers."""

import random
from collections.abc import Callable

from guest import native
from guest.access import PAGE, Buffer
from guest.arguments import Arguments
from guest.bench import Bench, Run, status_name
from guest.buffers import Buffers, HbmBuffer, Refused
from guest.native import Flag, HbmStatusCode, Operation, Status
from guest.protocol import Message
from guest.queue import Command, Completion, Queue

_PIECE = 64 << 10  # bytes of one of the buffers that are freed
_PIECES = 8
_MOST = 256 << 20  # bytes of HBM that are scrubbed in a moment


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Allocate, free and allocate again, with data from ``seed``; the device is reset first.

    Facts: ``skipped``, why nothing was run, or None; whether what was freed is ``scrubbed``
    when it is allocated again; whether a buffer that is ``scattered`` over the HBM works, None
    if there is too much HBM to fill; the ``usage`` while there were buffers, and ``left``, the
    bytes that are used at the end; ``errors``, how mistakes were answered.
    """
    seed = arguments.number("seed", 1)
    arguments.finish()
    device = bench.device
    if device.hbm < 4 * _PIECES * _PIECE:
        return {"skipped": f"buffers need {4 * _PIECES * _PIECE} bytes of HBM, not {device.hbm}"}
    device.reset()
    buffers = Buffers(device)
    buffers.wait_scrubbed()
    content = random.Random(seed).randbytes(_PIECES * _PIECE)
    with bench.memory(len(content)) as memory, bench.open_queue(0) as queue:
        mover = _Mover(queue, memory)
        facts: Message = {
            "skipped": None,
            "scrubbed": _scrubbed(buffers, mover, content),
            "scattered": _scattered(buffers, mover, content) if device.hbm <= _MOST else None,
            "usage": buffers.usage._asdict(),
            "errors": _mistakes(bench, buffers, mover),
        }
    buffers.wait_scrubbed()
    return facts | {"left": buffers.usage.used}


class _Mover:
    """Moves bytes between memory of ours and HBM, by the device."""

    def __init__(self, queue: Queue, memory: Buffer) -> None:
        self._queue = queue
        self._memory = memory

    def put(self, address: int, content: bytes) -> Completion:
        """Write to HBM."""
        self._memory.view[: len(content)] = content
        return self._copy(len(content), self._memory.iova, address, Flag.DESTINATION_HBM)

    def get(self, address: int, length: int) -> tuple[Completion, bytes]:
        """Read HBM; bytes that did not come are what is no content of ours."""
        self._memory.view[:length] = b"\xff" * length
        done = self._copy(length, address, self._memory.iova, Flag.SOURCE_HBM)
        return done, bytes(self._memory.view[:length])

    def _copy(self, length: int, source: int, destination: int, flags: int) -> Completion:
        return self._queue.run(Command(Operation.COPY, length, source, destination, flags=flags))


def _scrubbed(buffers: Buffers, mover: _Mover, content: bytes) -> bool:
    """What another buffer held is not found in the one that has its place."""
    first = buffers.allocate(len(content))
    mover.put(first.address, content)
    arrived = mover.get(first.address, first.size)[1] == content
    buffers.free(first)
    buffers.wait_scrubbed()
    second = buffers.allocate(len(content))
    empty = mover.get(second.address, second.size)[1] == bytes(len(content))
    buffers.free(second)
    buffers.wait_scrubbed()
    return arrived and empty and first == second


def _scattered(buffers: Buffers, mover: _Mover, content: bytes) -> bool:
    """A buffer of all that is free, in pieces, is one by the addresses of the MMU."""
    pieces = [buffers.allocate(_PIECE) for _ in range(2 * _PIECES)]
    rest = []
    while (size := _largest(buffers)) is not None:
        rest.append(size)
    for each in pieces[::2]:
        buffers.free(each)
    buffers.wait_scrubbed()
    try:
        whole = buffers.allocate(len(content), mapped=True)
        mover.put(whole.address, content)
        parts = [mover.get(each.address, _PIECE)[1] for each in pieces[::2]]
        right = mover.get(whole.address, whole.size)[1] == content == b"".join(parts)
        buffers.free(whole)
    except Refused:
        right = False
    for each in (*pieces[1::2], *rest):
        buffers.free(each)
    return right


def _largest(buffers: Buffers) -> HbmBuffer | None:
    """Allocate the largest power of two that fits; None if not a page does."""
    size = _MOST
    while size >= PAGE:
        try:
            return buffers.allocate(size)
        except Refused:
            size //= 2
    return None


def _mistakes(bench: Bench, buffers: Buffers, mover: _Mover) -> list[Message]:
    """Each mistake with ``expected``, ``status`` and ``address``; ``ok`` if they agree."""
    buffers.wait_scrubbed()
    there = buffers.allocate(2 * PAGE, mapped=True)
    gone = buffers.allocate(PAGE, mapped=True)
    buffers.free(gone)
    plain = buffers.allocate(PAGE)
    number, nobody = buffers.join(), HbmBuffer(bench.device.hbm, PAGE)
    found = [
        _refusal("allocate nothing", HbmStatusCode.INVALID, lambda: buffers.allocate(0)),
        _refusal(
            "allocate too much",
            HbmStatusCode.NO_ROOM,
            lambda: buffers.allocate(bench.device.hbm, mapped=True),
        ),
        _refusal("free twice", HbmStatusCode.NO_BUFFER, lambda: buffers.free(gone)),
        _refusal("free what is none", HbmStatusCode.NO_BUFFER, lambda: buffers.free(nobody)),
        _refusal("export to itself", HbmStatusCode.DENIED, lambda: buffers.export(plain, number)),
        _refusal("export to nobody", HbmStatusCode.DENIED, lambda: buffers.export(plain, 0)),
        _refusal("import what is none", HbmStatusCode.DENIED, lambda: buffers.take(number)),
        _refusal("revoke what is none", HbmStatusCode.DENIED, lambda: buffers.revoke(number)),
        _refusal("release what is none", HbmStatusCode.NO_BUFFER, lambda: buffers.release(there)),
    ]
    end = there.address + there.size
    for name, address, status, first in (
        ("within a mapping", there.address, Status.SUCCESS, 0),
        ("over the end of a mapping", end - 8, Status.HBM_UNMAPPED, end),
        ("behind a mapping", end, Status.HBM_UNMAPPED, end),
        ("in what was freed", gone.address, Status.HBM_UNMAPPED, gone.address),
        ("behind the aperture", nobody.address, Status.HBM_RANGE, nobody.address),
        ("behind the MMU", native.MMU_END, Status.HBM_RANGE, native.MMU_END),
    ):
        done, _ = mover.get(address, 16)
        right = (done.status, done.address) == (status, first)
        names = status_name(status), status_name(done.status)
        found.append(_verdict(name, *names, ok=right, address=done.address))
    for each in (there, plain):
        buffers.free(each)
    return found


def _refusal(name: str, expected: HbmStatusCode, call: Callable[[], object]) -> Message:
    """What became of a call that the device must refuse."""
    status = HbmStatusCode.OK
    try:
        call()
    except Refused as refused:
        status = refused.status
    return _verdict(name, _name(expected), _name(status), ok=status == expected)


def _name(status: HbmStatusCode) -> str:
    return status.name.lower().replace("_", "-")


def _verdict(name: str, expected: str, status: str, *, ok: bool, address: int = 0) -> Message:
    return {
        "mistake": name,
        "expected": expected,
        "status": status,
        "address": address,
        "ok": ok,
    }
