"""Engines that become something else while slices work: on request, and who is told."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mdevemu.accel.engine import Engine, Policy, Program, coded
from mdevemu.accel.operations import OPERATIONS
from mdevemu.control import Argument, Command
from mdevemu.errors import ConfigError, unknown
from mdevemu.mdev import programs
from mdevemu.mdev.parent import Parent

REPROGRAMMED = "ENGINE_REPROGRAMMED"

Facts = dict[str, object]


class Reprogramming:
    """Changes what engines of one accelerator can do."""

    def __init__(
        self,
        parent: Parent,
        tell: Callable[[str, Mapping[str, object]], None],
        kept: Path | None = None,
    ) -> None:
        """``tell`` gets the name and the facts of each event for control clients.

        What engines were reprogrammed to in the run before is in the file ``kept``, if it is
        kept at all; they do that from now on.

        Raises:
            ConfigError: the file cannot be used; no engine has changed.
        """
        self._parent = parent
        self._tell = tell
        self._kept = kept
        if kept is not None:
            programs.restore(kept, parent.engines.all)

    def commands(self) -> list[Command]:
        """Commands of the control socket."""
        return [
            Command("query-engines", self._query),
            Command(
                "reprogram-engine",
                self._reprogram,
                [Argument("engine"), Argument("operations", "[str]"), Argument("policy")],
            ),
        ]

    def _query(self) -> list[Facts]:
        return [self._show(engine) for engine in self._parent.engines.all]

    def _show(self, engine: Engine) -> Facts:
        program = engine.program
        return {
            "name": engine.name,
            "operations": engine.functions,
            "version": engine.version,
            "running": engine.running,
            "changing": program and program.policy.value,
            "mdevs": [
                mdev.name
                for mdev in self._parent.mdevs.values()
                if engine in mdev.personality.slice.engines.all
            ],
        }

    def _reprogram(self, engine: str, operations: list[str], policy: str) -> Facts:
        known = {each.name: each for each in self._parent.engines.all}
        policies = {each.value: each for each in Policy}
        if engine not in known:
            raise ConfigError("engine", unknown("engine", engine, known))
        if policy not in policies:
            raise ConfigError("policy", unknown("policy", policy, policies))
        for name in operations:
            if name not in OPERATIONS:
                raise ConfigError("operations", unknown("operation", name, OPERATIONS))
        found = known[engine]
        found.check(policies[policy])
        if self._kept is not None:
            programs.keep(self._kept, self._parent.engines.all, found, operations)
        program = Program(coded(operations), policies[policy], lambda: self._changed(found))
        self._parent.trace.emit(
            "engine.reprogram", engine=engine, operations=operations, policy=policy
        )
        aborted = found.reprogram(program)
        return {"aborted": aborted, **self._show(found)}

    def _changed(self, engine: Engine) -> None:
        """Tell the drivers of those slices that have the engine, and nobody else's."""
        for mdev in self._parent.mdevs.values():
            if engine in mdev.personality.slice.engines.all:
                mdev.personality.functions_changed()
        self._tell(REPROGRAMMED, self._show(engine))
