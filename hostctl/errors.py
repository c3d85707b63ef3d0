"""What can go wrong on the host, sorted by who is to blame, and the exit status of each.

    ConfigError   the operator: a file, a key or an argument (see ``mdevemu.errors``)
    HostError     the machine: something is missing, too old, or does not work
    VmError       the VM process or the guest in it; GuestPanicked and ModuleRefused say more
    TimedOut      nobody in particular: it took too long

``hostctl.cli.main`` catches them, in one place.
"""

import shlex
from collections.abc import Mapping, Sequence

from mdevemu.errors import ConfigError, MdevError

OK = 0
FINDING = 1
USAGE = 2
ENVIRONMENT = 3
DEVICE = 4
TIMEOUT = 124
INTERRUPTED = 130


class HostError(MdevError):
    """This machine cannot do it.

    Attributes:
        wrong: what is missing or does not work.
        fix: what the operator can do about it; empty if there is nothing to say.
    """

    def __init__(self, wrong: str, fix: str = "") -> None:
        super().__init__(f"{wrong}\n  fix: {fix}" if fix else wrong)
        self.wrong = wrong
        self.fix = fix


class VmError(MdevError):
    """A VM, or the agent in its guest, failed.

    Attributes:
        name: the VM.
        wrong: what happened.
        argv: the command line that started it; empty if it is not known.
        evidence: the last lines of its logs, by the log's name.
    """

    def __init__(
        self,
        name: str,
        wrong: str,
        argv: Sequence[str] = (),
        evidence: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name = name
        self.wrong = wrong
        self.argv = tuple(argv)
        self.evidence = _kept(evidence)
        super().__init__(_report(f"{name}: {wrong}", self.evidence, argv))


class GuestPanicked(VmError):
    """The guest's kernel gave up."""


class ModuleRefused(VmError):
    """The guest's kernel did not take a module."""


class TimedOut(MdevError):
    """Something was not done when its time was over; what it left behind is as it was.

    Attributes:
        what: was waited for.
        waited: seconds.
        evidence: as in `VmError`, of the VM that kept us waiting.
    """

    def __init__(
        self,
        what: str,
        waited: float,
        argv: Sequence[str] = (),
        evidence: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.what = what
        self.waited = waited
        self.evidence = _kept(evidence)
        super().__init__(_report(f"{what}: not done after {waited:g} s", self.evidence, argv))


def _kept(evidence: Mapping[str, Sequence[str]] | None) -> Mapping[str, Sequence[str]]:
    return {log: tuple(lines) for log, lines in (evidence or {}).items()}


def _report(headline: str, evidence: Mapping[str, Sequence[str]], argv: Sequence[str]) -> str:
    """What happened, the last lines of logs that have any, and how to see it again."""
    text = [headline]
    for log, lines in evidence.items():
        if lines:
            text += [f"  {log}:", *(f"    {line}" for line in lines)]
    if argv:
        text.append(f"  reproduce: {shlex.join(argv)}")
    return "\n".join(text)


_STATUSES: tuple[tuple[type[MdevError], int], ...] = (
    (ConfigError, USAGE),
    (HostError, ENVIRONMENT),
    (TimedOut, TIMEOUT),
    (MdevError, DEVICE),
)


def exit_status(error: MdevError) -> int:
    """The exit status that tells a script who is to blame."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))
