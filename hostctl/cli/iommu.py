"""``hostctl iommu``: what it refused, how it translates, what it holds."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

import click
from rich.text import Text

from hostctl.cli.options import Commands, connected, emulator_options, json_option, number
from hostctl.cli.telling import tell_events
from hostctl.cli.walk import show_walk
from hostctl.control import Control
from hostctl.errors import FINDING, OK
from hostctl.iommu import Context, ContextTable, Fault, IommuCounters, PageRequest
from hostctl.output import Output
from hostctl.tracing import Selection

F = TypeVar("F", bound=Callable[..., object])

_FAULTS = ("sequence", "mdev", "device id", "pasid", "access", "iova", "cause")
_EVENTS = ("walk", "hit", "command")
_PAGES = ("sequence", "mdev", "device id", "pasid", "access", "iova", "group")


@click.group(cls=Commands)
def iommu() -> None:
    """What the IOMMU refused, how it translates, what it holds."""


def _records(command: F) -> F:
    """``--since`` and ``--mdev``: which records."""
    since = "Only records after the one with this sequence number."
    command = click.option("--mdev", metavar="NAME", help="Only those of one mdev.")(command)
    return click.option("--since", type=number, metavar="NUMBER", help=since)(command)


@iommu.command()
@_records
@click.option(
    "--follow",
    is_flag=True,
    help="Go on with what happens, page requests too, until Ctrl-C; with --json, a line for each.",
)
@emulator_options
@json_option
def faults(
    since: int | None,
    mdev: str | None,
    follow: bool,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> None:
    """List the fault records, oldest first."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        if follow:
            for each in _following(emulator, since, mdev):
                _tell(output, each)
            return
        found = emulator.faults(since, mdev)
    if output.json:
        output.record("iommu.faults", {"faults": [dataclasses.asdict(each) for each in found]})
    else:
        output.rows("", _FAULTS, [_fault_row(each) for each in found])


@iommu.command("page-requests")
@_records
@emulator_options
@json_option
def page_requests(
    since: int | None, mdev: str | None, lab: str | None, control: str | None, as_json: bool
) -> None:
    """List the pages that functions asked their guests for, oldest first."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.page_requests(since, mdev)
    if output.json:
        facts = {"page_requests": [dataclasses.asdict(each) for each in found]}
        output.record("iommu.page-requests", facts)
    else:
        output.rows("", _PAGES, [_page_row(each) for each in found])


def _following(
    emulator: Control, since: int | None, mdev: str | None
) -> Iterator[Fault | PageRequest]:
    """Faults that there are, then faults and page requests as they come, each once."""
    with emulator.following() as events:
        latest = since or 0
        for fault in emulator.faults(since, mdev):
            latest = fault.sequence
            yield fault
        for event in events:
            told = isinstance(event, Fault) and event.sequence <= latest
            if not told and mdev in (None, event.mdev):
                yield event


def _tell(output: Output, event: Fault | PageRequest) -> None:
    """One line for one event, at once."""
    if isinstance(event, Fault):
        kind, what = "fault", f"fault {event.cause} {event.cause_name}"
    else:
        kind, what = "page-request", f"page request, {_wish(event)}"
    if output.json:
        output.event("iommu.event", {"event": kind, **dataclasses.asdict(event)})
        return
    output.line(
        f"{event.mdev or '-'}  device {event.device_id:#06x}  PASID {_or_dash(event.pasid)}  "
        f"iova {event.iova:#x}  {what}"
    )


def _wish(request: PageRequest) -> str:
    """How a page is wanted."""
    return " and ".join(
        name for name, wanted in (("read", request.read), ("write", request.write)) if wanted
    )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _fault_row(fault: Fault) -> tuple[object, ...]:
    return (
        fault.sequence,
        fault.mdev or "-",
        f"{fault.device_id:#06x}",
        _or_dash(fault.pasid),
        fault.kind,
        f"{fault.iova:#x}",
        f"{fault.cause} {fault.cause_name}",
    )


def _page_row(request: PageRequest) -> tuple[object, ...]:
    return (
        request.sequence,
        request.mdev or "-",
        f"{request.device_id:#06x}",
        _or_dash(request.pasid),
        _wish(request),
        f"{request.iova:#x}",
        request.group,
    )


@iommu.command()
@click.argument("mdev", metavar="MDEV")
@click.argument("places", metavar="[PASID] IOVA", nargs=-1, required=True, type=number)
@click.option("--write", is_flag=True, help="As for a write.")
@emulator_options
@json_option
def walk(
    mdev: str,
    places: tuple[int, ...],
    write: bool,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> int:
    """Show how IOVA is translated for MDEV, table by table; exit status 1 if it is not.

    Of an mdev whose guest has PASIDs, PASID is one of those, and without it the walk is that of
    the device's own accesses.  What caches still say is shown if they say otherwise.
    """
    if len(places) > 2:
        raise click.UsageError("one PASID and one IOVA are accepted, not more")
    *pasid, iova = places
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.walk(mdev, iova, pasid[0] if pasid else None, write=write)
    if output.json:
        output.record("iommu.walk", dataclasses.asdict(found))
    else:
        show_walk(output, found)
    return OK if found.hpa is not None else FINDING


@iommu.command()
@click.option("--mdev", metavar="NAME", help="Only those of one mdev.")
@emulator_options
@json_option
def contexts(mdev: str | None, lab: str | None, control: str | None, as_json: bool) -> None:
    """List every device context and process context, as memory and caches have them."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found, complete = emulator.contexts(mdev)
    if output.json:
        facts = {"contexts": [dataclasses.asdict(each) for each in found], "complete": complete}
        output.record("iommu.contexts", facts)
        return
    output.rows(
        "",
        ("device id", "pasid", "mdev", "attach", "first", "second", "gscid", "pscid", "held"),
        [_context_row(each) for each in found],
    )
    if not complete:
        output.say("a guest's process directory is too large to be listed whole")


def _context_row(context: Context) -> tuple[object, ...]:
    held = ("memory", "memory, cache") if context.address is not None else ("", "cache only")
    return (
        f"{context.device_id:#06x}",
        _or_dash(context.pasid),
        context.mdev or "-",
        context.attach,
        _root(context.directory or context.first),
        _root(context.second),
        _or_dash(context.gscid),
        _or_dash(context.pscid),
        held[context.cached],
    )


def _root(table: ContextTable | None) -> str:
    """Format and root of a table."""
    if table is None:
        return "-"
    if not table.root:
        return table.mode
    return f"{table.mode} at {'gpa' if table.guest else 'hpa'} {table.root:#x}"


@iommu.command()
@emulator_options
@json_option
def counters(lab: str | None, control: str | None, as_json: bool) -> None:
    """Show what the IOMMU as a whole has counted, and how full its caches are."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.iommu()
    if output.json:
        output.record("iommu.counters", dataclasses.asdict(found))
        return
    output.rows("", ("counter", "value"), _counter_rows(found))
    rows = [(each.name, each.entries, each.size) for each in found.caches]
    output.console.print(Text(""))
    output.rows("", ("cache", "entries", "size"), rows)


def _counter_rows(found: IommuCounters) -> list[tuple[object, object]]:
    rows: list[tuple[object, object]] = [
        ("mode", f"{found.mode}, halted" if found.halted else found.mode),
        ("faults", found.faults),
        ("fault queue overflows", found.fault_queue_overflows),
        ("page requests", found.page_requests),
        ("page request queue overflows", found.page_request_queue_overflows),
    ]
    if found.cycles is not None:
        rows.append(("cycles", found.cycles))
    names = ((f"counter {each.number}, event {each.event}", each.value) for each in found.counters)
    return [*rows, *names]


@iommu.command()
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(_EVENTS),
    help="Which kind of events, all if not given; may be repeated.",
)
@click.option("--seconds", type=float, help="For how long; until Ctrl-C if not given.")
@emulator_options
@json_option
def trace(
    events: tuple[str, ...],
    seconds: float | None,
    lab: str | None,
    control: str | None,
    as_json: bool,
) -> None:
    """Show walks, hits and commands as they happen; with --json, a line for each.

    It slows the emulator down while it runs.  `hostctl trace follow` shows more.
    """
    kinds = ",".join(f"iommu.{each}" for each in events or _EVENTS)
    with connected(lab, control) as emulator:
        tell_events(Output(json=as_json), emulator, Selection(kind=kinds), seconds)
