"""Processes: started so that they die with us, and recorded so that no stranger is killed."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hostctl.errors import HostError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def boot_id() -> str:
    """Names this boot of the machine: a pid and a start time mean nothing in another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process.

    A process that has ended and waits to be reaped counts as gone.
    """
    found = _stat(pid)
    return None if found is None or found[0] in "ZX" else found[1]


def _stat(pid: int) -> tuple[str, int] | None:
    """A process's state and start time; None if there is no such process.

    Spec: proc_pid_stat(5), fields 3 and 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is a file name in parentheses and may hold anything.
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, never mistaken for a later one that was given its number.

    Attributes:
        pid: its number.
        start: its start in clock ticks since boot.
        boot: the boot that both belong to.
    """

    pid: int
    start: int
    boot: str

    @property
    def alive(self) -> bool:
        """That very process still runs."""
        return self.boot == boot_id() and start_time(self.pid) == self.start

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if that process is gone already."""
        with _handle(self.pid) as handle:
            # Looked at through the handle's lifetime: the number cannot be reused any more.
            if handle is None or not self.alive:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            return True

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False if it still runs after ``seconds``."""
        with _handle(self.pid) as handle:
            if handle is None or not self.alive:
                return True
            return bool(select.select([handle], [], [], seconds)[0])

    def end(self, patience: float) -> bool:
        """End it: SIGTERM, then SIGKILL after ``patience`` seconds; False if it was gone."""
        if not self.send(signal.SIGTERM):
            return False
        if not self.wait(patience):
            self.send(signal.SIGKILL)
            self.wait(patience)
        return True


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    """A pidfd of a process, or None if there is no such process."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def identify(pid: int) -> Identity:
    """The identity of a process that runs, or that we have not reaped.

    Raises:
        HostError: there is no such process.
    """
    found = _stat(pid)
    if found is None:
        raise HostError(f"there is no process {pid}")
    return Identity(pid, found[1], boot_id())


def spawn(
    argv: Sequence[str],
    *,
    log: Path | None,
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a child that the kernel kills when we end, however that happens.

    It gets a process group of its own, so that Ctrl-C reaches it through us only.
    It must be started by the thread that lives longest: the kernel watches the
    thread, not the process.  ``log`` takes its stderr; without one, it has ours.

    Raises:
        HostError: the program cannot be started.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        # The parent may have ended before the kernel was asked to watch it.
        if os.getppid() != parent:
            os._exit(127)

    with contextlib.ExitStack() as files:
        stderr = files.enter_context(log.open("ab")) if log is not None else None
        try:
            return subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=None if environment is None else {**os.environ, **environment},
                process_group=0,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise HostError(f"{argv[0]} cannot be started: {error.strerror}") from None


def stop(child: subprocess.Popen[bytes], patience: float) -> int:
    """End a child of ours and reap it: SIGTERM, then SIGKILL after ``patience`` seconds.

    Returns its status as ``subprocess`` counts it.
    """
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    return child.wait()


def shortage(log: Path) -> str | None:
    """What to say of a log that cannot grow, since nobody who writes to it can; else None."""
    try:
        found = os.statvfs(log.parent)
    except OSError:
        return None
    # One that counts no blocks, as a ramfs, says nothing of them.
    if not found.f_blocks or (found.f_bfree if os.geteuid() == 0 else found.f_bavail):
        return None
    return f"(no space is left in {log.parent}: what came last may be missing)"


def tail(log: Path, lines: int = 12) -> list[str]:
    """The last lines of a log that may not exist; control characters are dropped.

    The first line says so if the log cannot grow.
    """
    try:
        text = log.read_bytes()[-16384:].decode(errors="replace")
    except FileNotFoundError:
        return []
    kept = ("".join(c for c in line if c.isprintable()).rstrip() for line in text.splitlines())
    short = shortage(log)
    return [*([short] if short else []), *[line for line in kept if line][-lines:]]


class Terminated(BaseException):
    """Somebody asked this process to end; like KeyboardInterrupt, it is no error.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Finish a block that must not be cut short: whoever wants us to end waits for it."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
