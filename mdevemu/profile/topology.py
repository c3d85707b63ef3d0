"""What of an accelerator lies where, as data: for whoever looks for a place, or draws it."""

from collections.abc import Mapping, Sequence

from mdevemu.accel.operations import OPERATIONS
from mdevemu.profile.spec import AcceleratorSpec
from mdevemu.profile.types import MdevType

FUNCTIONS = tuple(OPERATIONS)
"""What engines can do, by name."""


def reachable(spec: AcceleratorSpec, kind: MdevType) -> list[tuple[str, ...]]:
    """The engines that a slice of a type may have: one choice for each group of work queues."""
    if kind.work_queues:
        groups = dict.fromkeys(spec.work_queues[name].group for name in kind.work_queues)
        engines = {group.name: group.engines for group in spec.groups}
        return [engines[group] for group in groups]
    return [kind.engines or tuple(engine.name for engine in spec.engines)]


def topology(
    spec: AcceleratorSpec, operations: Mapping[str, Sequence[str]] | None = None
) -> dict[str, object]:
    """Where an accelerator is, and what it consists of: engines, HBM, links, types; in bytes.

    ``operations`` are what its engines can do now, by their names; without, what the
    profile says.
    """
    return {
        "name": spec.name,
        "address": spec.address,
        "root": spec.root,
        "numa-node": spec.numa_node,
        "engines": [
            {
                "name": engine.name,
                "operations": list((operations or {}).get(engine.name, engine.operations)),
            }
            for engine in spec.engines
        ],
        "stacks": [
            {
                "name": stack.name,
                "base": stack.base,
                "size": stack.size,
                "engines": list(stack.engines),
            }
            for stack in spec.stacks
        ],
        "links": [{"from": link.source, "to": link.target} for link in spec.links],
        "chains": [{"name": chain.name, "engines": list(chain.engines)} for chain in spec.chains],
        "groups": [
            {
                "name": group.name,
                "engines": list(group.engines),
                "queues": [q.name for q in spec.work_queues.values() if q.group == group.name],
            }
            for group in spec.groups
        ],
        "types": [
            {"id": kind.id, "engines": [list(each) for each in reachable(spec, kind)]}
            for kind in spec.types
        ],
    }
