"""``hostctl iommu``: what it refused, and how it translates."""

import dataclasses

import click
from rich.text import Text

from hostctl.cli.options import Commands, connected, emulator_options, json_option, number
from hostctl.control import Walk
from hostctl.errors import FINDING, OK
from hostctl.output import Output, size


@click.group(cls=Commands)
def iommu() -> None:
    """What the IOMMU refused, and how it translates."""


@iommu.command()
@click.option("--since", type=number, help="Only records after the one with this sequence number.")
@click.option("--mdev", metavar="NAME", help="Only records of one mdev.")
@emulator_options
@json_option
def faults(
    since: int | None, mdev: str | None, lab: str | None, control: str | None, as_json: bool
) -> None:
    """List the fault records, oldest first."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.faults(since, mdev)
    if output.json:
        output.record("iommu.faults", {"faults": [dataclasses.asdict(each) for each in found]})
        return
    output.rows(
        "",
        ("sequence", "mdev", "device id", "pasid", "access", "iova", "cause"),
        [
            (
                each.sequence,
                each.mdev or "-",
                f"{each.device_id:#06x}",
                "-" if each.pasid is None else each.pasid,
                each.kind,
                f"{each.iova:#x}",
                f"{each.cause} {each.cause_name}",
            )
            for each in found
        ],
    )


@iommu.command()
@click.argument("mdev", metavar="MDEV")
@click.argument("iova", type=number)
@emulator_options
@json_option
def walk(mdev: str, iova: int, lab: str | None, control: str | None, as_json: bool) -> int:
    """Show how IOVA is translated for MDEV, table by table; exit status 1 if it is not."""
    output = Output(json=as_json)
    with connected(lab, control) as emulator:
        found = emulator.walk(mdev, iova)
    if output.json:
        output.record("iommu.walk", dataclasses.asdict(found))
    else:
        _show(output, found)
    return OK if found.hpa is not None else FINDING


def _show(output: Output, walk: Walk) -> None:
    """The walk as a tree that gets deeper with each table; lines are never cut."""
    top = f"{walk.mdev}  device {walk.device_id:#06x}  PASID {walk.pasid}  iova {walk.iova:#x}"
    output.console.print(Text(top))
    for depth, step in enumerate(walk.steps):
        leaf = "  leaf" if step.leaf else ""
        line = (
            f"{step.table} {step.level}  index {step.index}  at {step.address:#x}: "
            f"{step.raw:#018x}  {' '.join(step.flags)}{leaf}"
        )
        output.console.print(Text.assemble((_branch(depth), "dim"), line))
    if walk.hpa is not None:
        end = Text(f"hpa {walk.hpa:#x}  in a page of {size(walk.size)}", style="green")
    else:
        end = Text(f"fault: cause {walk.cause} {walk.cause_name}", style="bold red")
    output.console.print(Text.assemble((_branch(len(walk.steps)), "dim"), end))


def _branch(depth: int) -> str:
    return "  " * depth + "└─ "
