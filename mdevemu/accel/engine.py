"""Hop 7, command to pieces of work: the engines of an accelerator.

What an engine does can be changed while others use it (an FPGA is given another
bitstream).  It then takes nothing new, what runs on it comes to an end as the policy
says, and it changes between two pieces of work.
"""

import enum
import errno
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

from mdevemu.accel.operations import OPERATIONS, Operation, Pieces, Status
from mdevemu.accel.route import Links, blocked, onward, passes
from mdevemu.accel.scheduler import Lane
from mdevemu.errors import CommandFault, ConfigError
from mdevemu.units import KIB


class Policy(enum.Enum):
    """What becomes of commands when their engine is to change.

    DRAIN: what runs ends, what comes waits for the change.  REJECT: what runs ends, what
    comes is refused.  KILL: what runs is aborted, and the change is at once.
    """

    DRAIN = "drain"
    REJECT = "reject"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Program:
    """What an engine is about to become; ``changed`` is called once it has."""

    operations: frozenset[Operation]
    policy: Policy
    changed: Callable[[], None]


@dataclass(eq=False)
class Engine:
    """Something that executes commands.

    Attributes:
        name: as in the accelerator's file.
        operations: what it can do.
        commands: how many it has begun.
        busy_ns: time it has worked, in nanoseconds.
        version: how often it was reprogrammed.
        program: what it is about to become; None if it stays as it is.
    """

    name: str
    operations: frozenset[Operation]
    commands: int = 0
    busy_ns: int = 0
    version: int = 0
    program: Program | None = None
    _uses: "dict[Use, None]" = field(default_factory=dict)
    _waiting: list[Lane] = field(default_factory=list)

    @property
    def functions(self) -> list[str]:
        """Names of what it can do, by their codes."""
        return named(self.operations)

    @property
    def running(self) -> int:
        """Commands that run on it."""
        return len(self._uses)

    def check(self, policy: Policy) -> None:
        """Refuse what ``reprogram`` would.

        Raises:
            ConfigError: it is being reprogrammed, and this would not end it (EBUSY).
        """
        if self.program is not None and policy is not Policy.KILL:
            wrong = f"{self.name} is being reprogrammed (accepted: kill)"
            raise ConfigError("engine", wrong, errno.EBUSY)

    def reprogram(self, program: Program) -> int:
        """Become something else, now or once what runs has ended; how many commands are aborted.

        Raises:
            ConfigError: as ``check`` says; nothing has changed.
        """
        self.check(program.policy)
        self.program = program
        aborted = list(self._uses) if program.policy is Policy.KILL else []
        for use in aborted:
            use.abort(self)
        self._look()
        return len(aborted)

    def begin(self, use: "Use") -> None:
        """A command uses it from now on."""
        assert self.program is None, f"{self.name} takes nothing new"
        self.commands += 1
        self._uses[use] = None

    def end(self, use: "Use") -> None:
        """A command uses it no more."""
        if self._uses.pop(use, self) is None:
            self._look()

    def wait(self, lane: Lane) -> None:
        """Wake a lane after the change."""
        self._waiting.append(lane)

    def leave(self, lane: Lane) -> None:
        """A lane waits no more."""
        if lane in self._waiting:
            self._waiting.remove(lane)

    def _look(self) -> None:
        """Change, if nothing runs any more."""
        if self.program is None or self._uses:
            return
        program, self.program = self.program, None
        self.operations = program.operations
        self.version += 1
        waiting, self._waiting = self._waiting, []
        for lane in waiting:
            lane.wake()
        program.changed()


class Use:
    """One command on its engine, until it ends, whichever way that is.

    Attributes:
        engine: where it runs.
    """

    def __init__(self, lane: Lane, engine: Engine) -> None:
        self.engine = engine
        self._lane = lane
        self._aborted = False
        self._pieces: Pieces | None = None
        engine.begin(self)
        lane.begun()

    def abort(self, engine: Engine) -> None:
        """Do no further piece: the engine has become something else."""
        assert self._pieces is not None, "it runs"
        self._aborted = True
        self._pieces.close()
        engine.end(self)
        self._lane.wake()

    def run(self, pieces: Pieces) -> Pieces:
        """Do the pieces on the engine.

        Raises:
            CommandFault: ABORTED; pieces that were done stay done.
            GuestFault: what a piece raises.
        """
        self._lane.meter = self.engine
        self._pieces = pieces
        try:
            result = yield from pieces
            if self._aborted:
                raise CommandFault(Status.ABORTED, f"{self.engine.name} was reprogrammed")
            return result
        finally:
            self.engine.end(self)


@dataclass
class Engines:
    """All engines of one accelerator, or those of a slice, and the links between them."""

    all: Sequence[Engine] = field(default_factory=list)
    links: Links = frozenset()

    @property
    def operations(self) -> frozenset[Operation]:
        """What at least one engine can do."""
        return frozenset[Operation]().union(*(engine.operations for engine in self.all))

    @property
    def version(self) -> int:
        """How often the set of what they can do was changed."""
        return sum(engine.version for engine in self.all)

    def able(self, operation: Operation) -> list[Engine]:
        """Engines that can do it."""
        return [engine for engine in self.all if operation in engine.operations]

    def unlinked(self, stages: Sequence[Operation]) -> int | None:
        """The stage that no engine does, or that none before it can pass data on to.

        None if there is a way through all stages.
        """
        able = [[engine.name for engine in self.able(each)] for each in stages]
        return blocked(able, self.links)

    def _able(
        self, operation: Operation, after: Engine | None, then: Sequence[Operation]
    ) -> list[Engine]:
        """Engines that can do it, that data can reach, and from which it can go on."""
        able = self.able(operation)
        if after is not None:
            able = [each for each in able if passes(after.name, each.name, self.links)]
        if then:
            names = [[each.name for each in each_able] for each_able in map(self.able, then)]
            first = onward([[each.name for each in able], *names], self.links)[0]
            able = [each for each in able if each.name in first]
        return able

    def take(
        self,
        operation: Operation,
        lane: Lane,
        *,
        after: Engine | None = None,
        then: Sequence[Operation] = (),
    ) -> Generator[int, None, Use | None]:
        """The engine for a lane's next command of this kind; None if no engine does it.

        Of those that can be taken, it is the one that has begun the fewest commands.
        Part of the lane's work: it waits if all that do it are about to change.  Stages of a
        chain name the engine ``after`` which they come, and what is to be done ``then``.

        Raises:
            CommandFault: REJECTED; all are, and what comes is to be refused.
        """
        while able := self._able(operation, after, then):
            ready = [engine for engine in able if engine.program is None]
            if ready:
                return Use(lane, min(ready, key=_begun))
            yield from self._wait(able, lane)
        return None

    def _wait(self, engines: list[Engine], lane: Lane) -> Generator[int, None, None]:
        """Wait until one of the engines has changed, if one lets us."""
        patient = [e for e in engines if e.program and e.program.policy is Policy.DRAIN]
        if not patient:
            name = engines[0].name
            raise CommandFault(Status.REJECTED, f"{name} is being reprogrammed")
        try:
            for engine in patient:
                engine.wait(lane)
            lane.park()
            yield KIB
        finally:
            for engine in patient:
                engine.leave(lane)


def _begun(engine: Engine) -> int:
    return engine.commands


def named(operations: Iterable[Operation]) -> list[str]:
    """Names of operations, by their codes."""
    return [each.name.lower() for each in sorted(operations)]


def coded(names: Iterable[str]) -> frozenset[Operation]:
    """Operations by their names, each a key of ``OPERATIONS``."""
    return frozenset(OPERATIONS[each].code for each in names)


def engine(name: str, names: Iterable[str]) -> Engine:
    """An engine that does the named operations."""
    return Engine(name, coded(names))
