"""What a test's failure looked like from everywhere, by time: test, device, guest's kernel."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hostctl.accesses import Accesses, Spin, Unmodelled
from hostctl.iommu import Walk
from hostctl.testing.moments import Moment
from hostctl.tracing import Event
from hostctl.tracing.lines import described

_FIRST, _LAST = 12, 60
"""Moments that a story in pytest's report begins and ends with."""
_MOST_OTHERS = 16
"""Registers, addresses and faults of each kind that it names."""
_LONGEST = 160
"""Characters of a line."""
_REPEATS = ("register.read", "register.write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything that is known about one test.

    Attributes:
        title: which accelerator it was, in words.
        begun: nanoseconds; when the test began.
        moments: of the test and the guests.
        events: of the accelerator's trace.
        accesses: what drivers did with registers, for each mdev.
        walks: how addresses that were accessed are translated now.
        injected: faults that were injected, in words.
        troubles: what the author should know besides, in words.
        command: that runs the test again.
    """

    title: str
    begun: int
    moments: Sequence[Moment]
    events: Sequence[Event]
    accesses: Sequence[Accesses]
    walks: Sequence[Walk]
    injected: Sequence[str]
    troubles: Sequence[str]
    command: str


def lines(story: Story, *, whole: bool = False) -> Iterator[str]:
    """The story; everything if ``whole``, else what a report has room for."""
    yield story.title
    told = [_line(story.begun, moment) for moment in _merged(story)]
    left_out = len(told) - _FIRST - _LAST
    if whole or left_out <= 0:
        yield from told if whole else map(_cut, told)
    else:
        yield from map(_cut, told[:_FIRST])
        yield f"  ... {left_out} lines left out; --accel-keep has all"
        yield from map(_cut, told[-_LAST:])
    most = None if whole else _MOST_OTHERS
    for title, found in _chapters(story).items():
        if found:
            yield f"{title}:"
            yield from (f"  {each if whole else _cut(each)}" for each in found[:most])
            if most and len(found) > most:
                yield f"  and {len(found) - most} more"
    yield f"reproduce: {story.command}"


def _chapters(story: Story) -> Mapping[str, Sequence[str]]:
    return {
        "registers that are not modelled": [
            line for each in story.accesses for line in _unmodelled(each)
        ],
        "waited for, and nothing changed": [
            f"{each.mdev}: {_spin(spin)}" for each in story.accesses for spin in each.spins
        ],
        "addresses": [_walk(walk) for walk in story.walks],
        "injected faults": story.injected,
        "besides": story.troubles,
    }


def _merged(story: Story) -> list[Moment]:
    """All moments by time; the same one many times in a row is one."""
    told = [*_events(story.events), *story.moments]
    return sorted(told, key=lambda moment: moment.time)


def _events(events: Sequence[Event]) -> Iterator[Moment]:
    """Events as moments; accesses that repeat the one before are counted with it."""
    before, count = None, 0
    for event in events:
        if before is not None and _same(before, event):
            count += 1
            continue
        if before is not None:
            yield _moment(before, count)
        before, count = event, 1
    if before is not None:
        yield _moment(before, count)


def _same(one: Event, other: Event) -> bool:
    alike = (one.kind, one.mdev, one.facts) == (other.kind, other.mdev, other.facts)
    return alike and one.kind in _REPEATS


def _moment(event: Event, count: int) -> Moment:
    times = f"  ({count} times)" if count > 1 else ""
    return Moment(event.time, event.mdev or "-", f"{event.kind:<17} {described(event)}{times}")


def _line(begun: int, moment: Moment) -> str:
    return f"{(moment.time - begun) / 1e9:>+11.6f} {moment.who:<11} {moment.text}"


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."


def _unmodelled(found: Accesses) -> Iterator[str]:
    for place in found.unmodelled:
        yield f"{found.mdev}: {_place(place)} {'written' if place.write else 'read'}" + (
            f" {place.count} times"
        )
    if found.others:
        yield f"{found.mdev}: {found.others} accesses to further places"


def _place(place: Unmodelled | Spin) -> str:
    return f"bar{place.bar}+{place.offset:#x} ({place.length} bytes)"


def _spin(spin: Spin) -> str:
    fields = " ".join(f"{name}={value}" for name, value in spin.fields.items())
    return f"{spin.register or _place(spin)} = {spin.value:#x} {fields}  read {spin.reads} times"


def _walk(walk: Walk) -> str:
    who = f"{walk.mdev}" + (f" PASID {walk.pasid}" if walk.pasid is not None else "")
    nowhere = f"{walk.cause_name} {walk.where}"
    found = nowhere if walk.hpa is None else f"hpa {walk.hpa:#x}"
    return f"{who} {walk.access} iova {walk.iova:#x} -> {found}".rstrip()
