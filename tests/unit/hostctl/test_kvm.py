"""Whether KVM is of use is found out by a guest, and remembered for this boot."""

import stat
import time
from pathlib import Path

import pytest

from hostctl.vm import kvm
from hostctl.vm.spec import Machine

COUNT = "count=$(cat runs 2>/dev/null || echo 0); echo $((count + 1)) > runs"
FIND = 'for word; do case "$word" in *path=*) console="${word##*path=}";; esac; done'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has the device, with a cache of its own."""
    device = tmp_path / "kvm"
    device.write_text("")
    monkeypatch.setattr(kvm, "DEVICE", device)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def machine(place: Path, script: str) -> Machine:
    """A machine whose QEMU is a shell script; it finds the guest's console in $console."""
    program = place / "qemu"
    program.write_text(f"#!/bin/sh\n{COUNT}\n{FIND}\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Machine((str(program),), {}, place / "vmlinux", place / "initrd")


def runs(place: Path) -> int:
    return int((place / "runs").read_text())


def test_kernel_that_reaches_its_panic_proves_kvm_and_is_run_once(place: Path) -> None:
    good = machine(place, 'echo "VFS: Unable to mount root fs" > "$console"; exec sleep 60')
    assert kvm.probe(good).usable
    assert kvm.probe(good).accelerator == "kvm"
    assert runs(place) == 1


def test_complaint_of_qemu_is_a_verdict_and_is_remembered(place: Path) -> None:
    bad = machine(place, 'echo "KVM internal error. Suberror: 1" >&2; exec sleep 60')
    verdict = kvm.probe(bad)
    assert (verdict.usable, verdict.accelerator) == (False, "tcg")
    assert "KVM internal error. Suberror: 1" in verdict.why
    assert kvm.probe(bad) == verdict
    assert runs(place) == 1


def test_qemu_that_ends_at_once_is_quoted(place: Path) -> None:
    verdict = kvm.probe(machine(place, 'echo "failed to initialize kvm" >&2; exit 1'))
    assert not verdict.usable
    assert "failed to initialize kvm" in verdict.why


def test_kernel_that_says_nothing_is_given_up_in_three_seconds(place: Path) -> None:
    start = time.monotonic()
    verdict = kvm.probe(machine(place, "exec sleep 60"))
    assert not verdict.usable
    assert time.monotonic() - start < 6


def test_verdict_is_not_used_for_another_qemu_or_after_its_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = machine(place, 'echo "internal error" >&2; exec sleep 60')
    kvm.probe(silent)
    later = time.time() + 2e9
    monkeypatch.setattr(time, "time", lambda: later)
    kvm.probe(silent)
    assert runs(place) == 2
    kvm.probe(machine(place, 'echo "internal error, again" >&2; exec sleep 60'))
    assert runs(place) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1, "until": 1e12, "usable": "yes"}'])
def test_broken_cache_is_no_verdict(place: Path, text: str) -> None:
    good = machine(place, 'echo "VFS: Unable to mount root fs" > "$console"; exec sleep 60')
    kvm.probe(good)
    (place / "cache/mdevemu/kvm.json").write_text(text)
    assert kvm.probe(good).usable
    assert runs(place) == 2


def test_machine_without_the_device_starts_no_qemu(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", place / "none")
    assert not kvm.probe(machine(place, "exit 0")).usable
    assert not (place / "runs").exists()
