"""``hostctl up``, ``down``, ``ps``, ``cleanup``: labs as a whole."""

import contextlib
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from hostctl import runtime, sweep
from hostctl.cli.mdev import COLUMNS, row
from hostctl.cli.options import json_option
from hostctl.control import Control, Mdev
from hostctl.emulator import command_line
from hostctl.errors import HostError
from hostctl.lab import Lab, owned, plan, raise_lab
from hostctl.machine import guest_machine, pick_accelerator
from hostctl.output import Output
from hostctl.processes import Terminated
from hostctl.spec import LabSpec, find_lab, read_lab
from hostctl.steps import Steps
from hostctl.vm.argv import argv, pasteable

_DOWN_SECONDS = 15.0


@click.command()
@click.argument("lab", metavar="LAB")
@click.option("--detach", is_flag=True, help="Return when it is up; 'hostctl down' ends it.")
@click.option("--dry-run", is_flag=True, help="Start nothing; print every command line.")
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    help="How QEMU runs guests; auto tries KVM.",
)
@json_option
def up(lab: str, detach: bool, dry_run: bool, accel: str, as_json: bool) -> None:
    """Bring LAB up and keep it up until Ctrl-C.

    LAB is a file, or the name of a lab that comes with the program: demo.
    """
    output = Output(json=as_json)
    spec = read_lab(find_lab(lab))
    if dry_run:
        _dry_run(spec, accel, output)
    elif detach:
        _detach(spec, accel, output)
    else:
        _foreground(spec, accel, output)


def _dry_run(spec: LabSpec, accel: str, output: Output) -> None:
    """Print what would be run, the emulator first."""
    folder = runtime.folder_of(spec.name)
    lines = {"emulator": command_line(spec.profile, folder.emulator, spec.definitions)}
    if spec.vms:
        machine = guest_machine(output)
        accelerator = pick_accelerator(machine, accel, output)
        for vm in spec.vms:
            line = argv(plan(spec, vm, folder, accelerator), machine)
            lines[vm.name] = pasteable(line, machine.environment)
    if output.json:
        mdevs = [{"name": mdev.name, "uuid": mdev.uuid, "type": mdev.type} for mdev in spec.mdevs]
        output.record("up.dry-run", {"lab": spec.name, "mdevs": mdevs, "commands": lines})
        return
    for line in lines.values():
        output.line(shlex.join(line))


def _foreground(spec: LabSpec, accel: str, output: Output) -> None:
    """Own the lab until somebody ends us."""
    steps = Steps(output.narration)
    machine = guest_machine(output) if spec.vms else None
    accelerator = "tcg" if machine is None else pick_accelerator(machine, accel, output)
    with owned(spec) as lab:
        raise_lab(lab, steps, machine, accelerator)
        if output.json:
            output.record("up", facts(lab))
        output.say(f"lab {spec.name!r} is up; Ctrl-C, or 'hostctl down {spec.name}', ends it")
        # An ordinary end: somebody ran ``hostctl down``.
        with contextlib.suppress(Terminated):
            for news in lab.watch():
                output.say(news)


def facts(lab: Lab) -> dict[str, object]:
    """A lab that is up, for JSON."""
    return {
        "lab": lab.spec.name,
        "folder": str(lab.folder.path),
        "control": str(lab.folder.control),
        "mdevs": [
            {"name": mdev.name, "uuid": mdev.uuid, "pasid": mdev.pasid, "socket": mdev.socket}
            for mdev in lab.mdevs.values()
        ],
        "vms": [
            {"name": name, "pid": vm.identity.pid, "accelerator": vm.plan.accelerator}
            for name, vm in lab.vms.items()
        ],
    }


def _detach(spec: LabSpec, accel: str, output: Output) -> None:
    """Have a process of its own session own the lab, and wait until it is up."""
    argv = [sys.executable, "-m", "hostctl", "up", str(spec.file), "--accel", accel]
    owner = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert owner.stderr is not None
    folder = runtime.folder_of(spec.name)
    try:
        # Its narration is ours until it is up; then it has nobody to tell.
        for line in owner.stderr:
            output.say(line.decode(errors="replace").rstrip())
            record = folder.read()
            if record is not None and record.owner.pid == owner.pid and record.state == "up":
                break
        else:
            raise SystemExit(owner.wait())
    except BaseException:
        owner.terminate()
        owner.wait()
        raise
    if output.json:
        output.record("up", {"lab": spec.name, "folder": str(folder.path), "owner": owner.pid})


@click.command()
@click.argument("name", metavar="[LAB]", required=False)
@json_option
def down(name: str | None, as_json: bool) -> None:
    """Take a running lab down: VMs, mdevs, emulator."""
    output = Output(json=as_json)
    folder, record = runtime.select(name)
    if not record.owner.end(_DOWN_SECONDS):
        output.say(f"lab {record.name!r}: its owner was gone already")
    sweep.sweep(folder)
    if output.json:
        output.record("down", {"lab": record.name})


def _mdevs(control: str) -> list[Mdev] | None:
    """The mdevs of an emulator; None if it does not answer."""
    try:
        with contextlib.closing(Control(control)) as emulator:
            return emulator.mdevs()
    except HostError:
        return None


@click.command()
@json_option
def ps(as_json: bool) -> None:
    """List labs that are up, with their mdevs and VMs, and what dead ones left behind."""
    output = Output(json=as_json)
    labs = runtime.running()
    dead = sweep.corpses()
    found = {name: _mdevs(record.control) for name, (_, record) in labs.items()}
    if output.json:
        output.record(
            "ps",
            {
                "labs": [
                    _lab_facts(record, folder, found[name])
                    for name, (folder, record) in labs.items()
                ],
                "corpses": [{"lab": each.name, "processes": each.processes} for each in dead],
            },
        )
        return
    for name, (_, record) in labs.items():
        minutes, seconds = divmod(int(time.time() - record.since), 60)
        output.rows(
            f"lab {name}",
            ("lab", "state", "owner", "up", "file"),
            [(name, record.state, record.owner.pid, f"{minutes}:{seconds:02}", record.file)],
        )
        mdevs = found[name]
        if mdevs is None:
            output.say(f"lab {name!r}: its emulator does not answer")
        else:
            output.rows("", ("mdev", *COLUMNS), [row(mdev) for mdev in mdevs])
        if record.vms:
            output.rows(
                "",
                ("vm", "process", "state", "accelerator", "mdevs"),
                [
                    (
                        vm.name,
                        vm.process.pid if vm.process else "-",
                        _vm_state(vm),
                        vm.accelerator,
                        " ".join(vm.mdevs) or "-",
                    )
                    for vm in record.vms
                ],
            )
    for each in dead:
        output.say(f"lab {each.name!r}: its owner is dead; 'hostctl cleanup' removes the rest")
    if not labs and not dead:
        output.say("no lab is running")


def _vm_state(vm: runtime.VmRecord) -> str:
    if vm.process is None or not vm.process.alive:
        return "dead"
    return "ready" if vm.ready else "booting"


def _lab_facts(
    record: runtime.Record, folder: runtime.Folder, mdevs: list[Mdev] | None
) -> dict[str, object]:
    return {
        "name": record.name,
        "state": record.state,
        "file": record.file,
        "folder": str(folder.path),
        "owner": record.owner.pid,
        "since": record.since,
        "control": record.control,
        "emulator": record.emulator.pid if record.emulator else None,
        "mdevs": None
        if mdevs is None
        else [
            {
                "name": mdev.name,
                "uuid": mdev.uuid,
                "type": mdev.type,
                "pasid": mdev.pasid,
                "weight": mdev.weight,
                "hbm": {
                    "base": mdev.hbm_base,
                    "size": mdev.hbm_size,
                    "used": mdev.hbm_used,
                    "high_water": mdev.hbm_high_water,
                    "scrubbing": mdev.hbm_scrubbing,
                    "imported": mdev.hbm_imported,
                },
                "attached": mdev.attached,
            }
            for mdev in mdevs
        ],
        "vms": [
            {
                "name": vm.name,
                "pid": vm.process.pid if vm.process else None,
                "state": _vm_state(vm),
                "accelerator": vm.accelerator,
                "mdevs": vm.mdevs,
            }
            for vm in record.vms
        ],
    }


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what is there.")
@json_option
def cleanup(dry_run: bool, as_json: bool) -> None:
    """End and remove what labs with dead owners left behind; nobody else's processes."""
    output = Output(json=as_json)
    found = sweep.corpses()
    if not dry_run:
        for each in found:
            sweep.sweep(runtime.Folder(Path(each.folder)))
    if output.json:
        output.record(
            "cleanup",
            {
                "removed": not dry_run,
                "labs": [
                    {"name": each.name, "folder": each.folder, "processes": each.processes}
                    for each in found
                ],
            },
        )
        return
    for each in found:
        ended = ", ".join(f"{role} ({pid})" for role, pid in each.processes.items())
        output.line(f"{each.name}: {each.folder}" + (f"; {ended}" if ended else ""))
    if not found:
        output.say("nothing is left behind")
