"""The pytest plugin with real QEMUs: guests that are shared, that fail, and that are lost."""

import os
import re
from pathlib import Path

import pytest

from tests.unit.hostctl.command import PROJECT
from tests.unit.hostctl.testing.test_fixtures import COPY

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

PLUGIN = ("-p", "hostctl.testing.plugin", "-p", "no:cacheprovider", "-rs")
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
"""As it is before pytester gives its tests a home of their own."""
CHANNELS = [f"dma0chan{n}" for n in range(4)]

GUESTS = f"""
    import pytest
    from hostctl.errors import TimedOut

    pytestmark = pytest.mark.accel(personality="ioat", modules=["ioatdma"], seconds=20)
    CHANNELS = {CHANNELS}

    def test_each_guest_has_its_own(vms):
        for vm in vms:
            assert vm.run("ls /sys/class/dma").stdout.split() == CHANNELS
        assert len({{vm.mdev.uuid for vm in vms}}) == 2
        vms[1].run("echo 'only blue says so' > /dev/kmsg")
        assert "only blue says so" in vms[1].log()
        assert "only blue says so" not in vms[0].log()

    def test_guest_is_shared_and_log_begins_anew(vm, vms, mdev):
        assert vm is vms[0]
        assert mdev.name == vm.name == "vm-red"
        assert vms[1].log() == []
        assert vm.run("exit 3", check=False).status == 3

    def test_fails(vm, faults):
        vm.run("modprobe -r ioatdma")
        fault = faults.inject("completion-lost", after=1)
        vm.load("ioatdma")
        assert faults.hits(fault) == 1
        assert vm.run("ls /sys/class/dma").stdout.split() == CHANNELS

    def test_is_late(vm, faults):
        assert faults.all() == [], "what the test before injected"
        with pytest.raises(TimedOut, match="command .*sleep 100.*not done after 1 s"):
            vm.run("sleep 100", seconds=1)
        assert vm.run("echo well").stdout == "well\\n"

    def test_loses_one(vms):
        vms[1].run("echo c > /proc/sysrq-trigger")

    def test_wants_both(vms): ...

    def test_spins(vm, faults):
        vm.run("modprobe -r ioatdma")
        faults.inject("command-hung", after=1)
        vm.run("modprobe ioatdma", seconds=3)

    def test_wants_the_other(vm): ...
"""


def run(pytester, monkeypatch, text, *options):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess(*PLUGIN, *options)


def stories(done):
    """The story of each test that failed, by its name."""
    lines, found = done.outlines, {}
    for start, line in enumerate(lines):
        if re.fullmatch("-+ accelerator -+", line):
            end = next(n for n in range(start, len(lines)) if lines[n].startswith("reproduce: "))
            name = lines[end].split("::")[1].split()[0]
            found[name] = "\n".join(lines[start + 1 : end + 1])
    return found


def test_guests_are_shared_fail_with_their_story_and_are_lost_once(pytester, monkeypatch):
    done = run(pytester, monkeypatch, GUESTS, "--accel-keep", "--accel-cover")
    done.assert_outcomes(passed=3, failed=3, skipped=2)
    told = stories(done)
    assert sorted(told) == ["test_fails", "test_loses_one", "test_spins"]

    whole = next(pytester.path.glob("accel-kept/*test_fails/story.txt")).read_text()
    at = 0
    for line in (
        r"test +injects completion-lost into vm-red: after=1",
        r"test +vm-red: load ioatdma",
        r"vm-red log +ioatdma: Intel\(R\) QuickData Technology Driver",
        r"vm-red +command.begin .*operation=copy",
        r"vm-red +fault.injected .*completion-lost",
        r"vm-red log +ioatdma 0000:01:00.0: Reset channel",
        r"vm-red +register.write +channel_command\[0\] = 0x20 .*reset=1",
        r"vm-red log +ioatdma 0000:01:00.0: Self-test copy timed out",
        r"test +fails: .*AssertionError",
        r"vm-red PASID 1 read iova 0x\w+ -> hpa 0x",
        r"vm-red: completion-lost \(after=1\) struck 1 times",
        r"reproduce: pytest .*::test_fails --accel-level=vm --accel-seed=\d+ --accel-cover",
    ):
        found = re.compile(line).search(whole, at)
        assert found, f"{line} comes not after what was before it"
        at = found.end()

    assert re.search(r"vm-red: channel_status\[0\] = .*state=ACTIVE.* read \d+", told["test_spins"])
    assert "vm-red is wedged: modprobe ioatdma: not done after 3 s" in told["test_spins"]
    lost = told["test_loses_one"]
    assert re.search(r"vm-blue log +Kernel panic - not syncing: sysrq triggered crash", lost)
    assert "vm-blue is wedged: echo c > /proc/sysrq-trigger" in lost
    done.stdout.fnmatch_lines_random(
        [
            "*vm-blue is wedged since an earlier test: *sysrq triggered crash*",
            "*vm-red is wedged since an earlier test: *not done after 3 s, and the guest is mute",
        ]
    )
    assert (pytester.path / "accel-coverage.json").exists()


def test_guest_that_does_not_come_up_fails_once_and_skips_then(pytester, monkeypatch):
    text = """
    import pytest
    pytestmark = pytest.mark.accel(append=["init=/nowhere", "rdinit=/nowhere"], boot_seconds=60)

    def test_first(vm): ...
    def test_second(vm): ...
    """
    done = run(pytester, monkeypatch, text)
    done.assert_outcomes(errors=1, skipped=1)
    done.stdout.fnmatch_lines(["SKIPPED * vm-red did not come up: *"])


def test_qtest_is_a_qemu_without_a_guest(pytester, monkeypatch):
    text = (
        COPY
        + """
    def test_copy(vfio_client, trace):
        assert vfio_client.vectors == 5
        for _ in range(2):
            done, moved = copy(vfio_client)
            assert (done.status, moved) == (native.Status.SUCCESS, b"bytes")
            line = vfio_client.interrupt(1)
            assert line.total or line.wait(5), "it comes after the completion"
            vfio_client.reset()
        assert [each.facts["way"] for each in trace.events("interrupt")] == ["message"] * 2
        assert trace.events("function.reset", cause="flr")

    def test_guests_are_not_there(vm): ...
    """
    )
    done = run(pytester, monkeypatch, text, "--accel-level=qtest")
    done.assert_outcomes(passed=1, skipped=1)
