"""Check: processes of this guest, each with tables of its own, as the device sees them by PASID."""

from guest import pasids
from guest.access import PAGE
from guest.arguments import Arguments
from guest.bench import Bench, Run, status_name
from guest.checks import paging
from guest.checks.stage import (
    DESTINATION,
    LENGTH,
    NOTHING,
    PDT_NOT_VALID,
    READ_GUEST_PAGE,
    READ_PAGE,
    RINGS,
    SOURCE,
    WRITE_PAGE,
    Stage,
)
from guest.errors import InvalidArgument
from guest.native import PasidMode, Status
from guest.protocol import Message
from guest.queue import Queue, User, of_process
from guest.tables import PASID_BITS, READ_ONLY, Frames

_TABLES = 64 * PAGE
_MODES = {mode.name.lower(): mode for mode in PASID_BITS}


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Give two PASIDs, A and B, tables with the same virtual addresses and different pages.

    ``mode`` is the directory's (default: as deep as the PASIDs need).  With ``leave``, the
    last thing that happens is an unmapping without invalidation, and it stays for the host
    to look at.

    Facts: ``copies``; ``faults``, in order, each as the host's records must have it;
    ``stale``; ``page-requests``, in order; what became of each of them under ``on-demand``,
    ``refused`` and ``silent``; ``user-queue``; ``left``.  Without PASIDs: ``bits`` is 0 and
    ``skipped`` says so.
    """
    asked, leave = arguments.text("mode", ""), arguments.flag("leave", False)
    arguments.finish()
    if asked and asked not in _MODES:
        raise InvalidArgument(f"mode: {asked!r} is unknown (accepted: {', '.join(_MODES)})")
    bits = bench.device.pasid_bits
    if not bits:
        why = "the device has no PASIDs for its guest: its type does not attach by 'rid'"
        return {"bits": 0, "skipped": why}
    mode = _MODES[asked] if asked else next(m for m in _MODES.values() if bits <= PASID_BITS[m])
    pages = bench.hold("pages of processes", 16 * PAGE)
    frames = Frames(bench.hold("tables of processes", _TABLES))
    try:
        stage = Stage(bench, frames, pages, mode)
        facts = play(stage)
        facts["left"] = leave_stale(stage) if leave else None
        return facts
    finally:
        frames.close()
        if not leave:
            pasids.forget_directory(bench.device)


def play(stage: Stage) -> Message:
    """Everything, in an order in which each leaves the tables as the next one needs them."""
    facts: Message = {
        "bits": stage.device.pasid_bits,
        "mode": stage.directory.mode.name.lower(),
        "directory": stage.directory.base,
        "pasids": {"a": stage.a.pasid, "b": stage.b.pasid},
        "addresses": {"source": SOURCE, "destination": DESTINATION},
    }
    with stage.bench.open_queue(0) as queue:
        facts["copies"] = copies(stage, queue)
        go_astray(stage, queue)
        facts["too-wide"] = go_too_far(stage, queue)
        facts["stale"] = be_stale(stage, queue)
        if stage.device.page_requests:
            with paging.taking(stage) as ring:
                facts["on-demand"] = paging.page_in(stage, queue, ring)
                facts["refused"] = paging.be_refused(stage, queue, ring)
                facts["silent"] = paging.fall_silent(stage, queue, ring)
                facts["interrupts"] = ring.interrupts
    facts["user-queue"] = user_queue(stage)
    return facts | {"faults": stage.faults, "page-requests": stage.requests}


def copies(stage: Stage, queue: Queue) -> list[Message]:
    """The same copy in each process: it must find that process's pages."""
    found = []
    for process, (source, result), (_, other) in (
        (stage.a, stage.of_a, stage.of_b),
        (stage.b, stage.of_b, stage.of_a),
    ):
        result[:LENGTH] = other[:LENGTH] = bytes(LENGTH)
        done = queue.run(stage.copy(process))
        found.append(
            {
                "pasid": process.pasid,
                "status": status_name(done.status),
                "right": result[:LENGTH] == source[:LENGTH],
                "other-changed": any(other[:LENGTH]),
            }
        )
    return found


def go_astray(stage: Stage, queue: Queue) -> None:
    """Every way to miss a page, each with its own cause."""
    inside = NOTHING + 0x123
    a, outside = stage.a, stage.pages.iova + stage.pages.size
    stage.fault(queue, "read of nothing", stage.copy(a, source=inside), inside, READ_PAGE)
    stage.fault(queue, "write to nothing", stage.copy(a, SOURCE, inside), inside, WRITE_PAGE)
    to_source = stage.copy(a, SOURCE, SOURCE)
    stage.fault(queue, "write to a page for reading", to_source, SOURCE, WRITE_PAGE)
    a.map(NOTHING, outside)
    pasids.invalidate_page(stage.device, a.pasid, NOTHING)
    leads_out = stage.copy(a, source=NOTHING)
    stage.fault(queue, "page outside of the guest", leads_out, NOTHING, READ_GUEST_PAGE)
    a.unmap(NOTHING)
    pasids.invalidate_page(stage.device, a.pasid, NOTHING)
    if stage.bits > 1:
        nobody = stage.copy(a)._replace(pasid=of_process(0))
        stage.fault(queue, "PASID without a process", nobody, SOURCE, PDT_NOT_VALID)


def go_too_far(stage: Stage, queue: Queue) -> Message | None:
    """A PASID that is one bit too wide; None if every PASID is ours."""
    if stage.device.pasid_bits == PASID_BITS[PasidMode.PD20]:
        return None
    pasid = 1 << stage.device.pasid_bits
    done = queue.run(stage.copy(stage.a)._replace(pasid=of_process(pasid)))
    return {"pasid": pasid, "status": status_name(done.status)}


def be_stale(stage: Stage, queue: Queue) -> Message:
    """Unmap a page without a word: what the device knows serves on, until it is told."""
    a, (source, result) = stage.a, stage.of_a
    iova = stage.pages.iova
    before = queue.run(stage.copy(a)).status
    a.unmap(SOURCE)
    source[:LENGTH] = b"a" * LENGTH
    after = queue.run(stage.copy(a)).status
    arrived = result[:LENGTH] == source[:LENGTH]
    pasids.invalidate_page(stage.device, a.pasid, SOURCE)
    stage.fault(queue, "unmapped and invalidated", stage.copy(a), SOURCE, READ_PAGE)
    a.map(SOURCE, iova, READ_ONLY)
    pasids.invalidate_page(stage.device, a.pasid, SOURCE)
    again = queue.run(stage.copy(a)).status
    return {
        "pasid": a.pasid,
        "address": SOURCE,
        "before": status_name(before),
        "unmapped": status_name(after),
        "stale": after == Status.SUCCESS and arrived,
        "mapped-again": status_name(again),
    }


def user_queue(stage: Stage) -> Message:
    """A queue that B drives by itself: rings and operands are B's, and no other's."""
    b, (source, result) = stage.b, stage.of_b
    result[:LENGTH] = bytes(LENGTH)
    with stage.bench.open_queue(stage.device.queues - 1, user=User(b.pasid, RINGS)) as queue:
        memory = queue.memory
        for at in range(0, memory.size, PAGE):
            b.map(RINGS + at, memory.iova + at)
        untagged = stage.copy(b)._replace(pasid=0)
        done = queue.run(untagged)
        right = result[:LENGTH] == source[:LENGTH]
        named = [queue.run(stage.copy(each)).status for each in (stage.a, stage.b)]
        into_nothing = untagged._replace(source=NOTHING)
        astray = stage.fault(queue, "user queue", into_nothing, NOTHING, READ_PAGE, b)
    for at in range(0, memory.size, PAGE):
        b.unmap(RINGS + at)
    pasids.invalidate_space(stage.device, b.pasid)
    return {
        "pasid": b.pasid,
        "status": status_name(done.status),
        "right": right,
        "names-another": status_name(named[0]),
        "names-its-own": status_name(named[1]),
        "unmapped": status_name(astray.status),
    }


def leave_stale(stage: Stage) -> Message:
    """Use a page, then unmap it without a word, and go.

    The queue stays: to give its memory back would make the host invalidate everything.
    """
    queue = stage.bench.open_queue(0)
    stage.bench.keep(queue)
    used = queue.run(stage.copy(stage.a)).status
    stage.a.unmap(SOURCE)
    return {"pasid": stage.a.pasid, "address": SOURCE, "used": status_name(used)}
