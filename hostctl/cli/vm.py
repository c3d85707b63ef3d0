"""``hostctl run`` and ``hostctl vm``: what happens in one VM."""

import contextlib
import json
import os
import shlex
import sys
from typing import Any

import click

from guest.checks import CHECKS
from hostctl import runtime
from hostctl.cli.options import Commands, json_option, lab_option
from hostctl.errors import HostError
from hostctl.guest import Agent, AgentRefused
from hostctl.output import Output
from hostctl.vm.argv import pasteable
from hostctl.vm.qemu import MIGRATION_FIX, NO_MIGRATION
from mdevemu.errors import ConfigError, unknown

NOT_FOUND = 127  # a shell's exit status for a program that is not there


def find(lab: str | None, name: str) -> tuple[runtime.Folder, runtime.VmRecord]:
    """A VM of a running lab.

    Raises:
        ConfigError: there is none of that name.
    """
    folder, record = runtime.select(lab)
    for vm in record.vms:
        if vm.name == name:
            return folder, vm
    raise ConfigError("VM", unknown("VM", name, [vm.name for vm in record.vms]))


def _object(text: str) -> dict[str, Any]:
    """A JSON object from the command line."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise ConfigError("--arguments", f"not JSON: {wrong}") from None
    if not isinstance(given, dict):
        raise ConfigError("--arguments", f"{text!r} is no JSON object")
    return given


def _environment(given: tuple[str, ...]) -> dict[str, str]:
    """Variables from NAME=VALUE texts."""
    variables = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError("--env", f"{text!r} is no variable (accepted: NAME=VALUE)")
        variables[name] = value
    return variables


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("vm")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set a variable for it.")
@click.option("--cwd", metavar="PATH", help="Where in the guest it runs.")
@click.option("--timeout", type=float, help="Seconds after which it is killed; exit status 124.")
@lab_option
@json_option
def run(
    vm: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    cwd: str | None,
    timeout: float | None,
    lab: str | None,
    as_json: bool,
) -> int:
    """Run COMMAND in VM; its input, output and exit status are the guest's.

    With --json, its output is gathered into the JSON and it has no input.  While
    another command runs in that VM, it waits.
    """
    output = Output(json=as_json)
    folder, found = find(lab, vm)
    variables = _environment(env)

    def waiting() -> None:
        output.say(f"waiting for another hostctl that runs a command in {vm}")

    with folder.locked(vm, waiting), Agent(found.agent) as agent:
        try:
            if as_json:
                done = agent.run(command, env=variables, cwd=cwd, timeout=timeout)
                facts = {
                    "vm": vm,
                    "command": list(command),
                    "status": done.status,
                    "stdout": done.stdout.decode(errors="replace"),
                    "stderr": done.stderr.decode(errors="replace"),
                }
                output.record("run", facts)
                return done.status
            return agent.stream(
                command, pass_on, stdin=sys.stdin.fileno(), env=variables, cwd=cwd, timeout=timeout
            )
        except AgentRefused as refused:
            if refused.kind != "NotFound":
                raise
            output.say(refused.text)
            return NOT_FOUND


def pass_on(stream: str, data: bytes) -> None:
    """What the guest's command wrote, at once and unchanged."""
    out = sys.stdout if stream == "stdout" else sys.stderr
    while data:
        data = data[os.write(out.fileno(), data) :]


@click.group(cls=Commands)
def vm() -> None:
    """One VM of a lab."""


@vm.command("cmd")
@click.argument("name", metavar="VM")
@lab_option
@json_option
def command_line(name: str, lab: str | None, as_json: bool) -> None:
    """Print the exact command line that VM runs with, ready to paste."""
    _, found = find(lab, name)
    output = Output(json=as_json)
    if output.json:
        facts = {"vm": name, "argv": found.argv, "environment": found.environment}
        output.record("vm.cmd", facts)
    else:
        output.line(shlex.join(pasteable(found.argv, found.environment)))


@vm.command()
@click.argument("name", metavar="VM")
@click.argument("destination", metavar="URI", required=False)
@lab_option
def migrate(name: str, destination: str | None, lab: str | None) -> None:
    """Refuse to migrate VM: QEMU would leave the state of its mdevs behind, and not say so.

    Save its mdevs instead (mdev save), or move them between sockets (mdev move).
    """
    _, found = find(lab, name)
    raise HostError(f"{found.name} is not migrated: {NO_MIGRATION}", MIGRATION_FIX)


@vm.command()
@click.argument("name", metavar="VM")
@click.argument("check_name", metavar="CHECK", type=click.Choice(sorted(CHECKS)))
@click.option("--arguments", default="{}", metavar="JSON", help="What the check is asked for.")
@click.option(
    "--device",
    metavar="ADDRESS",
    help="PCI address, as 0000:01:00.0; needed if there are several mdevs.",
)
@click.option("--seconds", type=float, default=300, show_default=True, help="How long it may take.")
@lab_option
@json_option
def check(
    name: str,
    check_name: str,
    arguments: str,
    device: str | None,
    seconds: float,
    lab: str | None,
    as_json: bool,
) -> None:
    """Have the agent of VM run CHECK on the mdev there, and print what it found.

    identity is for every mdev, channels for I/OAT, the others for native.  The mdev is bound
    to vfio-pci for it, and given back afterwards.
    """
    folder, found = find(lab, name)
    output = Output(json=as_json)
    asked = _object(arguments)
    with folder.locked(name, lambda: None), Agent(found.agent) as agent:
        try:
            facts = agent.check(check_name, asked, device=device, timeout=seconds)
        finally:
            with contextlib.suppress(AgentRefused):  # it has none, or is not done with it
                agent.release(device)
    if output.json:
        output.record("vm.check", {"vm": name, "check": check_name, "facts": facts})
    else:
        output.line(json.dumps(facts, indent=2))
