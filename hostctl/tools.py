"""The emulator's commands that need no emulator running: each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping

from hostctl.errors import FINDING, OK, USAGE, HostError
from mdevemu.errors import ConfigError


def show(*arguments: str) -> int:
    """Run ``python -m mdevemu``, whose output is ours; OK or FINDING.

    Raises:
        ConfigError: it refused its arguments, or a file of them.
        HostError: it did not come to an end.
    """
    return _run(arguments, subprocess.PIPE, None).returncode


def facts(*arguments: str) -> tuple[int, Mapping[str, object]]:
    """Run ``python -m mdevemu``, told to speak JSON: OK or FINDING, and what it said.

    Raises:
        ConfigError: it refused its arguments, or a file of them.
        HostError: it did not come to an end.
    """
    done = _run(arguments, subprocess.PIPE, subprocess.PIPE)
    said: Mapping[str, object] = json.loads(done.stdout)
    return done.returncode, said


def _run(
    arguments: tuple[str, ...], errors: int | None, output: int | None
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "mdevemu", *arguments]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, text=True, check=False
    )
    if done.returncode in (OK, FINDING) and not done.stderr:
        return done
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode == USAGE:
        where, _, wrong = last.removeprefix("mdevemu: ").partition(": ")
        raise ConfigError(where, wrong)
    raise HostError(f"{' '.join(argv)} ended with {done.returncode}: {last}")
