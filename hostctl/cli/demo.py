"""``hostctl demo``: the whole thing in one command."""

import contextlib
import os
import secrets

import click

from hostctl.cli.options import json_option
from hostctl.demo import report
from hostctl.demo.facts import Facts
from hostctl.demo.play import Play
from hostctl.demo.stage import Processes, Stage, Vms
from hostctl.demo.verdict import judge
from hostctl.errors import FINDING, OK
from hostctl.guest import AgentRefused
from hostctl.lab import owned, raise_lab, renamed
from hostctl.machine import guest_machine, pick_accelerator
from hostctl.output import Output
from hostctl.spec import LabSpec, find_lab, read_lab
from hostctl.steps import Steps
from hostctl.vm.spec import Machine

_SEEDS = 1 << 32


@click.command()
@click.option("--no-vm", is_flag=True, help="Drive the slices from processes; no QEMU, no image.")
@click.option("--seed", type=int, help="What all randomness comes from; a random one otherwise.")
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    help="How QEMU runs guests; auto tries KVM.",
)
@json_option
def demo(no_vm: bool, seed: int | None, accel: str, as_json: bool) -> int:
    """Slice an accelerator for two tenants, and see whether they stay apart.

    Exit status 0 only if every claim held.
    """
    output = Output(json=as_json)
    steps = Steps(output.narration)
    # A demo of its own for everybody: several can run at the same time.
    spec = renamed(read_lab(find_lab("demo")), f"demo-{os.getpid()}")
    machine, accelerator = None, "tcg"
    if not no_vm:
        with steps("set-up"):
            machine = guest_machine(output)
            accelerator = pick_accelerator(machine, accel, output)
    facts = _perform(spec, steps, machine, accelerator, seed)
    judgements = judge(facts)
    if as_json:
        output.record("demo", report.as_json(facts, judgements))
    else:
        report.show(facts, judgements, output)
    held = all(judgement.held for judgement in judgements)
    output.say("every claim held" if held else "NOT every claim held")
    if not held:
        again = " --no-vm" if no_vm else ""
        output.say(f"reproduce: hostctl demo{again} --seed {facts.seed}")
    return OK if held else FINDING


def _perform(
    spec: LabSpec, steps: Steps, machine: Machine | None, accelerator: str, seed: int | None
) -> Facts:
    """Bring the lab up, play, and take it down.

    Raises:
        MdevError: something else than a device failed.
    """
    with owned(spec) as lab:
        raise_lab(lab, steps, machine, accelerator)
        stage: Stage = Processes(lab) if machine is None else Vms(lab, accelerator)
        with contextlib.closing(stage):
            play = Play(lab, stage, steps, secrets.randbelow(_SEEDS) if seed is None else seed)
            try:
                play.perform()
            except AgentRefused as refused:
                # What a device did wrong is what the demo is about: it is judged.
                play.facts.stopped = str(refused)
    play.facts.steps = steps.done
    return play.facts
