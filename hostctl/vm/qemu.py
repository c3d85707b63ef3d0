"""QEMU processes of ours: started, watched, ended, and quoted when they fail."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hostctl.errors import GuestPanicked, HostError, TimedOut, VmError
from hostctl.processes import identify, spawn, stop, tail
from hostctl.qmp import Qmp
from hostctl.vm.argv import argv
from hostctl.vm.spec import Machine, Plan
from mdevemu.errors import ConfigError

_QMP_SECONDS = 20.0
_PATIENCE = 3.0
_PAUSE = 0.05
_CONSOLE_LINES = 30  # a panic's reason comes before its call trace
_HEALTHY = ("running", "prelaunch", "inmigrate")
_DEBUGGED = ("debug", "paused")  # states that a debugger may have a guest in
_PANIC = "Kernel panic - not syncing: "
_PANIC_LINES = 200  # that may follow a panic's reason


NO_MIGRATION = "QEMU moves the VM without the state of its vfio-user devices, and does not say so"
MIGRATION_FIX = "shut the VM down and start it elsewhere; 'mdev save' and 'mdev move' take the mdev"


class Vm:
    """A VM that we started.

    Attributes:
        plan: what it is made of.
        argv: its command line.
        identity: QEMU's process.
    """

    def __init__(self, plan: Plan, machine: Machine) -> None:
        """Start QEMU; it need not be ready when this returns.

        Raises:
            HostError: QEMU cannot be started.
        """
        self.plan = plan
        self.argv = argv(plan, machine)
        for stale in (plan.agent, plan.qmp, plan.console):
            stale.unlink(missing_ok=True)
        self._qmp: Qmp | None = None
        self._child = spawn(self.argv, log=plan.log, environment=machine.environment)
        self.identity = identify(self._child.pid)

    @property
    def status(self) -> int | None:
        """QEMU's exit status; None while it runs."""
        return self._child.poll()

    def evidence(self) -> dict[str, Sequence[str]]:
        """QEMU's last words, and the guest's."""
        return {
            "QEMU's stderr": tail(self.plan.log),
            "guest's console": tail(self.plan.console, _CONSOLE_LINES),
        }

    def failure(self, wrong: str, kind: type[VmError] = VmError) -> VmError:
        """What to say about it: command line, QEMU's last words, the guest's last words."""
        return kind(self.plan.name, wrong, self.argv, self.evidence())

    def late(self, what: str, seconds: float) -> TimedOut:
        """What to say if something was not done in time."""
        return TimedOut(f"{self.plan.name}: {what}", seconds, self.argv, self.evidence())

    def wait_ready(self, answers: Callable[[Path], bool], seconds: float) -> None:
        """Wait until ``answers`` says that the agent behind its socket does.

        Raises:
            VmError: QEMU ended, or stopped the guest.
            TimedOut: the agent did not answer in time; QEMU still runs.
        """
        end = time.monotonic() + seconds
        self._connect(end)
        while not answers(self.plan.agent):
            self._look()
            if time.monotonic() > end:
                raise self.late("boot, until the agent answers", seconds)
            time.sleep(_PAUSE)

    def wait_debugger(self, debugger: Path, seconds: float) -> None:
        """Wait until QEMU listens to a debugger.

        Raises:
            VmError: QEMU ended.
            TimedOut: it does not listen in time.
        """
        end = time.monotonic() + seconds
        while not debugger.exists():
            self._look()
            if time.monotonic() > end:
                raise self.late("the debugger's socket", seconds)
            time.sleep(_PAUSE)

    def _connect(self, end: float) -> None:
        """Connect to QEMU's monitor, which is there a moment after QEMU's start."""
        while self._qmp is None:
            self._look()
            try:
                self._qmp = Qmp(self.plan.qmp, "QEMU")
            except HostError:
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)

    def _look(self) -> None:
        """See whether QEMU and the guest are well."""
        if self.status is not None:
            raise self.ended()
        if self._qmp is None:
            return
        try:
            state = self._qmp.execute("query-status")
        except HostError:
            raise self.ended() from None
        healthy = _HEALTHY if self.plan.debugger is None else _HEALTHY + _DEBUGGED
        match state:
            case {"status": str(word)} if word not in healthy:
                raise self.failure(f"QEMU stopped the guest: {word}")

    def ended(self) -> VmError:
        """What to say of a QEMU that hung up, as it does just before it ends."""
        stop(self._child, _PATIENCE)
        panics = [line for line in tail(self.plan.console, _PANIC_LINES) if _PANIC in line]
        if panics:
            reason = panics[0].partition(_PANIC)[2]
            return self.failure(f"the guest's kernel panicked: {reason}", GuestPanicked)
        if self.status == 0:
            return self.failure("the guest turned itself off, or wanted to start again")
        return self.failure(f"QEMU ended with status {self.status}")

    def close(self) -> None:
        """End QEMU and reap it."""
        if self._qmp is not None:
            try:
                if self.status is None:
                    self._qmp.execute("quit")
            except (HostError, ConfigError):
                # It was about to go anyway, or must be made to; ``stop`` sees to both.
                pass
            self._qmp.close()
            self._qmp = None
        stop(self._child, _PATIENCE)
