"""Pages that are missing when the device comes: supplied, refused, or waited for in vain."""

from collections.abc import Iterator
from contextlib import contextmanager

from guest import pasids
from guest.access import PAGE
from guest.bench import status_name
from guest.checks.stage import LATE, LENGTH, NOTHING, READ_PAGE, Stage
from guest.pasids import PageRequest, PageRequests
from guest.protocol import Message
from guest.queue import Queue
from guest.tables import READ_ONLY, READ_WRITE

_PATIENCE = 5.0  # seconds for a page request to come


def page_in(stage: Stage, queue: Queue, ring: PageRequests) -> Message:
    """Pages that are missing on either end of a copy, each supplied when it is asked for."""
    a, (source, content), (destination, result) = stage.a, stage.page(), stage.page()
    content[:] = b"C" * PAGE
    queue.submit(stage.copy(a, NOTHING + 8, LATE + 8))
    seen = []
    for iova, flags in ((source, READ_ONLY), (destination, READ_WRITE)):
        request = _requested(stage, ring)
        seen.append(stage.requests[-1])
        a.map(request.address, iova, flags)
        ring.answer(request, pasids.SUCCESS)
    done = queue.wait(_PATIENCE)[0]
    for address in (NOTHING, LATE):
        a.unmap(address)
        pasids.invalidate_page(stage.device, a.pasid, address)
    return {
        "status": status_name(done.status),
        "right": result[8 : 8 + LENGTH] == content[8 : 8 + LENGTH],
        "requests": seen,
    }


def be_refused(stage: Stage, queue: Queue, ring: PageRequests) -> Message:
    """A page that never will be there: the command faults."""
    queue.submit(stage.copy(stage.b, source=NOTHING))
    ring.answer(_requested(stage, ring), pasids.INVALID)
    done = queue.wait(_PATIENCE)[0]
    stage.record("page refused", stage.b.pasid, done, NOTHING, READ_PAGE)
    return {"status": status_name(done.status), "request": stage.requests[-1]}


def fall_silent(stage: Stage, queue: Queue, ring: PageRequests) -> Message | None:
    """A request without an answer holds up its own queue and no other."""
    if stage.device.queues < 2:
        return None
    queue.submit(stage.copy(stage.a, source=NOTHING))
    request = _requested(stage, ring)
    with stage.bench.open_queue(1) as other:
        done = [status_name(other.run(stage.copy(stage.b)).status) for _ in range(8)]
    waits = not queue.poll() and queue.outstanding == 1
    ring.answer(request, pasids.INVALID)
    ended = queue.wait(_PATIENCE)[0]
    stage.record("page refused late", stage.a.pasid, ended, NOTHING, READ_PAGE)
    return {
        "request": stage.requests[-1],
        "waits": waits,
        "others": done,
        "status": status_name(ended.status),
    }


def _requested(stage: Stage, ring: PageRequests) -> PageRequest:
    """Wait for a page request, and keep it."""
    request = ring.wait(_PATIENCE)
    stage.requests.append(
        {
            "address": request.address,
            "pasid": request.pasid,
            "group": request.group,
            "read": bool(request.flags & pasids.READ),
            "write": bool(request.flags & pasids.WRITE),
        }
    )
    return request


@contextmanager
def taking(stage: Stage) -> Iterator[PageRequests]:
    """Take page requests for the length of a block."""
    with stage.bench.memory(PAGE) as memory:
        ring = PageRequests(stage.device, memory)
        try:
            yield ring
        finally:
            ring.close()
