"""The emulator as a child process."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hostctl.control import Control, nonsense
from hostctl.errors import TimedOut, VmError
from hostctl.processes import Identity, identify, spawn, stop, tail
from hostctl.tables import Table
from mdevemu.errors import ConfigError

_READY_SECONDS = 15.0
_PATIENCE = 3.0
_REFUSED = 2


def command_line(
    profile: Path, runtime: Path, root: Path | None = None, parent: int | None = None
) -> list[str]:
    """How the emulator of an accelerator is started.

    Its definitions are below ``root``; it ends with process ``parent``.
    """
    line = [sys.executable, "-m", "mdevemu", "serve", str(profile), "--runtime", str(runtime)]
    if root is not None:
        line += ["--root", str(root)]
    return line if parent is None else [*line, "--parent", str(parent)]


class Emulator:
    """An emulator that we started.

    Attributes:
        argv: its command line.
        identity: its process.
        control_path: its control socket.
    """

    def __init__(
        self, profile: Path, runtime: Path, log: Path, parent: int, root: Path | None = None
    ) -> None:
        """Start it and wait until it is ready; its stderr goes to ``log``.

        Its definitions are below ``root``.

        Raises:
            ConfigError: it refused the profile.
            HostError, VmError, TimedOut: it did not start; it is gone again.
        """
        self.argv = command_line(profile, runtime, root, parent)
        self._log = log
        self._control: Control | None = None
        self._child = spawn(self.argv, log=log, stdout=subprocess.PIPE)
        try:
            self.identity: Identity = identify(self._child.pid)
            assert self._child.stdout is not None
            self.control_path = self._ready(self._child.stdout)
        except BaseException:
            stop(self._child, _PATIENCE)
            raise

    def _ready(self, stdout: IO[bytes]) -> str:
        """Wait for the line that says so; returns the path of the control socket."""
        end = time.monotonic() + _READY_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimedOut("start of the emulator", _READY_SECONDS)
            more = os.read(stdout.fileno(), 4096)
            if not more:
                raise self._failed(self._child.wait())
            line += more
        try:
            return Table("ready", json.loads(line), nonsense).text("control")
        except ValueError:
            raise nonsense("ready", "is not JSON") from None

    def _failed(self, status: int) -> Exception:
        """Why it ended before it was ready."""
        lines = tail(self._log)
        if status == _REFUSED and lines:
            where, _, wrong = lines[-1].removeprefix("mdevemu: ").partition(": ")
            return ConfigError(where, wrong) if wrong else ConfigError("accelerator", where)
        return VmError(
            "emulator", f"ended with status {status} before it was ready", self.argv, {"log": lines}
        )

    @property
    def control(self) -> Control:
        """Its control socket, connected.

        Raises:
            HostError: it does not answer.
        """
        if self._control is None:
            self._control = Control(self.control_path)
        return self._control

    def hang_up(self) -> None:
        """Close our connection to the control socket; the next use makes a new one."""
        if self._control is not None:
            self._control.close()
            self._control = None

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._child.poll()

    def evidence(self) -> dict[str, Sequence[str]]:
        """The last lines of its log."""
        return {"emulator's log": tail(self._log)}

    def close(self) -> None:
        """End it and reap it."""
        self.hang_up()
        stop(self._child, _PATIENCE)
