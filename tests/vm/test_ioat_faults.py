"""What Linux's driver of I/OAT makes of each injected fault, in one VM.

Its self-test, as it is loaded, is a null descriptor and then a copy.
"""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostctl import tracing
from tests.support.perfetto import tracks
from tests.unit.hostctl.command import until
from tests.vm.test_ioat import CHANNELS, DEVICE, LAB, Guest, guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

FOUND = "Intel(R) QuickData Technology Driver"
RESET = ["Reset channel...", "Restart channel..."]
GAVE_UP = "Self-test copy timed out, disabling"
THE_COPY = ("--after", "1")
"""Of the commands of the self-test, the second."""


@pytest.fixture(scope="module")
def booted() -> Iterator[Guest]:
    yield from guest(LAB)


@pytest.fixture
def ready(booted: Guest) -> Iterator[Guest]:
    """A guest without faults, before its driver is loaded; everything is undone afterwards."""
    booted.run("dmesg -c")
    yield booted
    clear(booted)
    booted.unload()


def inject(ready: Guest, kind: str, *options: str) -> None:
    done = ready.hostctl.run("fault", "inject", "copier", kind, *options)
    assert done.returncode == 0, done.stderr


def clear(ready: Guest) -> None:
    assert ready.hostctl.run("fault", "clear", "copier").returncode == 0


def hits(ready: Guest) -> int:
    """How often the fault struck."""
    (fault,) = ready.hostctl.facts("fault", "list", "copier")["faults"]
    return int(fault["hits"])


def load(ready: Guest) -> tuple[str, list[str]]:
    """What the driver says while it is loaded, and the channels it then has."""
    said, _, channels = ready.run(
        "modprobe ioatdma; dmesg -c | grep ioatdma; echo ---; ls /sys/class/dma"
    ).partition("---\n")
    assert FOUND in said
    return said, channels.split()


def in_order(said: str, lines: list[str]) -> bool:
    """The lines stand in it one after the other."""
    places = [said.find(line) for line in lines]
    return -1 not in places and places == sorted(places)


def test_lost_completion_is_found_by_the_drivers_watchdog(ready: Guest) -> None:
    inject(ready, "completion-lost", *THE_COPY)
    said, channels = load(ready)
    assert in_order(said, ["CHANERR: 0x0", *RESET, GAVE_UP])
    assert re.search(r"CHANSTS: 0x[0-9a-f]+1 ", said), "idle, as far as the device is concerned"
    assert (channels, hits(ready)) == ([], 1)
    clear(ready)
    ready.unload()
    said, channels = load(ready)
    assert channels == CHANNELS, "and without the fault it works again"


def test_late_completion_is_too_late_for_the_driver(ready: Guest) -> None:
    inject(ready, "completion-late", *THE_COPY, "--delay-us", "500000")
    said, channels = load(ready)
    assert in_order(said, ["CHANERR: 0x0", *RESET, GAVE_UP])
    assert re.search(r"CHANSTS: 0x[0-9a-f]+0 ", said), "active: it is still at it"
    assert channels == []


def test_doubled_completion_is_taken_once(ready: Guest) -> None:
    inject(ready, "completion-doubled", *THE_COPY)
    said, channels = load(ready)
    assert (channels, hits(ready)) == (CHANNELS, 1)
    assert len(said.splitlines()) == 1, "no complaint"


def test_error_of_data_ends_the_command_and_not_the_channel(ready: Guest) -> None:
    inject(ready, "completion-error", *THE_COPY, "--status", "write-data")
    said, channels = load(ready)
    assert (channels, hits(ready)) == (CHANNELS, 1)
    assert "halted" not in said
    assert not any(line in said for line in RESET)


def test_error_of_a_descriptor_resets_the_channel(ready: Guest) -> None:
    inject(ready, "completion-error", *THE_COPY, "--status", "control")
    said, channels = load(ready)
    assert in_order(said, ["Channel halted (400)", "Descriptor Control Error", *RESET])
    assert channels == []


def test_lost_interrupt_costs_time_and_nothing_else(ready: Guest) -> None:
    inject(ready, "interrupt-lost", "--count", "100")
    _, channels = load(ready)
    assert channels == CHANNELS
    assert sum(ready.interrupts("ioat-msix")) == 0
    assert hits(ready) > 0


def test_translation_fault_shows_in_the_data_and_at_the_iommu(ready: Guest) -> None:
    before = len(ready.faults())
    inject(ready, "translation-fault", "--access", "write", *THE_COPY)
    said, channels = load(ready)
    assert "Self-test copy failed compare, disabling" in said
    assert channels == []
    assert len(ready.faults()) == before + 1


def test_device_that_is_gone_is_not_bound(ready: Guest) -> None:
    inject(ready, "link-down")
    said, channels = load(ready)
    assert "device inaccessible" in said
    assert "(31) exceeds max supported channels (4)" in said, "all ones"
    assert "init failed" in said
    assert channels == []
    clear(ready)
    ready.unload()
    assert load(ready)[1] == CHANNELS, "and it is bound when it is back"


def test_kernel_waits_for_a_reset_that_takes_long(ready: Guest) -> None:
    inject(ready, "reset-slow", "--delay-us", "1500000")
    said = ready.run(f"echo 1 > {DEVICE}/reset; dmesg -c")
    assert in_order(said, ["not ready 1023ms after FLR; waiting", "ready 2047ms after FLR"])
    assert load(ready)[1] == CHANNELS


def test_spurious_interrupts_are_borne(ready: Guest) -> None:
    load(ready)
    before = ready.interrupts("ioat-msix")[0]
    inject(ready, "interrupt-spurious", "--count", "5", "--delay-us", "20000")
    ready.run("sleep 0.3")
    assert ready.interrupts("ioat-msix")[0] - before == 5
    said = ready.run("dmesg -c; cat /proc/sys/kernel/tainted")
    assert said == "0\n", "nothing was said, and nothing warned"


def test_register_that_the_driver_waits_for_is_named(ready: Guest) -> None:
    """It suspends a channel that hangs, and waits for that without a limit."""
    inject(ready, "command-hung", *THE_COPY)
    loading = ready.hostctl.start("run", "guest", "--", "modprobe", "ioatdma")
    try:
        assert until(lambda: spins(ready) != [], 30)
        for spin in spins(ready):  # another one begins if it reads something else in between
            assert spin["register"] == "channel_status[0]"
            assert spin["fields"]["state"] == "ACTIVE"
            assert spin["reads"] >= 1000
    finally:
        clear(ready)
        loading.communicate(timeout=60)
    assert loading.returncode == 0, "and when the command ends, so does the wait"


def spins(ready: Guest) -> list[dict[str, Any]]:
    """What the driver has waited for."""
    found: list[dict[str, Any]] = ready.hostctl.facts("mdev", "accesses", "copier")["spins"]
    return found


def test_trace_shows_the_driver_its_command_and_the_fault(ready: Guest, tmp_path: Path) -> None:
    drawn, saved = tmp_path / "drawn.json", tmp_path / "saved.jsonl"
    words = ("trace", "--follow", "copier", "--json", "--perfetto", str(drawn))
    with saved.open("w") as lines:
        followed = ready.hostctl.start(*words, into=lines)
        assert followed.stderr is not None
        assert "following" in followed.stderr.readline()
        inject(ready, "completion-error", *THE_COPY, "--status", "write-data")
        load(ready)
        assert until(lambda: '"fault.injected"' in saved.read_text(), 10)
        followed.send_signal(signal.SIGINT)
        assert followed.wait(20) == 0, followed.stderr.read()
        followed.stderr.close()
    events = list(tracing.load(saved))
    assert {event.mdev for event in events} == {"copier"}
    written = {event.facts["register"] for event in events if event.kind == "register.write"}
    assert {"channel_chain[0]", "channel_descriptors[0]", "channel_control[0]"} <= written
    ends = [event.facts for event in events if event.kind == "command.end"]
    assert [(end["status"], end.get("injected")) for end in ends[:2]] == [
        *((0, None), ("write_data", True))
    ]
    (injected,) = (event for event in events if event.kind == "fault.injected")
    assert injected.facts["fault"] == "completion-error"
    assert any(event.kind in ("iommu.walk", "iommu.hit") for event in events)
    found = tracks(drawn.read_text())["copier"]
    assert {"queue 0", "injected faults", "registers"} <= set(found)
    assert any(track.startswith("interrupt ") for track in found)
