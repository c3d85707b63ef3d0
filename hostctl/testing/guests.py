"""A guest under test: commands with limits, its kernel's log by the host's clock, and its end."""

import contextlib
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hostctl.control import Mdev
from hostctl.errors import TimedOut, VmError
from hostctl.guest import AgentGone
from hostctl.processes import shortage
from hostctl.testing.kmsg import KernelLog
from hostctl.testing.moments import TEST, Moment, Moments
from hostctl.testing.wish import Wish
from hostctl.vm.modules import Module
from hostctl.vm.qemu import Vm
from hostctl.vm.run import Guest, Request

_LIFE = 7 * 86400.0
_ANSWER = 5.0  # seconds that a guest may take for next to nothing


class CommandFailed(AssertionError):
    """A command in the guest ended with a status that is not 0.

    Attributes:
        done: how it ended.
    """

    def __init__(self, vm: str, line: str, done: "Done") -> None:
        said = (done.stderr or done.stdout).strip()
        super().__init__(f"{vm}: {line}: status {done.status}" + (f"\n{said}" if said else ""))
        self.done = done


@dataclass(frozen=True, slots=True)
class Done:
    """How a command in the guest ended.

    Attributes:
        status: its exit status; 128 + the signal's number if a signal ended it.
        stdout, stderr: all that it wrote.
    """

    status: int
    stdout: str
    stderr: str


class VmUnderTest:
    """A VM whose guest has one mdev.

    Attributes:
        name: its own, and its mdev's.
        mdev: the mdev.
        wedged: why it is of no use any more; None while it is well.
    """

    def __init__(self, vm: Vm, mdev: Mdev, wish: Wish, request: Request, moments: Moments) -> None:
        """Connect to the agent, which answers."""
        self.name = vm.plan.name
        self.mdev = mdev
        self.wedged: str | None = None
        self._vm = vm
        self._wish = wish
        self._moments = moments
        self._guest = Guest(vm, request, time.monotonic() + _LIFE)
        self._log = KernelLog(vm.plan.console)

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        data: bytes = b"",
        seconds: float | None = None,
    ) -> Done:
        """Run a command, or a line of shell, to its end.

        Args:
            command: words; a text is for the shell.
            check: a status that is not 0 is an error.
            data: all that it can read.
            seconds: its limit; the marker's ``seconds`` if it is not given.

        Raises:
            CommandFailed: its status is not 0.
            AgentRefused: the guest has no such program.
            VmError: the guest did not live to its end.
            TimedOut: it did not end in time.
        """
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        line = command if isinstance(command, str) else shlex.join(command)
        with self._watched(line):
            limit = seconds or self._wish.seconds
            found = self._guest.run(words, data=data, seconds=limit)
            done = Done(
                found.status,
                found.stdout.decode(errors="replace"),
                found.stderr.decode(errors="replace"),
            )
            self._moments.add(TEST, f"{self.name}: status {done.status}: {line}")
        if check and done.status:
            raise CommandFailed(self.name, line, done)
        return done

    def load(self, module: str, *, seconds: float | None = None) -> None:
        """Load a module: a path that ends with .ko, or a name; then parameters, as for insmod.

        Raises:
            ConfigError: it is no such thing, or no module.
            ModuleRefused: the guest's kernel did not take it.
            VmError, TimedOut: as of ``run``.
        """
        with self._watched(f"load {module}"):
            found = Module.parse(module, debian=self._wish.kernel is None)
            self._guest.load(found, seconds or self._wish.seconds)

    def log(self) -> list[str]:
        """What the guest's kernel has said since the test began, without times."""
        return [line.text for line in self._log.lines()]

    def prepare(self) -> None:
        """Mount and load what the marker wants, once."""
        if self._wish.share is not None:
            with self._watched("mount of the shared folder"):
                self._guest.mount()
        for module in self._wish.modules:
            self.load(module, seconds=self._wish.boot_seconds)

    def begin(self, test: str) -> None:
        """See that the guest answers, and begin a chapter of its log.

        Raises:
            VmError, TimedOut: it does not.
        """
        with self._watched(f"begins {test}"):
            before = time.monotonic_ns()
            mark = self._log.mark(test)
            line = f"echo {shlex.quote(mark)} > /dev/kmsg"
            self._guest.run(["sh", "-c", line], seconds=_ANSWER)
            self._log.marked((before, time.monotonic_ns()))

    def told(self) -> list[Moment]:
        """What the guest's kernel has said since the test began, by the host's clock."""
        who = f"{self.name} log"
        found = [Moment(line.time, who, line.text) for line in self._log.lines()]
        short = shortage(self._log.console)
        return [*found, Moment(time.monotonic_ns(), who, short)] if short else found

    @contextlib.contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Have it in the story, and notice if the guest does not survive."""
        self._moments.add(TEST, f"{self.name}: {what}")
        try:
            yield
        except (VmError, AgentGone) as error:
            if self._vm.status is not None or isinstance(error, AgentGone):
                self.wedged = f"{what}: {_first(error)}"
            self._moments.add(TEST, f"{self.name}: {_first(error)}")
            raise
        except TimedOut as late:
            self._moments.add(TEST, f"{self.name}: not done after {late.waited:g} s: {what}")
            self._see(what, late)
            raise

    def _see(self, what: str, late: TimedOut) -> None:
        """See whether the guest does anything at all."""
        try:
            self._guest.agent.ping(timeout=_ANSWER)
        except (TimedOut, AgentGone):
            self.wedged = f"{what}: not done after {late.waited:g} s, and the guest is mute"

    def close(self) -> None:
        """Hang up; the VM is its lab's."""
        self._guest.agent.close()


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0]
