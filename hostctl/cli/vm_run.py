"""``hostctl vm run``: a kernel, a module or a command in a throw-away VM."""

import sys
from pathlib import Path

import click

from hostctl.cli.options import json_option
from hostctl.cli.vm import NOT_FOUND, pass_on
from hostctl.errors import OK
from hostctl.guest import AgentRefused
from hostctl.output import Output
from hostctl.processes import tail
from hostctl.tables import Table
from hostctl.vm.run import DEBUGGED_SECONDS, SECONDS, Guest, Request, guest
from mdevemu.units import MIB

_LOG_LINES = 30
_PATH = click.Path(path_type=Path)


@click.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--kernel", type=_PATH, metavar="BZIMAGE", help="Your kernel; without it, Debian's.")
@click.option("--modules", type=_PATH, metavar="DIR", help="Where its modules_install went.")
@click.option(
    "--module",
    "load",
    multiple=True,
    metavar="'MY.ko [NAME=VALUE ...]'",
    help="Load a module: a file of yours, or one of the kernel's by its name.  Repeatable.",
)
@click.option("--personality", default="native", show_default=True, help="What the device is.")
@click.option(
    "--viommu",
    type=click.Choice(["none", "intel", "amd", "virtio"]),
    default="none",
    show_default=True,
    help="The guest's IOMMU.",
)
@click.option("--memory", default="1GiB", show_default=True, help="The guest's memory.")
@click.option(
    "--cpus",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many processors the guest has.",
)
@click.option("--append", default="", metavar="WORDS", help="Add to the kernel's command line.")
@click.option(
    "--share", type=_PATH, metavar="DIR", help="A folder that the guest has at /share; COMMAND's."
)
@click.option("--gdb", is_flag=True, help="Wait for a debugger before the first instruction.")
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    help="How QEMU runs guests; auto tries KVM.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Seconds for boot, modules and COMMAND together ({SECONDS:g}; with --gdb, "
    f"{DEBUGGED_SECONDS:g}).",
)
@json_option
def run(
    command: tuple[str, ...],
    kernel: Path | None,
    modules: Path | None,
    load: tuple[str, ...],
    personality: str,
    viommu: str,
    memory: str,
    cpus: int,
    append: str,
    share: Path | None,
    gdb: bool,
    accel: str,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Run COMMAND in a VM of its own, with one mdev, and give its exit status.

    If that is not 0, the end of the guest's log follows.  Nothing is left running.
    """
    output = Output(json=as_json)
    request = Request(
        personality=personality,
        kernel=kernel,
        tree=modules,
        modules=load,
        iommu=viommu,
        memory=Table("vm run", {"--memory": memory}).size("--memory", 256 * MIB),
        cpus=cpus,
        append=append.split(),
        share=share,
        debugger=gdb,
        accel=accel,
        seconds=timeout or (DEBUGGED_SECONDS if gdb else SECONDS),
    )
    with guest(request, output) as found:
        try:
            status = _run(found, command, output)
        except AgentRefused as refused:
            if refused.kind != "NotFound":
                raise
            output.say(refused.text)
            status = NOT_FOUND
        if status != OK:
            output.say("the guest's log ends with:")
            for line in tail(found.vm.plan.console, _LOG_LINES):
                output.say(f"  {line}")
    return status


def _run(found: Guest, command: tuple[str, ...], output: Output) -> int:
    if not output.json:
        return found.stream(command, pass_on, stdin=sys.stdin.fileno())
    done = found.run(command)
    facts = {
        "command": list(command),
        "status": done.status,
        "stdout": done.stdout.decode(errors="replace"),
        "stderr": done.stderr.decode(errors="replace"),
        "log": tail(found.vm.plan.console, _LOG_LINES),
    }
    output.record("vm.run", facts)
    return done.status
