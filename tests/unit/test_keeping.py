"""Saved mdevs: from one run of the emulator to the next, and from file to file."""

import json
import os
import signal
import uuid as uuids

import pytest

from mdevemu.vfio_user.client import Client
from tests.support.bench import Ram
from tests.support.native import (
    DATA,
    DESTINATION_HBM,
    EVENT_STATUS,
    FUNCTION_SET,
    OPERATION_BITS,
    SOURCE_HBM,
    SQ_HEAD,
    SUCCESS,
    Queue,
    descriptor,
)
from tests.support.remote import RemoteGuest
from tests.support.serving import Serving, ended, serve, short_folder, until

SIZE = 0x40_0000
PATTERN = 0x1122_3344_5566_7788


@pytest.fixture
def folder():
    with short_folder() as made:
        yield made


def start(folder, *options, **wanted):
    return Serving(folder, "--state", str(folder / "state"), *options, **wanted)


def end(serving, number=signal.SIGTERM):
    """As ``stop`` ends it; a second signal would end the saving, too."""
    for control in serving.controls:
        control.close()
    serving.process.send_signal(number)
    return ended(serving.process)


def guest_of(control, **wanted):
    made = control("create-mdev", type="mdevemu-native", **wanted)
    return made, RemoteGuest(made["socket"], Ram(SIZE))


def test_client_goes_on_with_its_ring_after_the_emulator_was_started_anew(folder):
    serving = start(folder)
    control = serving.control()
    made, guest = guest_of(control, name="red", weight=7, attributes={"command_limit": "5000"})
    queue = Queue(guest, 0, interrupt=True, vector=1)
    queue.enable()
    fill = descriptor("fill", DESTINATION_HBM, destination=64, length=4096, operand=PATTERN)
    queue.submit(fill)
    guest.work(queue)
    assert [done.status for done in queue.reap()] == [SUCCESS]
    guest.vector.wait(5)
    assert end(serving) == (0, "", "")
    guest.leave()

    serving = start(folder)
    control = serving.control()
    (mdev,) = control("query-mdevs")
    assert {key: mdev[key] for key in ("uuid", "name", "weight")} == {
        "uuid": made["uuid"],
        "name": "red",
        "weight": 7,
    }
    kept = {each["name"]: each["value"] for each in control("query-attributes", uuid="red")}
    assert kept["command_limit"] == "5000"
    guest.attach(mdev["socket"])
    queue.submit(descriptor("copy", SOURCE_HBM, source=64, destination=DATA, length=4096))
    guest.work(queue)
    assert [(done.status, done.index) for done in queue.reap()] == [(SUCCESS, 1)]
    assert guest.ram.read(DATA, 4096) == PATTERN.to_bytes(8, "little") * 512
    assert guest.vector.wait(5) == 1
    assert guest.counters()["completed"] == 2
    assert end(serving) == (0, "", "")
    guest.close()


def test_restored_device_rests_until_its_client_has_lent_memory(folder):
    serving = start(folder)
    _, guest = guest_of(serving.control())
    queue = Queue(guest, 0, log2=8)
    queue.enable()
    queue.submit(
        *(
            descriptor("sha256", cookie=n, length=0x10_0000, destination=DATA, capacity=32)
            for n in range(256)
        )
    )
    assert end(serving)[0] == 0
    guest.leave()
    done = len(queue.reap(tell=False))
    assert done < 256, "commands were left in the ring"

    serving = start(folder)
    (mdev,) = serving.control()("query-mdevs")
    guest.attach(mdev["socket"])
    assert queue.get(SQ_HEAD) >= done, "it goes on from here"
    queue.head = 0
    until(lambda: queue.get(SQ_HEAD) == 256 and guest.counters()["completed"] == 256)
    found = queue.reap()
    assert [(each.cookie, each.status) for each in found] == [(n, SUCCESS) for n in range(256)]
    assert not guest.fault().valid
    end(serving)
    guest.close()


def test_removed_mdev_does_not_come_back(folder):
    serving = start(folder)
    made = serving.control()("create-mdev", type="mdevemu-native")
    end(serving)
    serving = start(folder)
    serving.control()("remove-mdev", uuid=made["uuid"])
    assert list((folder / "state").iterdir()) == []
    end(serving)
    serving = start(folder)
    assert serving.control()("query-mdevs") == []
    end(serving)


def test_state_that_was_saved_on_request_survives_a_crash(folder):
    serving = start(folder)
    control = serving.control()
    made, guest = guest_of(control)
    guest.write(0x28, 0xABCD)
    control("save-state")
    assert control.event("MDEV_SAVED")["uuid"] == made["uuid"]
    guest.write(0x28, 0x1234)
    serving.process.kill()
    serving.stop()
    guest.leave()
    serving = start(folder)
    guest.attach(made["socket"])
    assert guest.read(0x28) == 0xABCD
    end(serving)
    guest.close()


COPY_AND_FILL = 1 << 1 | 1 << 2 | 1 << 10
"""Operations of engines that copy and fill: they can be chained, too."""


def reprogram(control, *operations):
    return control("reprogram-engine", engine="all", operations=operations, policy="drain")


def functions(guest):
    return [guest.read(at, 4) for at in (FUNCTION_SET, EVENT_STATUS)], guest.read(OPERATION_BITS)


def test_engines_do_what_they_were_reprogrammed_to_and_drivers_are_told_once(folder):
    serving = start(folder)
    made, guest = guest_of(serving.control())
    assert reprogram(serving.control(), "copy", "fill")["version"] == 1
    assert functions(guest) == ([1, 1], COPY_AND_FILL)
    guest.write(EVENT_STATUS, 1, 4)
    assert end(serving) == (0, "", "")
    guest.leave()
    serving = start(folder)
    guest.attach(made["socket"])
    assert functions(guest) == ([1, 0], COPY_AND_FILL)
    assert end(serving) == (0, "", "")
    guest.close()


def test_driver_of_a_state_from_before_the_change_is_told_after_a_crash(folder):
    serving = start(folder)
    control = serving.control()
    made, guest = guest_of(control)
    control("save-state")
    control.event("MDEV_SAVED")
    reprogram(control, "copy", "fill")
    serving.process.kill()
    serving.stop()
    guest.leave()
    serving = start(folder)
    guest.attach(made["socket"])
    assert functions(guest) == ([1, 1], COPY_AND_FILL)
    end(serving)
    guest.close()


def test_engines_are_kept_beside_definitions_and_are_changed_before_those_start(folder):
    root = folder / "root"
    serving = Serving(folder, "--root", str(root))
    reprogram(serving.control(), "copy", "fill")
    serving.process.kill()
    serving.stop()
    definition = root / "etc/mdevctl.d/0000:01:04.3" / str(uuids.uuid4())
    definition.parent.mkdir(parents=True)
    definition.write_text('{"mdev_type": "mdevemu-native", "start": "auto", "attrs": []}')
    serving = Serving(folder, "--root", str(root))
    control = serving.control()
    (engine,), (mdev,) = control("query-engines"), control("query-mdevs")
    assert (engine["operations"], engine["version"]) == (["copy", "fill"], 1)
    guest = RemoteGuest(mdev["socket"], Ram(SIZE))
    assert functions(guest) == ([1, 0], COPY_AND_FILL)
    guest.close()
    assert end(serving) == (0, "", "")


def test_engine_whose_change_cannot_be_kept_stays_as_it_is(folder):
    # In the way of the draft.
    (folder / "root/etc/mdevemu.d/.0000:01:04.3.json.new").mkdir(parents=True)
    serving = Serving(folder, "--root", str(folder / "root"))
    control = serving.control()
    wanted = {"engine": "all", "operations": ["fill"], "policy": "kill"}
    assert "0000:01:04.3.json" in control.refused("reprogram-engine", **wanted)[1]
    (engine,) = control("query-engines")
    assert (len(engine["operations"]), engine["version"]) == (6, 0)
    assert end(serving) == (0, "", "")


def test_engines_that_cannot_be_read_end_the_start(folder):
    (folder / "state").mkdir()
    (folder / "state/engines.json").write_text("{}")
    failing = ended(serve(folder, "--state", str(folder / "state")))
    assert failing[0] == 2
    assert "engines.json: has no engines of version 1" in failing[2]


def test_what_changes_is_saved_by_the_clock_and_survives_a_crash(folder):
    serving = start(folder, "--save-every", "0.1")
    control = serving.control()
    made, guest = guest_of(control, name="red")
    idle = control("create-mdev", type="mdevemu-native", name="idle")
    assert {control.event("MDEV_SAVED")["name"] for _ in range(2)} == {"red", "idle"}
    path = folder / "state" / f"{idle['uuid']}.mdev"
    written = path.stat()
    file = folder / "state" / f"{made['uuid']}.mdev"
    for number in (0xABC0, 0xABC1, 0xABC2):
        guest.write(0x28, number)
        scratch = number.to_bytes(8, "little")
        until(lambda wanted=scratch: wanted in file.read_bytes())
    while control.events:
        assert control.events.pop()["data"].get("name") == "red"
    assert path.stat() == written, "what is as it was is not written"
    serving.process.kill()
    serving.stop()
    guest.leave()
    serving = start(folder)
    assert {each["name"] for each in serving.control()("query-mdevs")} == {"red", "idle"}
    guest.attach(made["socket"])
    assert guest.read(0x28) == 0xABC2
    assert end(serving) == (0, "", "")
    guest.close()


def test_what_cannot_be_saved_by_the_clock_is_told_once(folder):
    serving = start(folder, "--save-every", "0.1")
    control = serving.control()
    _, guest = guest_of(control, name="red")
    control.event("MDEV_SAVED")
    (folder / "state").rename(folder / "elsewhere")
    guest.write(0x28, 1)
    assert "No such file" in control.event("MDEV_NOT_SAVED")["reason"]
    blue = control("create-mdev", type="mdevemu-native", name="blue")
    assert control.event("MDEV_NOT_SAVED")["name"] == "blue"
    control("remove-mdev", uuid="blue")
    blue = control("create-mdev", type="mdevemu-native", name="blue")
    told = control.event("MDEV_NOT_SAVED")
    assert (told["name"], told["uuid"]) == ("blue", blue["uuid"]), "not red again"
    (folder / "elsewhere").rename(folder / "state")
    assert {control.event("MDEV_SAVED")["name"] for _ in range(2)} == {"red", "blue"}
    guest.leave()
    code, _, err = end(serving)
    named = [line.split(": ")[1] for line in err.splitlines()]
    assert (code, named) == (0, ["red", "blue", "blue"])


def test_complaint_that_cannot_be_written_ends_nothing(folder):
    """The disk that takes no state may be that of the log."""
    serving = start(folder, "--save-every", "0.1", prefix=("sh", "-c", 'exec "$@" 2>/dev/full', ""))
    control = serving.control()
    (folder / "state").rename(folder / "elsewhere")
    control("create-mdev", type="mdevemu-native")
    control.event("MDEV_NOT_SAVED")
    control("query-status")
    assert end(serving) == (1, "", "")


def test_interval_without_a_folder_is_refused(folder):
    code, _, err = ended(serve(folder, "--save-every", "1"))
    assert (code, err) == (2, "mdevemu: --save-every: needs --state FOLDER to save to\n")


def test_mdev_that_a_layout_removes_does_not_come_back(folder):
    serving = start(folder)
    control = serving.control()
    control("create-mdev", type="mdevemu-native")
    control("save-state")
    control.event("MDEV_SAVED")
    control("apply-layout", layout={})
    assert list((folder / "state").iterdir()) == []
    serving.process.kill()
    serving.stop()
    serving = start(folder)
    assert serving.control()("query-mdevs") == []
    end(serving)


def test_mdev_that_is_removed_while_it_is_saved_leaves_no_file(folder):
    serving = start(folder)
    control = serving.control()
    for _ in range(20):
        made = control("create-mdev", type="mdevemu-native")
        client = Client(made["socket"])
        client.region_write(4, 0, bytes(range(1, 251)) * 4000)
        client.close()
        control("save-state")
        control("remove-mdev", uuid=made["uuid"], force=True)
        assert control.event("MDEV_NOT_SAVED")["reason"] == "it was removed"
    until(lambda: list((folder / "state").iterdir()) == [])
    assert end(serving) == (0, "", "")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"junk", "is no saved mdev"),
        (lambda data: data[:-1], "ends before its end"),
        (lambda data: data + b"x", "after its end"),
        (lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:], "checksum"),
        (lambda data: data.replace(b"mdevemu-native", b"mdevemu-naive", 1), "naive"),
        (lambda data: data.replace(b'"weight": "2"', b'"weight": "0"', 1), "weight: 0 (accepted"),
        (lambda data: data.replace(b'"weight": "2"', b'"weight": 2', 1), "weight: 2 is no str"),
        (lambda data: data.replace(b'"weight": ', b'"eight": ', 1), "'eight'"),
    ],
)
def test_broken_file_is_an_error_that_names_it_and_stays(folder, spoil, says):
    serving = start(folder)
    serving.control()("create-mdev", type="mdevemu-native")
    serving.control()("create-mdev", type="mdevemu-adder")
    end(serving)
    files = sorted((folder / "state").iterdir())
    file = next(each for each in files if b"native" in each.read_bytes()[:200])
    file.write_bytes(spoil(file.read_bytes()))
    spoilt = [each.read_bytes() for each in files]
    failing = ended(serve(folder, "--state", str(folder / "state")))
    assert failing[0] == 2
    assert str(file) in failing[2]
    assert says in failing[2]
    assert [each.read_bytes() for each in files] == spoilt
    assert [each.name for each in (folder / "run").iterdir() if each.is_socket()] == []


def test_file_of_another_name_is_refused_since_it_would_outlive_its_mdev(folder):
    serving = start(folder)
    serving.control()("create-mdev", type="mdevemu-native")
    end(serving)
    (file,) = (folder / "state").iterdir()
    other = file.rename(file.with_stem("backup"))
    failing = ended(serve(folder, "--state", str(folder / "state")))
    says = f"mdevemu: {other}: has mdev {file.stem}, which is not its name\n"
    assert (failing[0], failing[2]) == (2, says)
    assert [each.name for each in (folder / "run").iterdir() if each.is_socket()] == []


def test_mdevs_come_back_where_they_were(folder):
    serving = start(folder)
    control = serving.control()
    for name in ("first", "second", "third"):
        control("create-mdev", type="mdevemu-native", name=name)
    control("remove-mdev", uuid="first")
    places = {each["name"]: each["hbm"] for each in control("query-mdevs")}
    assert places["second"]["base"] > 0
    assert end(serving)[0] == 0
    serving = start(folder)
    assert {each["name"]: each["hbm"] for each in serving.control()("query-mdevs")} == places
    assert serving.stop()[0] == 0


def test_one_mdev_is_saved_and_restored_by_file(folder):
    serving = Serving(folder)
    control = serving.control()
    made, guest = guest_of(control, name="red")
    guest.write(0x28, 0xABCD)
    file = folder / "red.mdev"
    control("save-mdev", mdev="red", file=str(file))
    assert control.event("MDEV_SAVED") == {"uuid": made["uuid"], "name": "red", "file": str(file)}
    assert json.loads(file.read_bytes().partition(b"\n")[0])["name"] == "red"
    assert guest.read(0x28) == 0xABCD, "it runs on"
    assert "there is an mdev" in control.refused("restore-mdev", file=str(file))[1]
    guest.leave()
    until(lambda: not control("query-mdevs")[0]["attached"])
    control("remove-mdev", uuid="red")
    back = control("restore-mdev", file=str(file))
    assert back["uuid"] == made["uuid"]
    guest.attach(back["socket"])
    assert guest.read(0x28) == 0xABCD
    guest.close()
    assert serving.stop()[0] == 0


def test_pipe_is_no_saved_mdev_and_nobody_waits_for_a_writer(folder):
    serving = Serving(folder)
    os.mkfifo(folder / "pipe")
    refused = serving.control().refused("restore-mdev", file=str(folder / "pipe"))
    assert "is no saved mdev" in refused[1]
    assert serving.stop()[0] == 0


@pytest.mark.parametrize(
    ("command", "given", "says"),
    [
        ("save-state", {}, "without --state"),
        ("save-mdev", {"mdev": "red", "file": "relative"}, "not an absolute path"),
        ("save-mdev", {"mdev": "red", "file": "/"}, "cannot be the name of a file"),
        ("save-mdev", {"mdev": "red", "file": "/tmp/\0x"}, "cannot be the name of a file"),
        ("save-mdev", {"mdev": "red", "file": "/tmp/\ud800"}, "cannot be the name of a file"),
        ("restore-mdev", {"file": "/tmp/\0x"}, "cannot be the name of a file"),
        ("restore-mdev", {"file": "/nowhere/at/all"}, "No such file"),
        ("save-mdev", {"mdev": "blue", "file": "/tmp/x"}, "blue"),
    ],
)
def test_what_cannot_be_kept_is_refused(folder, command, given, says):
    serving = Serving(folder)
    control = serving.control()
    control("create-mdev", type="mdevemu-native", name="red")
    assert says in control.refused(command, **given)[1]
    assert serving.stop()[0] == 0


def test_file_that_cannot_be_written_is_told_and_the_device_runs_on(folder):
    serving = Serving(folder)
    control = serving.control()
    _, guest = guest_of(control, name="red")
    queue = Queue(guest, 0)
    queue.enable()
    control("save-mdev", mdev="red", file="/nowhere/red.mdev")
    assert "No such file" in control.event("MDEV_NOT_SAVED")["reason"]
    queue.submit(descriptor("nop"))
    guest.work(queue)
    guest.close()
    serving.stop()
