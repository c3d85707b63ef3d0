"""Hop 7, command to pieces of work: the engines of an accelerator."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mdevemu.accel.operations import OPERATIONS, Operation


@dataclass(eq=False)
class Engine:
    """Something that executes commands.

    Attributes:
        name: as in the accelerator's file.
        operations: what it can do.
        commands: how many it has begun.
        busy_ns: time it has worked, in nanoseconds.
    """

    name: str
    operations: frozenset[Operation]
    commands: int = 0
    busy_ns: int = 0

    @property
    def functions(self) -> list[str]:
        """Names of what it can do, by their codes."""
        return [each.name.lower() for each in sorted(self.operations)]


@dataclass
class Engines:
    """All engines of one accelerator."""

    all: Sequence[Engine] = field(default_factory=list)

    @property
    def operations(self) -> frozenset[Operation]:
        """What at least one engine can do."""
        return frozenset[Operation]().union(*(engine.operations for engine in self.all))

    def pick(self, operation: Operation) -> Engine | None:
        """The engine that takes the next command of this kind: the one that has begun fewest."""
        able = (engine for engine in self.all if operation in engine.operations)
        return min(able, key=lambda engine: engine.commands, default=None)


def engine(name: str, operations: Iterable[str]) -> Engine:
    """An engine that does the named operations, each a key of ``OPERATIONS``."""
    return Engine(name, frozenset(OPERATIONS[each].code for each in operations))
