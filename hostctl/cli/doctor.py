"""``hostctl doctor``: what this machine has, what it lacks, and the fix."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import click
from rich.text import Text

from hostctl import runtime, sweep
from hostctl.cli.options import json_option
from hostctl.errors import ENVIRONMENT, OK, HostError
from hostctl.machine import guest_machine
from hostctl.output import Output
from hostctl.vm import kvm
from hostctl.vm.qemu import MIGRATION_FIX, NO_MIGRATION
from images.errors import HostError as ImageError
from images.sysroot import find_qemu

_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: "ok", "slow" (works without it, but slower), "unsafe" (seems to work, and
            does not) or "missing".
        found: what is there.
        fix: what to do about it; empty if nothing need be done.
    """

    name: str
    state: str
    found: str
    fix: str = ""


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _PYTHON:
        return Finding("Python", "missing", version, "install Python 3.11 or later")
    return Finding("Python", "ok", version)


def _memory_files() -> Finding:
    try:
        os.close(os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        fix = "run on a Linux kernel with memfd and sealing"
        return Finding("shared memory files", "missing", error.strerror or str(error), fix)
    return Finding("shared memory files", "ok", "memfd with seals")


def _folder() -> Finding:
    folder = runtime.root()
    runtime.Folder(folder / ("x" * 16))
    return Finding("runtime folder", "ok", str(folder))


def _corpses() -> Finding:
    dead = [each.name for each in sweep.corpses()]
    if dead:
        return Finding("dead labs", "slow", ", ".join(dead), "run 'hostctl cleanup'")
    return Finding("dead labs", "ok", "none")


def _looked(name: str, look: Callable[[], Finding]) -> Finding:
    """What a look found; an error of the machine is a finding too."""
    try:
        return look()
    except (HostError, ImageError) as error:
        return Finding(name, "missing", error.wrong, error.fix)


def _qemu() -> Finding:
    return Finding("QEMU", "ok", find_qemu().origin)


def _migration() -> Finding:
    return Finding("migration of VMs", "unsafe", NO_MIGRATION, MIGRATION_FIX)


def _guest(output: Output) -> Finding:
    return Finding("guest", "ok", str(guest_machine(output).initrd))


def _accelerator(output: Output) -> Finding:
    verdict = kvm.probe(guest_machine(output))
    if verdict.usable:
        return Finding("KVM", "ok", verdict.why)
    fix = "nothing need be done: QEMU translates (TCG); with a KVM that works, VMs are faster"
    return Finding("KVM", "slow", verdict.why, fix)


def _look_around(output: Output) -> Iterator[Finding]:
    """Every finding; what needs something that is missing is not looked at."""
    yield _python()
    yield _memory_files()
    yield _looked("runtime folder", _folder)
    yield _looked("dead labs", _corpses)
    for name, look in (
        ("QEMU", _qemu),
        ("migration of VMs", _migration),
        ("guest", partial(_guest, output)),
        ("KVM", partial(_accelerator, output)),
    ):
        finding = _looked(name, look)
        yield finding
        if finding.state == "missing":
            return


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say what this machine has, what it lacks, and the fix; exit status 3 if it lacks something.

    What can be fetched and built into the cache, is.
    """
    output = Output(json=as_json)
    findings = []
    for finding in _look_around(output):
        findings.append(finding)
        if not as_json:
            _show(output, finding)
    missing = any(finding.state == "missing" for finding in findings)
    if as_json:
        output.record("doctor", {"ok": not missing, "findings": [asdict(f) for f in findings]})
    return ENVIRONMENT if missing else OK


def _show(output: Output, finding: Finding) -> None:
    style = {"ok": "green", "slow": "yellow", "unsafe": "yellow", "missing": "bold red"}[
        finding.state
    ]
    mark = Text(f"{finding.state:>8}", style=style)
    output.console.print(Text.assemble(mark, f"  {finding.name}: {finding.found}"))
    if finding.fix:
        output.console.print(Text(f"          {finding.fix}", style="dim"))
