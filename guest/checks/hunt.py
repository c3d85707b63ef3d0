"""Searches for a canary everywhere a tenant can look."""

from collections.abc import Iterator

from guest import native
from guest.access import PAGE, Buffer
from guest.arguments import Arguments
from guest.bench import Bench, Run, status_name
from guest.checks.plant import canary_of, words_of
from guest.native import Operation, Status
from guest.protocol import Message
from guest.queue import Command

_PIECE = 1 << 20  # bytes searched at once
_OVERLAP = 7  # bytes: a word may lie across two pieces
_REPORTED = 4  # places told, per word and area
_RESULTS = 16 * PAGE  # bytes of memory for what the device gives out
_REACH = 256  # bytes asked for at each Iova


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Search HBM, registers, config space and our own memory, and ask for others' ``iovas``.

    HBM is searched through the aperture and, with ``deep``, through the device as well.

    Facts: bytes ``searched`` by place (``dma``: addresses asked for), where it was ``found``,
    and how each Iova answered.
    """
    words = words_of(canary_of(arguments))
    iovas = arguments.numbers("iovas", [])
    deep = arguments.flag("deep", False)
    arguments.finish()
    found: list[str] = []
    with bench.memory(_RESULTS) as results:
        dma = [_ask(bench, results, iova, words) for iova in iovas if not run.stopped()]
        found += [f"dma at Iova {asked['iova']:#x}" for asked in dma if asked["found"]]
        searched: Message = {
            "hbm": _search_hbm(bench, words, found, run),
            "registers": _search_registers(bench, words, found, run),
            "memory": _search_memory(bench, results, words, found),
            "dma": len(dma),
        }
        if deep:
            searched["hbm-dma"] = _search_by_device(bench, words, found, run)
    return {"searched": searched, "found": found, "dma": dma}


def places(words: list[bytes], data: bytes, start: int) -> Iterator[int]:
    """Where words of the canary are in ``data``, whose first byte has the address ``start``."""
    for word in words:
        at = data.find(word)
        for _ in range(_REPORTED):
            if at < 0:
                break
            yield start + at
            at = data.find(word, at + 1)


def _search_view(
    words: list[bytes], view: memoryview, what: str, found: list[str], run: Run
) -> int:
    for start in range(0, len(view), _PIECE):
        if run.stopped():
            return start
        piece = bytes(view[start : start + _PIECE + _OVERLAP])
        found += [f"{what} at {at:#x}" for at in places(words, piece, start)]
    return len(view)


def _search_hbm(bench: Bench, words: list[bytes], found: list[str], run: Run) -> int:
    aperture = bench.access.aperture(native.HBM_BAR)
    if aperture is None:
        return _search_by_device(bench, words, found, run)
    return _search_view(words, aperture, "hbm", found, run)


def _search_by_device(bench: Bench, words: list[bytes], found: list[str], run: Run) -> int:
    """Have the device copy all of HBM out; gives the bytes that it copied."""
    size = bench.device.hbm
    with bench.memory(_PIECE) as buffer, bench.open_queue(0) as queue:
        for start in range(0, size, _PIECE - PAGE):
            length = min(_PIECE, size - start)
            command = Command(
                Operation.COPY,
                length,
                start,
                buffer.iova,
                flags=native.Flag.SOURCE_HBM,
            )
            if run.stopped() or queue.run(command).status != Status.SUCCESS:
                return start
            piece = bytes(buffer.view[:length])
            found += [f"hbm by device at {at:#x}" for at in places(words, piece, start)]
    return size


def _search_registers(bench: Bench, words: list[bytes], found: list[str], run: Run) -> int:
    """Every BAR that is not memory, and config space."""
    config = bench.access.config(0, PAGE)
    found += [f"config at {at:#x}" for at in places(words, config, 0)]
    count = len(config)
    for bar in range(6):
        if bar == native.HBM_BAR:
            continue
        data = b""
        for start in range(0, bench.access.size(bar), PAGE):
            if run.stopped():
                break
            data += bench.access.dump(bar, start, min(PAGE, bench.access.size(bar) - start))
        found += [f"registers BAR{bar} at {at:#x}" for at in places(words, data, 0)]
        count += len(data)
    return count


def _search_memory(bench: Bench, results: Buffer, words: list[bytes], found: list[str]) -> int:
    """Every buffer that the device has or had, and what it gives out when asked for anything."""
    _gather(bench, results)
    count = 0
    for buffer in bench.access.buffers():
        data = bytes(buffer.view)
        found += [f"memory at Iova {at:#x}" for at in places(words, data, buffer.iova)]
        count += len(data)
    return count


def _gather(bench: Bench, results: Buffer) -> None:
    """Run commands of ours whose output, or what lies behind it, might hold others' bytes."""
    with bench.open_queue(0) as queue:
        for number, code in enumerate(bench.device.operations):
            place = results.iova + (number % 8 + 8) * PAGE
            queue.run(
                Command(code, _REACH, results.iova, place, results.iova + PAGE, capacity=PAGE - 1)
            )
        # The completions themselves are searched with the queue's memory, as it is mapped now.
        results.view[: queue.memory.size] = queue.memory.view


def _ask(bench: Bench, results: Buffer, iova: int, words: list[bytes]) -> Message:
    """Copy from somebody's Iova: it must fault, unless it is ours as well."""
    results.view[:_REACH] = bytes(_REACH)
    with bench.open_queue(0) as queue:
        completion = queue.run(Command(Operation.COPY, _REACH, iova, results.iova))
    data = bytes(results.view[:_REACH])
    results.view[:_REACH] = bytes(_REACH)
    own = any(buffer.iova <= iova < buffer.iova + buffer.size for buffer in bench.access.buffers())
    return {
        "iova": iova,
        "status": status_name(completion.status),
        "cause": completion.cause,
        "address": completion.address,
        "own": own,
        "found": any(word in data for word in words),
    }
