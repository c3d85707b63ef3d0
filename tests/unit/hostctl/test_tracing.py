"""Events as lines and as drawings, from events that are made up."""

import io
import itertools
import json

import pytest
from rich.console import Console

from hostctl.tracing import Event
from hostctl.tracing.lines import COLOURS, Lines
from hostctl.tracing.perfetto import HOST, Perfetto
from tests.support.perfetto import tracks

_numbers = itertools.count()
MICROSECOND = 1000


def event(kind, at=0, mdev="red", **facts):
    """An event at a time in microseconds."""
    return Event(next(_numbers), at * MICROSECOND, kind, mdev, facts)


def drawn(*events):
    file = io.StringIO()
    drawing = Perfetto(file)
    for each in events:
        drawing.add(each)
    drawing.close()
    return tracks(file.getvalue())


def begin(at, queue=0, **facts):
    return event("command.begin", at, queue=queue, operation="copy", pasid=5, **facts)


def end(at, queue=0, status="success", **facts):
    return event("command.end", at, queue=queue, operation="copy", pasid=5, status=status, **facts)


# Drawings.


def test_drawing_without_events_is_one():
    assert drawn() == {}


def test_command_lasts_from_begin_to_end():
    (command,) = drawn(begin(10), end(25))["red"]["queue 0"]
    assert (command["ts"], command["dur"], command["name"]) == (10, 15, "copy")
    assert command["args"]["status"] == "success"


def test_queues_of_tenants_are_tracks_of_their_own():
    found = drawn(begin(1), begin(2, queue=1), end(3, queue=1), end(4))
    assert [each["dur"] for each in found["red"]["queue 0"]] == [3]
    assert [each["dur"] for each in found["red"]["queue 1"]] == [1]
    blue = event("interrupt", 1, "blue", vector=3, way="message")
    assert list(drawn(blue, begin(1), end(2))) == ["blue", "red"]


@pytest.mark.parametrize(
    "by",
    [
        event("device.fault", 9, queue=0, reason="stop"),
        event("function.reset", 9, cause="flr"),
        event("mdev.removed", 9, uuid="u"),
    ],
    ids=lambda event: event.kind,
)
def test_command_that_does_not_end_is_drawn_up_to_what_stopped_it(by):
    (command,) = drawn(begin(2), by, event("session.open", 20))["red"]["queue 0"]
    assert (command["dur"], command["args"]["ended by"]) == (7, by.kind)


def test_command_that_was_dropped_ends_where_the_next_begins():
    first, second = drawn(begin(2), begin(5), end(6))["red"]["queue 0"]
    assert (first["dur"], first["args"]["ended by"]) == (3, "command.begin")
    assert (second["ts"], second["dur"]) == (5, 1)


def test_command_at_hand_when_it_ends_is_drawn_up_to_the_last_event():
    (command,) = drawn(begin(2), event("session.open", 12))["red"]["queue 0"]
    assert command["dur"] == 10


def test_end_of_a_command_that_began_before_is_drawn_where_it_is():
    (command,) = drawn(end(7))["red"]["queue 0"]
    assert (command["ts"], command["dur"]) == (7, 0)


def test_fault_of_another_queue_ends_nothing():
    found = drawn(begin(1), event("device.fault", 2, queue=3, reason="r"), end(5))["red"]
    assert found["queue 0"][0]["dur"] == 4
    assert "queue 3" not in found


def test_events_without_a_length_are_on_the_track_that_they_belong_to():
    found = drawn(
        event("interrupt", 1, vector=2, way="line"),
        event("iommu.fault", 2, cause=13, cause_name="Read page fault", iova=1, pasid=5),
        event("iommu.page_request", 3, iova=1, pasid=5),
        event("fault.injected", 4, fault="read-ones"),
        event("register.write", 5, register="status", value=1),
        event("iommu.command", 6, None, command="IOFENCE.C"),
        event("trace.lost", 7, None, lost=5),
        event("future.kind", 8),
    )
    assert set(found["red"]) == {
        *("interrupt 2", "faults", "injected faults", "registers", "future.kind")
    }
    assert [each["name"] for each in found["red"]["faults"]] == [
        *("iommu.fault Read page fault", "iommu.page_request")
    ]
    assert set(found[HOST]) == {"IOMMU", "lost events"}
    assert found[HOST]["lost events"][0]["name"] == "trace.lost 5"


def test_drawing_that_was_cut_off_is_whole_but_for_its_bracket():
    file = io.StringIO()
    drawing = Perfetto(file)
    drawing.add(event("session.open", 1))
    drawing.add(event("session.close", 2))
    assert len(json.loads(file.getvalue() + "]")) == 4


# Lines.


def said(*events):
    lines = Lines()
    return [lines.text(each).plain for each in events]


def test_time_is_since_the_first_event():
    first, second = said(event("session.open", 5_000_000), event("session.close", 5_000_250))
    assert first.split() == ["0.000000", "red", "session.open"]
    assert second.split()[0] == "0.000250"


def test_addresses_are_hexadecimal_and_nothing_is_a_dash():
    hit = {"device_id": 256, "pasid": None, "iova": 4096, "access": "read", "hpa": 8192}
    walk = {**hit, "result": "fault", "cause": 13, "cause_name": "Read page fault"}
    del walk["hpa"]
    one, two = said(event("iommu.hit", **hit), event("iommu.walk", **walk))
    assert one.endswith("PASID -  read  iova 0x1000 -> hpa 0x2000")
    assert two.endswith("PASID -  read  iova 0x1000 -> fault 13 Read page fault")


def test_place_without_a_register_says_where_it_is():
    (line,) = said(event("register.read", region="bar0", offset=16, length=2, register=None))
    assert line.endswith("bar0+0x10, 2 bytes without a register = -")


def test_lost_events_are_counted():
    (line,) = said(event("trace.lost", mdev=None, lost=12))
    assert line.endswith("12 events lost")


def test_each_tenant_has_a_colour_and_keeps_it():
    lines = Lines()
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="standard", width=200)
    for mdev in ("red", "blue", "red", None):
        console.print(lines.text(event("session.open", mdev=mdev)))
    one, two, three, none = shown.getvalue().splitlines()
    assert one == three
    assert one.replace("red ", "blue") != two
    assert "\x1b" in two
    assert "\x1b" not in none
    styles = {str(lines.text(event("session.open", mdev=str(n))).spans[0].style) for n in range(9)}
    assert styles == set(COLOURS)


def test_line_from_a_terminal_in_a_name_does_nothing():
    (line,) = said(event("session.error", reason="\x1b[2J\nforged"))
    assert "\x1b" not in line
    assert "\n" not in line
