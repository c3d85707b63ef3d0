"""The emulator as a process: its sockets, what operators ask of it, and how it ends."""

import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import uuid as uuids

import pytest

from mdevemu.units import MIB
from mdevemu.vfio_user.client import Client
from tests.support.bench import Ram
from tests.support.native import DATA, Guest, descriptor
from tests.support.serving import (
    ACCELERATOR,
    LIMIT,
    ROOT,
    Control,
    Serving,
    ended,
    readiness,
    serve,
    short_folder,
    until,
)

CONFIG, COMMAND = 7, 4
MSIX = 2
HOLE = 1 << 40
READ_PAGE_FAULT = 13
HBM_IOVA = 0xFFFF_8000_0000_0000


@pytest.fixture(scope="module")
def serving():
    with short_folder() as folder:
        made = Serving(folder)
        yield made
        assert made.stop() == (0, "", "")


@pytest.fixture
def folder():
    with short_folder() as made:
        yield made


@pytest.fixture
def launch(folder):
    """Starts emulators, and sees that they end."""
    made = []

    def one(*options, **wanted):
        made.append(Serving(folder, *options, **wanted))
        return made[-1]

    yield one
    for each in made:
        if each.process.returncode is None:
            each.stop()


@pytest.fixture
def control(serving):
    """A control client; mdevs that a test leaves behind are removed."""
    made = serving.control()
    yield made
    for mdev in made("query-mdevs"):
        made("remove-mdev", uuid=mdev["uuid"], force=True)


class Regions:
    """A client, as a function with ``read`` and ``write``."""

    def __init__(self, client):
        self.read = client.region_read
        self.write = client.region_write


class Vmm(Guest):
    """A VMM with a guest, attached to an mdev."""

    def __init__(self, mdev, ram=None):
        self.client = Client(mdev["socket"], timeout=LIMIT)
        super().__init__(Regions(self.client), ram or Ram(DATA + MIB))
        self.client.map_dma(0, self.ram.size, self.ram.number)
        self.queues = []

    def start(self):
        """As a driver does that finds the device fresh."""
        self.client.write_u16(CONFIG, COMMAND, 6)
        self.write(0x20, 1, 4)
        return self

    def queue(self, number=0, **wanted):
        self.queues.append(super().queue(number, **wanted))
        return self.queues[-1]

    def work(self):
        until(lambda: self.queues[-1].peek())

    def close(self):
        self.client.close()
        super().close()


@pytest.fixture
def red(control):
    return control("create-mdev", type="mdevemu-native", name="red")


@pytest.fixture
def vmm(red):
    made = Vmm(red).start()
    yield made
    made.close()


# Its start.


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_ready_line_tells_where_the_control_socket_is(serving):
    path = str(serving.runtime / "control.sock")
    assert serving.ready == {"ready": True, "control": path}
    assert mode(serving.runtime) == 0o700
    assert mode(path) == 0o600


def test_accelerator_is_described(serving, control):
    found = control("query-accelerator")
    (engine,) = found.pop("engines")
    assert found == {
        "name": "test",
        "address": "0000:01:04.3",
        "root": "pci0000:00",
        "numa-node": 0,
        "device-id": 0x123,
        "pid": serving.process.pid,
        "runtime": str(serving.runtime),
        "definitions": None,
        "hbm": {"total": 16 * MIB, "free": 16 * MIB},
    }
    assert engine["name"] == "all"
    assert engine["operations"] == sorted(["nop", "copy", "fill", "compare", "crc32c", "sha256"])
    assert control("query-status") == {"status": "running", "running": True}


def test_types_are_described_as_the_kernel_does(control):
    native, adder = control("query-types")
    assert (native["id"], native["device-api"]) == ("mdevemu-native", "vfio-pci")
    assert native["available-instances"] == 3
    assert native["description"].endswith("\nA quarter")
    assert (native["hbm"], native["weight"], native["queues"]) == (4 * MIB, 2, 4)
    assert (adder["id"], adder["personality"]) == ("mdevemu-adder", "adder")


def test_limit_of_descriptors_is_the_highest_there_may_be(serving):
    soft, hard = resource.prlimit(serving.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


# Mdevs.


def test_mdev_is_created_with_a_socket_of_its_own(serving, control):
    uuid = str(uuids.uuid4())
    mdev = control("create-mdev", type="mdevemu-native", uuid=uuid, name="red", weight=5)
    assert mdev == {
        "uuid": uuid,
        "name": "red",
        "type": "mdevemu-native",
        "personality": "native",
        "attach": "pasid",
        "device-id": 0x123,
        "pasid": mdev["pasid"],
        "socket": str(serving.runtime / f"mdev-{uuid}.sock"),
        "weight": 5,
        "users": [],
        "hbm": {
            "base": 0,
            "size": 4 * MIB,
            "used": 0,
            "high-water": 0,
            "scrubbing": 0,
            "imported": 0,
        },
        "work-queue": None,
        "attached": False,
    }
    assert mdev["pasid"] > 0
    assert mode(mdev["socket"]) == 0o600
    assert control("query-mdevs") == [mdev]
    assert control.event("MDEV_CREATED") == mdev
    assert control("query-types")[0]["available-instances"] == 2
    assert control("query-accelerator")["hbm"]["free"] == 12 * MIB


@pytest.mark.parametrize("who", ["name", "uuid"])
def test_mdev_is_removed_with_its_socket(control, red, who):
    control("remove-mdev", uuid=red[who])
    assert not os.path.exists(red["socket"])
    assert control("query-mdevs") == []
    assert control.event("MDEV_REMOVED") == {"uuid": red["uuid"], "name": "red"}
    assert control("query-accelerator")["hbm"]["free"] == 16 * MIB


def test_refusals_have_their_class_and_change_nothing(serving, control, red):
    before = control("query-mdevs"), serving.descriptors(), sorted(os.listdir(serving.runtime))
    for name, arguments, kind, words in (
        ("create-mdev", {"type": "native"}, "GenericError", "did you mean 'mdevemu-native'"),
        ("create-mdev", {"type": "mdevemu-adder", "name": "red"}, "GenericError", "'red'"),
        ("create-mdev", {"type": "mdevemu-adder", "name": "../x"}, "GenericError", "accepted"),
        ("create-mdev", {"type": "mdevemu-adder", "uuid": "1"}, "GenericError", "'1'"),
        ("create-mdev", {"type": "mdevemu-adder", "uuid": ""}, "GenericError", "''"),
        ("create-mdev", {"type": "mdevemu-adder", "weight": 0}, "GenericError", "1 to 1000"),
        (
            "create-mdev",
            {"type": "mdevemu-adder", "attributes": {"weight": "0"}},
            "GenericError",
            "1 to 1000",
        ),
        (
            "create-mdev",
            {"type": "mdevemu-adder", "attributes": {"weight": 3}},
            "GenericError",
            "weight: 3 is not a text",
        ),
        (
            "create-mdev",
            {"type": "mdevemu-adder", "attributes": {"pasid": "3"}},
            "GenericError",
            "can only be read",
        ),
        ("remove-mdev", {"uuid": "rde"}, "DeviceNotFound", "did you mean 'red'"),
        (
            "set-attribute",
            {"uuid": "blue", "name": "weight", "value": "1"},
            "DeviceNotFound",
            "blue",
        ),
        (
            "set-attribute",
            {"uuid": "red", "name": "weight", "value": "1001"},
            "GenericError",
            "1 to 1000",
        ),
        ("query-counters", {"mdev": "blue"}, "DeviceNotFound", "blue"),
        ("query-faults", {"mdev": "blue"}, "DeviceNotFound", "blue"),
        ("walk-iova", {"mdev": "blue", "iova": 0}, "DeviceNotFound", "blue"),
        ("walk-iova", {"mdev": "red", "iova": -1}, "GenericError", "-1"),
        ("walk-iova", {"mdev": "red", "iova": 1 << 64}, "GenericError", "accepted"),
        ("nonsense", {}, "CommandNotFound", "accepted"),
    ):
        found, text = control.refused(name, **arguments)
        assert (found, words in text) == (kind, True), text
    after = control("query-mdevs"), serving.descriptors(), sorted(os.listdir(serving.runtime))
    assert after == before


def test_refusals_have_the_errno_of_the_kernels_mdev_abi(control, red, vmm):
    other = str(uuids.uuid4())
    for _ in range(2):
        control("create-mdev", type="mdevemu-native")
    for name, arguments, expected in (
        ("create-mdev", {"type": "mdevemu-native", "uuid": other[:-1]}, "EINVAL"),
        ("create-mdev", {"type": "mdevemu-natvie", "uuid": other}, "EINVAL"),
        ("create-mdev", {"type": "mdevemu-adder", "uuid": red["uuid"]}, "EEXIST"),
        ("create-mdev", {"type": "mdevemu-native", "uuid": other}, "EUSERS"),
        ("remove-mdev", {"uuid": red["uuid"]}, "EBUSY"),
        ("remove-mdev", {"uuid": other}, "ENOENT"),
    ):
        assert control.ask(name, **arguments)["error"]["errno"] == expected


def test_explanation_says_what_blocks_and_what_fits(control, red, vmm):
    found = control("explain-mdev", type="mdevemu-native")
    assert (found["place"]["hbm"], found["moves"]) == (4 * MIB, [])
    for _ in range(2):
        control("create-mdev", type="mdevemu-native")
    found = control("explain-mdev", type="mdevemu-native")
    assert (found["place"], found["moves"], found["exhausted"]) == (None, None, False)
    assert found["lacking"] == ["3 of 3 instances are in use"]
    assert found["blocking"][0] == "red"
    assert [each["type"] for each in found["fitting"]] == ["mdevemu-adder"]


def test_no_more_mdevs_than_there_is_room_for(control):
    for _ in range(3):
        control("create-mdev", type="mdevemu-native")
    assert "3 of 3 instances" in control.refused("create-mdev", type="mdevemu-native")[1]
    assert control("query-types")[0]["available-instances"] == 0


def test_socket_path_that_somebody_listens_on_is_refused_whole(serving, control):
    uuid = str(uuids.uuid4())
    path = serving.runtime / f"mdev-{uuid}.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        kind, text = control.refused("create-mdev", type="mdevemu-native", uuid=uuid)
        assert (kind, str(path) in text) == ("GenericError", True)
    assert control("query-mdevs") == []
    assert control("query-accelerator")["hbm"]["free"] == 16 * MIB
    assert control("create-mdev", type="mdevemu-native", uuid=uuid)["uuid"] == uuid


def test_emulator_that_runs_out_of_descriptors_refuses_and_goes_on(serving, control):
    control("remove-mdev", uuid=control("create-mdev", type="mdevemu-native")["uuid"])
    pid, open_now = serving.process.pid, serving.descriptors()
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    outcomes = set()
    for left in range(12):
        highest = max(int(number) for number in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + left, limits[1]))
        reply = control.ask("create-mdev", type="mdevemu-native")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        outcomes.add("return" in reply)
        if "return" in reply:
            control("remove-mdev", uuid=reply["return"]["uuid"])
        else:
            assert control("query-mdevs") == []
        assert serving.descriptors() == open_now
        assert os.listdir(serving.runtime) == ["control.sock"]
    assert outcomes == {True, False}


# Attached.


def test_vmm_does_work_through_the_socket(vmm):
    vmm.ram.write(DATA, b"from the guest")
    done = vmm.run("copy", source=DATA, destination=DATA + 4096, length=14)
    assert (done.status, done.result) == (0, 14)
    assert vmm.ram.read(DATA + 4096, 14) == b"from the guest"


def test_doorbell_rings_by_a_descriptor_as_it_does_by_a_message(vmm):
    vmm.ram.write(DATA, b"by descriptor")
    queue = vmm.queue(1)
    queue.write(descriptor("copy", source=DATA, destination=DATA + 4096, length=13))
    [doorbells] = vmm.client.io_fds(2)
    assert (doorbells.offset, doorbells.size) == (0, 0x10000)
    with socket.socket(fileno=doorbells.file.release()) as kvm:
        kvm.send(struct.pack("<I4xQQQ", 1 | 2 << 4, doorbells.value, 0x1000, queue.tail))
        vmm.work()
    assert [done.status for done in queue.reap()] == [0]
    assert vmm.ram.read(DATA + 4096, 13) == b"by descriptor"


def test_operator_hears_of_vmms_that_come_and_go(control, red):
    assert not control("query-mdevs")[0]["attached"]
    vmm = Vmm(red)
    assert control.event("CLIENT_CONNECTED") == {"mdev": "red"}
    assert control("query-mdevs")[0]["attached"]
    vmm.close()
    assert control.event("CLIENT_DISCONNECTED") == {"mdev": "red"}
    assert not control("query-mdevs")[0]["attached"]


def test_attached_mdev_is_not_removed_without_force(control, red, vmm):
    kind, text = control.refused("remove-mdev", uuid="red")
    assert (kind, "'red' is attached" in text) == ("GenericError", True)
    assert vmm.run("nop").status == 0
    control("remove-mdev", uuid="red", force=True)
    with pytest.raises(ConnectionError):
        vmm.read(0)
    assert not os.path.exists(red["socket"])


def test_device_keeps_its_state_while_no_vmm_is_there_and_loses_its_windows(control, red):
    first = Vmm(red).start()
    first.write(0x28, 0x1234_5678_9ABC_DEF0)
    first.write(64, 0x5555, bar=4)
    queue = first.queue(1)
    queue.submit(descriptor("nop"))
    first.work()
    queue.reap()
    first.close()
    control.event("CLIENT_DISCONNECTED")
    assert control("walk-iova", mdev="red", iova=DATA)["hpa"] is None

    second = Vmm(red)
    assert second.read(0x28) == 0x1234_5678_9ABC_DEF0
    assert second.read(64, bar=4) == 0x5555
    assert second.read(COMMAND, 2, bar=CONFIG) & 6 == 6
    again = second.queue(1)  # it is enabled still: this changes nothing
    again.head = again.tail = 1
    again.submit(descriptor("nop", cookie=9))
    second.work()
    assert [(done.cookie, done.index) for done in again.reap()] == [(9, 1)]
    second.client.reset()
    assert second.read(0x28) == 0
    assert second.read(64, bar=4) == 0x5555
    second.close()


def test_second_vmm_is_turned_away_and_the_first_keeps_working(red, vmm):
    with pytest.raises((ConnectionError, TimeoutError, OSError)):
        Client(red["socket"], timeout=LIMIT)
    assert vmm.run("nop").status == 0


def test_hbm_is_mapped_by_a_vmm_and_zero_for_it_after_removal(control, red, vmm):
    hbm = vmm.client.region_mmap(4)
    vmm.run("fill", 2, destination=0, length=4096, operand=0x4242_4242_4242_4242)
    assert hbm[:4096] == b"B" * 4096
    control("remove-mdev", uuid="red", force=True)
    assert hbm[:4096] == bytes(4096)
    blue = control("create-mdev", type="mdevemu-native", name="blue")
    other = Vmm(blue).start()
    assert blue["hbm"] == red["hbm"]
    other.run("fill", 2, destination=0, length=4096, operand=2**64 - 1)
    assert hbm[:4096] == bytes(4096)
    hbm[:4] = b"evil"
    assert other.function.read(4, 0, 4) == b"\xff" * 4
    hbm.close()
    other.close()


def test_interrupts_reach_the_vmm(vmm):
    with vmm.client.interrupt(MSIX, 2) as vector:
        queue = vmm.queue(0, interrupt=True, vector=2)
        queue.submit(descriptor("nop"))
        assert vector.wait(LIMIT) == 1
        assert len(queue.reap()) == 1
        vmm.client.disable_interrupts(MSIX)


def test_small_requests_are_answered_while_engines_work(control, vmm):
    """A piece takes about 100 us, and a burst of them 400 us; here are 4 s of work."""
    blue = Vmm(control("create-mdev", type="mdevemu-native", name="blue")).start()
    queue = vmm.queue(0, log2=10)
    command = descriptor("sha256", length=MIB // 2, source=DATA, destination=DATA, capacity=32)
    queue.submit(*[command] * 1000)
    slowest = 0.0
    for _ in range(50):
        begun = time.monotonic()
        blue.read(0, 4)
        slowest = max(slowest, time.monotonic() - begun)
    assert queue.get(0x24) < 1000, "it works still"
    assert slowest < 0.5
    blue.close()


# What operators look into.


def test_iommu_faults_are_told_with_the_mdev_that_caused_them(control, red):
    others = [
        control("create-mdev", type="mdevemu-native", name=name) for name in ("blue", "green")
    ]
    green = Vmm(others[1]).start()
    latest = max((fault["sequence"] for fault in control("query-faults")), default=0)
    done = green.run("copy", source=HOLE + 5, destination=DATA, length=8)
    assert (done.status, done.cause, done.address) == (4, READ_PAGE_FAULT, HOLE + 5)
    expected = {
        "sequence": latest + 1,
        "mdev": "green",
        "device-id": 0x123,
        "pasid": others[1]["pasid"],
        "cause": READ_PAGE_FAULT,
        "iova": HOLE + 5,
        "iova-hex": hex(HOLE + 5),
    }
    event = control.event("IOMMU_FAULT")
    assert expected.items() <= event.items()
    assert "read" in event["cause-name"].lower()
    assert control("query-faults", since=latest) == [event]
    assert control("query-faults", since=latest, mdev="green") == [event]
    assert control("query-faults", since=latest, mdev="blue") == []
    assert control("query-faults", since=latest + 1) == []
    green.close()


def test_fault_is_not_told_to_who_has_the_pasid_later(control, red):
    first = Vmm(red).start()
    latest = max((fault["sequence"] for fault in control("query-faults")), default=0)
    first.run("fill", destination=HOLE, length=8)
    first.close()
    control("remove-mdev", uuid="red", force=True)
    blue = control("create-mdev", type="mdevemu-native", name="blue")
    assert blue["pasid"] == red["pasid"]
    (fault,) = control("query-faults", since=latest)
    assert fault["mdev"] == "red"
    assert control("query-faults", since=latest, mdev="blue") == []


def test_walk_shows_the_way_through_the_tables(control, red, vmm):
    walk = control("walk-iova", mdev="red", iova=DATA + 0x123)
    assert (walk["mdev"], walk["pasid"], walk["iova"]) == ("red", red["pasid"], DATA + 0x123)
    assert walk["hpa"] % 4096 == 0x123
    assert (walk["cause"], walk["cause-name"]) == (None, None)
    assert [step["leaf"] for step in walk["steps"]][-1]
    assert not any(step["leaf"] for step in walk["steps"][:-1])
    hbm = control("walk-iova", mdev=red["uuid"], iova=HBM_IOVA + 8)
    assert hbm["hpa"] == (1 << 40) + red["hbm"]["base"] + 8
    hole = control("walk-iova", mdev="red", iova=HOLE)
    assert (hole["hpa"], hole["cause"]) == (None, READ_PAGE_FAULT)
    assert control("query-faults", mdev="red") == [], "looking is no access"


def test_weight_is_set_and_seen(control, red, vmm):
    control("set-attribute", uuid="red", name="weight", value="7")
    assert control("query-mdevs")[0]["weight"] == 7
    assert vmm.read(0x1048) == 7


def test_counters_are_those_of_the_monitoring_page(control, red, vmm):
    control("create-mdev", type="mdevemu-adder", name="sum")
    for _ in range(3):
        vmm.run("fill", destination=DATA, length=100)
    found, other = control("query-counters")
    assert (found["mdev"], other["mdev"]) == ("red", "sum")
    assert control("query-counters", mdev="red") == [found]
    page = vmm.counters()
    for name in ("completed", "failed", "bytes_read", "bytes_written", "doorbells", "faults"):
        assert found[name.replace("_", "-")] == page[name]
    assert (found["completed"], found["bytes-written"]) == (3, 300)
    assert (found["hbm-bytes"], found["weight"]) == (4 * MIB, 2)
    assert found["busy-ns"] > 0
    assert sum(each["commands"] for each in control("query-accelerator")["engines"]) >= 3


# Its end.


def test_sigterm_takes_everything_down(launch):
    serving = launch()
    control = serving.control()
    vmm = Vmm(control("create-mdev", type="mdevemu-native")).start()
    serving.process.send_signal(signal.SIGTERM)
    assert control.event("SHUTDOWN") == {}
    assert serving.stop() == (0, "", "")
    assert os.listdir(serving.runtime) == []
    with pytest.raises(ConnectionError):
        vmm.read(0)
    vmm.close()


def test_signal_right_after_the_ready_line_ends_it_properly(launch):
    serving = launch()
    serving.process.send_signal(signal.SIGINT)
    assert ended(serving.process) == (0, "", "")
    assert os.listdir(serving.runtime) == []


def test_signals_that_come_again_and_again_change_nothing(launch):
    serving = launch()
    end = time.monotonic() + LIMIT
    while serving.process.poll() is None:
        assert time.monotonic() < end
        serving.process.send_signal(signal.SIGTERM)
    assert serving.process.communicate() == ("", "")
    assert serving.process.returncode == 0
    assert os.listdir(serving.runtime) == []


def test_quit_ends_it_and_work_in_progress_does_not_hold_it(launch):
    serving = launch()
    control = serving.control()
    vmm = Vmm(control("create-mdev", type="mdevemu-native")).start()
    queue = vmm.queue(0, log2=10)
    queue.submit(*[descriptor("fill", destination=DATA, length=MIB)] * 1000)
    assert control("quit") == {}
    assert ended(serving.process) == (0, "", "")
    control.close()
    vmm.close()


def test_death_of_the_parent_ends_it(folder):
    """A middle process starts it with --parent and is killed."""
    program = (
        "import os, subprocess, sys\n"
        "process = subprocess.Popen([*sys.argv[1:], '--parent', str(os.getpid())])\n"
        "process.wait()\n"
    )
    middle = serve(folder, prefix=[sys.executable, "-c", program])
    path = readiness(middle)["control"]
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(LIMIT)
        probe.connect(path)
        assert b"QMP" in probe.recv(4096)
        middle.kill()
        assert middle.wait(LIMIT) == -signal.SIGKILL
        while probe.recv(4096):
            pass
    until(lambda: os.listdir(folder / "run") == [])
    middle.stdout.close()
    middle.stderr.close()


# What it refuses to start with.


def refused(folder, *options, **wanted):
    """The one line with which it does not start."""
    status, out, err = ended(serve(folder, *options, **wanted))
    assert (status, out) == (2, ""), err
    assert err.count("\n") == 1
    assert err.startswith("mdevemu: ")
    return err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ACCELERATOR.replace("weight", "wieght"), "[[type]] 1: unknown key 'wieght'; did you mean"),
        ("[accelerator", "accelerator.toml: "),
    ],
)
def test_bad_file_ends_it_with_one_line(folder, text, words):
    assert words in refused(folder, text=text)
    assert not (folder / "run").exists()


def test_folder_that_others_can_enter_is_refused(folder):
    (folder / "run").mkdir(mode=0o755)
    assert "mode 0700" in refused(folder)
    assert os.listdir(folder / "run") == []


def test_folder_in_which_another_emulator_runs_is_refused(serving, control):
    line = refused(serving.folder)
    assert "control.sock" in line
    assert control("query-status")["running"]


def test_process_that_is_not_its_parent_is_refused(folder):
    assert "--parent" in refused(folder, "--parent", "1")


def test_sockets_of_a_killed_emulator_are_replaced(launch):
    first = launch()
    mdev = first.control()("create-mdev", type="mdevemu-native")
    first.process.kill()
    assert first.stop()[0] == -signal.SIGKILL
    assert len(os.listdir(first.runtime)) == 2
    second = launch()
    control = second.control()
    assert control("query-mdevs") == []
    again = control("create-mdev", type="mdevemu-native", uuid=mdev["uuid"])
    Vmm(again).close()
    assert second.stop()[0] == 0
    assert os.listdir(second.runtime) == []


@pytest.mark.parametrize("form", ["markdown", "python"])
def test_describe_prints_what_is_declared(form):
    command = [sys.executable, "-m", "mdevemu", "describe", "native", "--format", form]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    assert "doorbell_sq_tail" in done.stdout.lower()
    assert done.stderr == ""


def test_clients_are_told_whole_paths_of_what_was_named_from_a_folder(folder):
    options = ["--runtime", "run", "--root", "root", "--state", "state"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mdevemu", "serve", "demo", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert readiness(process)["control"] == "run/control.sock"
        control = Control(str(folder / "run/control.sock"))
        facts = control("query-accelerator")
        assert (facts["runtime"], facts["definitions"]) == (f"{folder}/run", f"{folder}/root")
        made = control("create-mdev", type="mdevemu-half")
        assert made["socket"] == f"{folder}/run/mdev-{made['uuid']}.sock"
        control("save-state")
        assert control.event("MDEV_SAVED")["file"] == f"{folder}/state/{made['uuid']}.mdev"
        control.close()
        process.terminate()
    finally:
        assert ended(process)[0] == 0
