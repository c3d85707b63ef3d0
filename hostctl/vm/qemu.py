"""QEMU processes of ours: started, watched, ended, and quoted when they fail."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hostctl.errors import HostError, TimedOut, VmError
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

    def failure(self, wrong: str) -> VmError:
        """What to say about it: command line, QEMU's last words, the guest's last words."""
        logs: dict[str, Sequence[str]] = {
            "QEMU's stderr": tail(self.plan.log),
            "guest's console": tail(self.plan.console, _CONSOLE_LINES),
        }
        return VmError(self.plan.name, wrong, self.argv, logs)

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
                raise self._late(seconds)
            time.sleep(_PAUSE)

    def _late(self, seconds: float) -> TimedOut:
        said = self.failure("the agent does not answer")
        return TimedOut(f"boot of {said}", seconds)

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
            raise self._ended()
        if self._qmp is None:
            return
        try:
            state = self._qmp.execute("query-status")
        except HostError:
            stop(self._child, _PATIENCE)  # it hangs up just before it ends
            raise self._ended() from None
        match state:
            case {"status": str(word)} if word not in _HEALTHY:
                raise self.failure(f"QEMU stopped the guest: {word}")

    def _ended(self) -> VmError:
        """QEMU ended, although the agent has not answered yet."""
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
