"""A topology as a tree of text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hostctl.output import size
from hostctl.topology.facts import Topology


@dataclass(slots=True)
class _Node:
    """A line, and what is below it."""

    text: str
    below: list["_Node"] = field(default_factory=list)

    def add(self, text: str) -> "_Node":
        """One more line below."""
        self.below.append(_Node(text))
        return self.below[-1]


def as_tree(among: Iterable[Topology]) -> list[str]:
    """Lines: PCI roots, accelerators, and what each consists of."""
    roots: dict[str, _Node] = {}
    for topology in among:
        root = roots.setdefault(topology.root, _Node(topology.root))
        root.below.append(_accelerator(topology))
    return [line for root in roots.values() for line in (root.text, *_lines(root))]


def _accelerator(topology: Topology) -> _Node:
    top = _Node(f"{topology.address} {topology.name}, next to NUMA node {topology.node}")
    engines = top.add("engines")
    for engine in topology.engines:
        onto = sorted(to for source, to in topology.links if source == engine.name)
        links = f" -> {' '.join(onto)}" if onto else ""
        engines.add(f"{engine.name}: {' '.join(engine.operations) or 'nothing'}{links}")
    if topology.stacks:
        stacks = top.add("HBM")
        for stack in topology.stacks:
            part = stacks.add(f"{stack.name} {size(stack.size)}: {' '.join(stack.engines)}")
            for mdev in topology.mdevs:
                held = min(mdev.base + mdev.size, stack.base + stack.size)
                held -= max(mdev.base, stack.base)
                if held > 0:
                    part.add(f"{mdev.name}: {size(held)}")
    for title, rows in (
        ("chains", [f"{c.name}: {' > '.join(c.engines)}" for c in topology.chains]),
        (
            "groups",
            [
                f"{g.name}: {' '.join(g.engines)}, queues {' '.join(g.queues) or 'none'}"
                for g in topology.groups
            ],
        ),
        ("mdevs", [f"{mdev.name} {mdev.type}" for mdev in topology.mdevs]),
    ):
        if rows:
            part = top.add(title)
            for row in rows:
                part.add(row)
    return top


def _lines(node: _Node) -> Iterator[str]:
    for each in node.below:
        last = each is node.below[-1]
        yield f"{'└─' if last else '├─'} {each.text}"
        for line in _lines(each):
            yield f"{'  ' if last else '│ '} {line}"
