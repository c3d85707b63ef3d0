"""What the emulator tells of its IOMMU: records, walks, contexts, counters."""

from dataclasses import dataclass

from hostctl.tables import Table


@dataclass(frozen=True, slots=True)
class Record:
    """What the IOMMU told of one access.

    Attributes:
        sequence: counts all of its kind, from 1.
        mdev: name of the mdev that the requester belongs to; empty if there is none.
        pasid: None if the access carried none.
    """

    sequence: int
    mdev: str
    device_id: int
    pasid: int | None
    iova: int


@dataclass(frozen=True, slots=True)
class Fault(Record):
    """A record of the IOMMU's fault queue."""

    cause: int
    cause_name: str
    kind: str


@dataclass(frozen=True, slots=True)
class PageRequest(Record):
    """A page that a function asked its guest for.

    Attributes:
        group: index of the page request group; an answer names it.
    """

    read: bool
    write: bool
    group: int


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One table entry that a translation went through.

    Attributes:
        table: which table: DDT, DC, PDT, PC, first or second.
        level: of the table; 0 is the last.
        address: Hpa of the entry.
        raw: the entry; of a context its first doubleword.
        flags: its bits by name.
        leaf: the translation ends with it.
        gpa: with a second stage, the guest-physical address of the entry, or the one
            that a second-stage entry helps to translate; None without.
    """

    table: str
    level: int
    index: int
    address: int
    raw: int
    flags: tuple[str, ...]
    leaf: bool
    gpa: int | None


@dataclass(frozen=True, slots=True)
class Walk:
    """How an Iova is translated.

    Attributes:
        pasid: None asks without one.
        access: read or write.
        hpa: where tables lead; None if they fault, and then ``cause`` says why.
        size: bytes of the page.
        where: in which table it faults; empty if it does not.
        cached: where the IOTLB still leads; None if it would ask the tables.
        outdated: directory caches that hold what tables no longer say: DDT, PDT.
        stale: caches would answer otherwise than tables do.
    """

    mdev: str
    device_id: int
    pasid: int | None
    iova: int
    access: str
    steps: tuple[WalkStep, ...]
    hpa: int | None
    size: int
    cause: int | None
    cause_name: str
    where: str
    cached: int | None
    outdated: tuple[str, ...]
    stale: bool


@dataclass(frozen=True, slots=True)
class ContextTable:
    """A table that a context leads to.

    Attributes:
        mode: its format, as Sv39 or PD20; Bare is no table.
        root: address of its root.
        guest: that is a guest-physical address.
    """

    mode: str
    root: int
    guest: bool


@dataclass(frozen=True, slots=True)
class Context:
    """A device context, or with a PASID a process context.

    Attributes:
        mdev: whose it is; empty if several mdevs share it, or none has it.
        attach: how the mdevs behind it sit in the IOMMU: pasid or rid.
        address: Hpa; None if only a cache has it.
        directory: where the device's process contexts are, if it has any.
        first: first stage; None if that depends on the process.
        second: second stage; None if only a cache has the context.
        cached: the IOMMU holds a context for these ids.
    """

    device_id: int
    pasid: int | None
    mdev: str
    attach: str
    address: int | None
    raw: tuple[int, ...]
    flags: tuple[str, ...]
    directory: ContextTable | None
    first: ContextTable | None
    second: ContextTable | None
    gscid: int | None
    pscid: int | None
    cached: bool


@dataclass(frozen=True, slots=True)
class Cache:
    """How full a cache is."""

    name: str
    entries: int
    size: int


@dataclass(frozen=True, slots=True)
class EventCounter:
    """A hardware performance counter that somebody programmed.

    Attributes:
        number: 1 to 31.
        event: the specification's eventID.
    """

    number: int
    event: int
    value: int


@dataclass(frozen=True, slots=True)
class IommuCounters:
    """The IOMMU as a whole.

    Attributes:
        mode: of translation: off, bare, one-level, two-levels, three-levels.
        halted: its command queue does not answer, so the host turned it off.
        faults, page_requests: records taken out of the queues so far.
        fault_queue_overflows, page_request_queue_overflows: times that records were lost.
        cycles: the hardware's clock; None if it has no performance monitor.
        counters: performance counters in use.
    """

    mode: str
    halted: bool
    faults: int
    fault_queue_overflows: int
    page_requests: int
    page_request_queue_overflows: int
    caches: tuple[Cache, ...]
    cycles: int | None
    counters: tuple[EventCounter, ...]


def _optional(reply: Table, key: str) -> int | None:
    return None if reply.raw(key) is None else reply.whole(key, 0)


def _words(reply: Table, key: str) -> str:
    return "" if reply.raw(key) is None else reply.text(key)


def _record(reply: Table) -> tuple[int, str, int, int | None, int]:
    """What each ``Record`` begins with."""
    return (
        reply.whole("sequence", 0),
        _words(reply, "mdev"),
        reply.whole("device-id", 0),
        _optional(reply, "pasid"),
        reply.whole("iova", 0),
    )


def fault(reply: Table) -> Fault:
    """A fault record, from a reply or an event."""
    return Fault(
        *_record(reply),
        cause=reply.whole("cause", 0),
        cause_name=reply.text("cause-name"),
        kind=reply.text("ttyp-name"),
    )


def page_request(reply: Table) -> PageRequest:
    """A page request, from a reply or an event."""
    return PageRequest(
        *_record(reply),
        read=reply.truth("read"),
        write=reply.truth("write"),
        group=reply.whole("group", 0),
    )


def walk(reply: Table) -> Walk:
    """The reply to walk-iova."""
    return Walk(
        mdev=reply.text("mdev"),
        device_id=reply.whole("device-id", 0),
        pasid=_optional(reply, "pasid"),
        iova=reply.whole("iova", 0),
        access=reply.text("access"),
        steps=tuple(
            WalkStep(
                table=step.text("table"),
                level=step.whole("level", 0),
                index=step.whole("index", 0),
                address=step.whole("address", 0),
                raw=step.whole("raw", 0),
                flags=step.texts("flags"),
                leaf=step.truth("leaf"),
                gpa=_optional(step, "gpa"),
            )
            for step in reply.tables("steps")
        ),
        hpa=_optional(reply, "hpa"),
        size=_optional(reply, "size") or 0,
        cause=_optional(reply, "cause"),
        cause_name=_words(reply, "cause-name"),
        where=_words(reply, "where"),
        cached=_optional(reply, "cached"),
        outdated=reply.texts("outdated"),
        stale=reply.truth("stale"),
    )


def _table(reply: Table, key: str) -> ContextTable | None:
    if reply.raw(key) is None:
        return None
    found = reply.table(key)
    return ContextTable(found.text("mode"), found.whole("root", 0), found.truth("guest"))


def context(reply: Table) -> Context:
    """One of the contexts that query-contexts replies."""
    raw = reply.raw("raw")
    if not isinstance(raw, list) or not all(type(word) is int for word in raw):
        raise reply.refuse("raw", "must be a list of whole numbers")
    return Context(
        device_id=reply.whole("device-id", 0),
        pasid=_optional(reply, "pasid"),
        mdev=_words(reply, "mdev"),
        attach=reply.text("attach"),
        address=_optional(reply, "address"),
        raw=tuple(raw),
        flags=reply.texts("flags"),
        directory=_table(reply, "directory"),
        first=_table(reply, "first"),
        second=_table(reply, "second"),
        gscid=_optional(reply, "gscid"),
        pscid=_optional(reply, "pscid"),
        cached=reply.truth("cached"),
    )


def counters(reply: Table) -> IommuCounters:
    """The reply to query-iommu."""
    monitor = None if reply.raw("monitor") is None else reply.table("monitor")
    return IommuCounters(
        mode=reply.text("mode"),
        halted=reply.truth("halted"),
        faults=reply.whole("faults", 0),
        fault_queue_overflows=reply.whole("fault-queue-overflows", 0),
        page_requests=reply.whole("page-requests", 0),
        page_request_queue_overflows=reply.whole("page-request-queue-overflows", 0),
        caches=tuple(
            Cache(each.text("name"), each.whole("entries", 0), each.whole("size", 0))
            for each in reply.tables("caches")
        ),
        cycles=monitor.whole("cycles", 0) if monitor else None,
        counters=tuple(
            EventCounter(each.whole("number", 1), each.whole("event", 0), each.whole("value", 0))
            for each in (monitor.tables("counters") if monitor else ())
        ),
    )
