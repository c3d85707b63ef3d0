"""hostctl as its users have it: a command, with a runtime folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).parents[3]
_PATIENCE = 60.0


class Hostctl:
    """Runs commands; what they start is theirs to take down.

    Attributes:
        runtime: the folder that holds their labs.
    """

    def __init__(self, runtime: Path, **environment: str) -> None:
        self.runtime = runtime
        path = f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        given = {"XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": path, "COLUMNS": "100"}
        self._environment = {**os.environ, **given, **environment}

    def argv(self, *arguments: str) -> list[str]:
        """The command line of a command."""
        return [sys.executable, "-m", "hostctl", *arguments]

    def run(
        self, *arguments: str, data: str | None = None, timeout: float = _PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.argv(*arguments),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=timeout,
        )

    def facts(self, *arguments: str, timeout: float = _PATIENCE) -> dict[str, Any]:
        """What a command that succeeds says as JSON."""
        done = self.run(*arguments, "--json", timeout=timeout)
        assert done.returncode == 0, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout)
        return facts

    def start(self, *arguments: str, into: IO[str] | None = None) -> subprocess.Popen[str]:
        """Start a command in a process group of its own; ``into`` gets its output."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=into or subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )

    def up(self, lab: str, *arguments: str) -> "Session":
        """``hostctl up``, once the lab is up."""
        process = self.start("up", lab, *arguments, "--json")
        assert process.stdout is not None
        text = ""
        # One JSON object over several lines; no text in it holds a brace.
        while not text or text.count("{") != text.count("}"):
            line = process.stdout.readline()
            if not line:
                said = process.communicate(timeout=_PATIENCE)[1]
                raise AssertionError(f"{lab} did not come up:\n{said}")
            text += line
        return Session(process, json.loads(text))

    def leftovers(self) -> list[str]:
        """Command lines of processes that still run with sockets in the runtime folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(self.runtime) in line:
                found.append(line)
        return found

    def left_nothing(self, seconds: float = 10.0) -> bool:
        """Every process of a lab ends in time, and every folder of one is gone."""
        folder = self.runtime / "mdevemu"
        return until(lambda: not self.leftovers() and not list(folder.glob("*")), seconds)


class Session:
    """``hostctl up`` in the foreground.

    Attributes:
        process: it.
        facts: what it said when the lab was up.
        said: its narration, once it ended.
    """

    def __init__(self, process: subprocess.Popen[str], facts: dict[str, Any]) -> None:
        self.process = process
        self.facts = facts
        self.said = ""

    def interrupt(self) -> int:
        """Ctrl-C; returns its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status, once it ended."""
        self.said = self.process.communicate(timeout=seconds)[1]
        return self.process.returncode

    def close(self) -> None:
        """End it, if a test did not."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=30)


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
