"""What a follower is told of each personality, by name, and what he is not told."""

import re
from pathlib import Path

import pytest

from mdevemu.errors import ConfigError
from mdevemu.following.filters import Filter
from mdevemu.following.follower import BATCH, DEPTH, Follower
from mdevemu.following.kinds import DETAILS, KINDS
from mdevemu.personalities.native.layout import NativeRegs as REGS
from tests.support import native as device
from tests.support.native import SUCCESS

MDEVEMU = Path(__file__).parents[3] / "mdevemu"
CONFIG, COMMAND = 7, 4


def kinds(events):
    return [each["kind"] for each in events]


# Commands.


def test_command_is_told_from_begin_to_end_with_its_interrupt(victim, follow):
    follower = follow(victim, kind="command,interrupt")
    victim.submit()
    begin, end, interrupt = follower.events()
    assert kinds([begin, end, interrupt]) == ["command.begin", "command.end", "interrupt"]
    assert {each["mdev"] for each in (begin, end, interrupt)} == {victim.mdev.name}
    assert begin["queue"] == end["queue"] == 0
    assert begin["operation"] == end["operation"]
    assert begin["pasid"] == end["pasid"] == victim.mdev.space.pasid
    assert begin["time"] < end["time"] < interrupt["time"]
    assert begin["number"] < end["number"] < interrupt["number"]
    assert (end["times"], end.get("injected")) == (1, None)
    assert interrupt["way"] == "message"


def test_operations_and_statuses_have_names(native, follow):
    follower = follow(native, kind="command")
    native.submit()
    native.submit(length=0xFFFF_FFFF)
    good, bad = follower.events("command.end")
    assert native.completed() == 2
    assert (good["operation"], good["status"]) == ("copy", "success")
    assert native.failed()
    assert isinstance(bad["status"], str)
    assert bad["status"] != "success"


def test_each_queue_has_its_number(native, follow):
    other = native.driver.queue(number=2, interrupt=True, vector=3)
    follower = follow(native, kind="command.begin,interrupt")
    other.submit(device.descriptor("nop"))
    native.bench.work()
    begin, interrupt = follower.events()
    assert (begin["queue"], begin["operation"]) == (2, "nop")
    assert interrupt["vector"] == 3


def test_command_that_was_meddled_with_shows_as_injected(victim, follow):
    follower = follow(victim, kind="command.end,fault")
    victim.inject("completion-lost")
    victim.submit()
    injected, end = follower.events()
    assert (injected["kind"], injected["fault"]) == ("fault.injected", "completion-lost")
    assert injected["mdev"] == victim.mdev.name
    assert (end["times"], end["injected"]) == (0, True)


def test_injected_error_is_the_status_and_shows_as_injected(native, follow):
    follower = follow(native, kind="command.end")
    native.inject("completion-error", status="corrupt")
    native.submit()
    (end,) = follower.events()
    assert (end["status"], end["injected"]) == ("corrupt", True)


def test_fault_that_stops_a_queue_names_it(native, follow):
    follower = follow(native, kind="device.fault")
    native.function.write(CONFIG, COMMAND, b"\x00\x00")  # no bus master
    native.submit()
    (fault,) = follower.events()
    assert fault["queue"] == 0
    assert "RING_READ" in fault["reason"]


# Registers.


def test_registers_are_told_by_name_with_fields_and_codes(native, follow):
    follower = follow(native, kind="register")
    native.function.read(0, device.STATUS, 4)
    native.function.write(0, device.CONTROL, (1).to_bytes(4, "little"))
    read, write = follower.events()
    assert (read["kind"], read["register"], read["region"]) == ("register.read", "status", "bar0")
    assert (read["offset"], read["length"], read["value"]) == (device.STATUS, 4, 1)
    assert read["fields"] == {"state": "READY"}
    assert (write["kind"], write["register"]) == ("register.write", "control")
    assert write["fields"]["enable"] == 1


def test_access_across_registers_is_told_of_each(native, follow):
    follower = follow(native, kind="register")
    native.function.read(0, device.CONTROL, 8)
    control, status = follower.events()
    assert (control["register"], status["register"]) == ("control", "status")
    assert (control["value"], status["value"]) == (1, 1)


def test_part_of_a_register_has_only_the_fields_that_are_in_it(native, follow):
    follower = follow(native, kind="register.write")
    native.function.write(0, REGS.queue_control.offset + 2, b"\x01\x00")
    (event,) = follower.events()
    assert event["register"] == "queue_control[0]"
    assert "enable" not in event["fields"]
    assert event["fields"]["vector"] == 1


def test_place_without_a_register_is_told_as_such(native, follow):
    follower = follow(native, kind="register")
    native.function.read(0, 0xFF8, 4)
    native.function.read(0, 0xF00, 64)
    near, far = follower.events()
    assert (near["register"], near["offset"], near["value"]) == (None, 0xFF8, 0)
    assert far["length"] == 64
    assert "value" not in far


def test_configuration_space_and_msix_have_names_too(native, follow):
    follower = follow(native, kind="register")
    native.function.read(CONFIG, 0, 4)
    native.function.write(CONFIG, COMMAND, b"\x06\x00")
    native.function.read(native.mdev.personality.msix_bar, 12, 4)
    *ids, command, vector = follower.events()
    assert [each["register"] for each in ids] == ["vendor", "device"]
    assert (command["register"], command["region"]) == ("command", "config")
    assert command["fields"]["bus_master"] == 1
    assert vector["register"] == "control[0]"


def test_code_without_a_name_is_told_as_a_number(native, follow):
    follower = follow(native, kind="register.write")
    native.function.write(0, device.STATUS, b"\xff\xff\xff\xff")
    (event,) = follower.events()
    assert event["fields"]["state"] not in ("READY", None)
    assert isinstance(event["fields"]["state"], int)


# Translations.


def test_translations_have_their_mdev_and_physical_address(native, follow):
    follower = follow(native, kind="iommu.walk,iommu.hit")
    native.submit()
    native.submit()
    seen = follower.events()
    assert {"iommu.walk", "iommu.hit"} == set(kinds(seen))
    for each in seen:
        assert (each["mdev"], each["pasid"]) == (native.mdev.name, native.mdev.space.pasid)
    source = next(each for each in seen if each["iova"] == device.DATA)
    at = native.mdev.port._requester.translate(device.DATA, 1)
    assert source["hpa"] == at


def test_iommu_fault_belongs_to_its_mdev(native, follow):
    follower = follow(native, kind="iommu.fault")
    native.submit(source=1 << 40)
    (fault,) = follower.events()
    assert (fault["mdev"], fault["iova"]) == (native.mdev.name, 1 << 40)
    assert native.completed() == 1
    assert native.done[-1].status != SUCCESS


# Who is told, and what is made.


def test_nothing_is_made_unless_somebody_follows(victim, follow):
    follower = follow(victim)
    victim.submit()
    assert {"command.begin", "iommu.walk"} <= set(kinds(follower.events()))
    follower.leave()
    before = len(victim.bench.trace.events)
    victim.submit()
    victim.function.read(0, 0, 4)
    assert len(victim.bench.trace.events) == before
    assert victim.function.observers == ()


def test_two_followers_do_not_take_each_others_events_away(native, follow):
    one = follow(native, kind="command")
    two = follow(native, kind="command,register")
    two.leave()
    native.submit()
    assert kinds(one.events()) == ["command.begin", "command.end"]


def test_only_the_mdevs_that_were_asked_for_are_told(native, follow):
    other = native.bench.mdev("native", name="other")
    follower = follow(native, mdev="other")
    native.submit()
    other.function.read(0, device.STATUS, 4)
    assert {each["mdev"] for each in follower.events()} == {"other"}
    assert native.function.observers == ()


def test_mdev_that_comes_later_is_followed_until_it_goes(native, follow):
    follower = follow(native)
    late = native.bench.mdev("adder", name="late")
    late.function.read(0, 4, 4)
    native.bench.parent.remove(late)
    told = [each for each in follower.events() if each["mdev"] == "late"]
    assert kinds(told)[0] == "mdev.created"
    assert kinds(told)[-1] == "mdev.removed"
    assert "register.read" in kinds(told)


def test_follow_says_when_it_began_and_whom_it_follows(native, follow):
    follower = follow(native)
    reply = follower.follow(mdev=native.mdev.uuid)
    assert reply["mdevs"] == [native.mdev.name]
    native.submit()
    assert all(each["time"] > reply["time"] for each in follower.events())


# Filters.


def test_register_filter_takes_names_indices_and_stars(native, follow):
    def told(register):
        follower = follow(native, register=register)
        for place in (REGS.control, REGS.status, REGS.queue_control, REGS.queue_status):
            native.function.read(0, place.offset, 4)
        native.submit()
        found = [each["register"] for each in follower.events()]
        follower.leave()
        return found

    assert told("status") == ["status"]
    assert told("queue_control") == ["queue_control[0]"]
    assert told("queue_control[1]") == []
    assert told("queue_*, control")[:3] == ["control", "queue_control[0]", "queue_status[0]"]


def test_queue_and_pasid_filters_take_ranges(native, follow):
    pasid = native.mdev.space.pasid
    for filters, count in (
        ({"queue": "0"}, 2),
        ({"queue": "1-3,0x5"}, 0),
        ({"queue": "1,0-2"}, 2),
        ({"queue": "0", "pasid": str(pasid)}, 2),
        ({"queue": "0", "pasid": f"{pasid + 1}-{pasid + 9}"}, 0),
    ):
        follower = follow(native, **filters)
        native.submit()
        assert len(follower.events("command")) == count
        assert {each["kind"].partition(".")[0] for each in follower.events()} <= {"command"}
        follower.leave()


def test_events_that_a_filter_cannot_let_through_are_not_made(native, follow):
    follower = follow(native, register="status")
    assert native.bench.trace.wanted == {"register.read", "register.write"}
    follower.follow(queue="0")
    assert native.bench.trace.wanted == {"command.begin", "command.end"}
    follower.follow(kind="iommu")
    assert native.bench.trace.wanted == {"iommu.walk", "iommu.hit", "iommu.command"}
    assert native.function.observers == ()


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"mdev": "nobody"}, "unknown mdev 'nobody'"),
        ({"kind": "registr"}, "did you mean 'register'"),
        ({"kind": "register,"}, "unknown kind ''"),
        ({"register": "stat"}, "unknown register 'stat'; did you mean 'status'"),
        ({"register": "queue_control[99]"}, "unknown register 'queue_control[99]'"),
        ({"queue": "one"}, "queue: 'one' (accepted: numbers and ranges"),
        ({"queue": "3-1"}, "'3-1' ends before it begins"),
        ({"queue": "-1"}, "accepted: numbers and ranges"),
        ({"pasid": "9" * 5000}, "accepted: numbers and ranges"),
    ],
)
def test_filter_that_is_none_is_refused_and_nobody_follows(native, follow, filters, words):
    follower = follow(native, kind="mdev")
    with pytest.raises(ConfigError) as refused:
        follower.follow(**filters)
    assert words in str(refused.value)
    assert not native.bench.trace.wanted


# What is kept.


def test_kept_events_are_chosen_by_number_and_kind(native, follow):
    follower = follow(native, kind="command")
    native.submit()
    begin, end = follower.kept(kind="command")
    assert kinds([begin, end]) == ["command.begin", "command.end"]
    assert follower.kept(kind="command", since=begin["number"]) == [end]
    assert follower.kept(kind="comm") == []
    assert len(follower.kept()) > 2
    assert follower.events() == [begin, end]


# One who does not read.


def test_events_beyond_the_room_are_lost_and_counted_where_they_were(native):
    woken, closed = [], []
    follower = Follower(Filter(), lambda: woken.append(1), closed.append)

    def offer(first, count):
        for number in range(first, first + count):
            follower.offer({"number": number, "time": number, "kind": "mdev.created", "mdev": "a"})

    offer(0, DEPTH + 5)
    assert len(woken) == 1
    _, data = follower.take()
    assert [each["number"] for each in data["events"]] == list(range(BATCH))
    offer(DEPTH + 5, 1)
    numbers, lost = [], []
    while follower.waiting:
        for each in follower.take()[1]["events"]:
            numbers.append(each["number"])
            if each["kind"] == "trace.lost":
                lost.append((each["number"], each["time"], each["lost"]))
    assert lost == [(DEPTH, DEPTH, 5)]
    assert numbers == [*range(BATCH, DEPTH + 1), DEPTH + 5]
    offer(0, DEPTH + 2)
    while follower.waiting:
        last = follower.take()[1]["events"][-1]
    assert (last["kind"], last["lost"]) == ("trace.lost", 2)
    offer(9, 1)
    assert len(woken) == 3
    assert follower.take()[1]["events"][0]["number"] == 9
    follower.close()
    assert closed == [follower]


# The list of kinds.


def test_every_event_that_is_emitted_has_a_meaning():
    emitted = {
        name
        for file in MDEVEMU.rglob("*.py")
        for name in re.findall(r"\.emit\(\s*\"([a-z_.]+)\"", file.read_text())
    }
    assert emitted
    assert emitted <= set(KINDS)
    assert set(DETAILS) <= set(KINDS)
    # ... and there is none that nobody emits.
    assert set(KINDS) - emitted == {*DETAILS, "trace.lost"}
