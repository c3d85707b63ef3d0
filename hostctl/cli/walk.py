"""A walk as a tree: each entry, and under it how the second stage found it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from hostctl.iommu import Walk, WalkStep
from hostctl.output import Output, size

_SECOND = "second"


@dataclass
class _Node:
    """A line of the tree, and the lines under it."""

    text: Text
    below: list["_Node"] = field(default_factory=list)


def show_walk(output: Output, walk: Walk) -> None:
    """The walk, and how it ended; lines are never cut."""
    pasid = "no PASID" if walk.pasid is None else f"PASID {walk.pasid}"
    top = (
        f"{walk.mdev}  device {walk.device_id:#06x}  {pasid}  {walk.access} of iova {walk.iova:#x}"
    )
    output.console.print(Text(top))
    _print(output, [*_entries(walk), _Node(_end(walk))], "")
    if walk.stale:
        output.console.print(Text(f"stale: {_stale(walk)}", style="bold yellow"))


def _entries(walk: Walk) -> list[_Node]:
    """The entries of directories and first stage in order; second-stage ones are under them.

    Those behind the last entry are about the page itself, or about what was not found.
    """
    nodes: list[_Node] = []
    waiting: list[WalkStep] = []
    for step in walk.steps:
        if step.table == _SECOND:
            waiting.append(step)
            continue
        nodes.append(_Node(_entry(step), _second(waiting)))
        waiting = []
    return nodes + _second(waiting)


def _second(steps: Sequence[WalkStep]) -> list[_Node]:
    """Second-stage entries, under the guest-physical address that they translate."""
    nodes: list[_Node] = []
    last = None
    for step in steps:
        if not nodes or last is None or last.leaf or last.gpa != step.gpa:
            address = "" if step.gpa is None else f" {step.gpa:#x}"
            nodes.append(_Node(Text(f"gpa{address}")))
        nodes[-1].below.append(_Node(_entry(step)))
        last = step
    return nodes


def _entry(step: WalkStep) -> Text:
    gpa = f" (gpa {step.gpa:#x})" if step.gpa is not None and step.table != _SECOND else ""
    leaf = "  leaf" if step.leaf else ""
    return Text(
        f"{step.table} {step.level}  index {step.index}  at {step.address:#x}{gpa}: "
        f"{step.raw:#018x}  {' '.join(step.flags)}{leaf}"
    )


def _end(walk: Walk) -> Text:
    if walk.hpa is not None:
        return Text(f"hpa {walk.hpa:#x}  in a page of {size(walk.size)}", style="green")
    return Text(f"fault: cause {walk.cause} {walk.cause_name}, {walk.where}", style="bold red")


def _stale(walk: Walk) -> str:
    """What caches say that tables do not."""
    said = [f"the {name} cache holds an old context" for name in walk.outdated]
    if walk.cached is not None and walk.cached != walk.hpa:
        said.append(f"the IOTLB still leads to hpa {walk.cached:#x}")
    return "; ".join(said)


def _print(output: Output, nodes: Sequence[_Node], margin: str) -> None:
    for node in nodes:
        last = node is nodes[-1]
        branch = margin + ("└─ " if last else "├─ ")
        output.console.print(Text.assemble((branch, "dim"), node.text))
        _print(output, node.below, margin + ("   " if last else "│  "))
