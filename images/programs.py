"""Programs to run on this machine: how to start them, and which QEMU it is."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from images.errors import HostError

QEMU = "qemu-system-x86_64"
OLDEST = (10, 1)
"""The first QEMU with a vfio-user client."""

DEVICE = "vfio-user-pci"


@dataclass(frozen=True)
class Program:
    """How to start a program.

    Attributes:
        argv_prefix: what comes before the program's own arguments.
        env: environment variables to add to those of the caller.
        origin: where it comes from, for a person.
    """

    argv_prefix: list[str]
    env: dict[str, str] = field(default_factory=dict)
    origin: str = ""

    def run(self, *arguments: str, **more: str) -> bytes:
        """Run it to its end; the bytes that it wrote to stdout.

        Args:
            arguments: its own arguments.
            more: environment variables besides ``env``.

        Raises:
            HostError: it did not start, or its exit status is not 0.
        """
        command = [*self.argv_prefix, *arguments]
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                env={**os.environ, **self.env, **more},
            ).stdout
        except OSError as error:
            raise HostError(
                f"{self.origin} does not start: {error}",
                "the private root runs on x86-64 Linux; remove it from the cache to fetch it anew",
            ) from error
        except subprocess.CalledProcessError as error:
            raise HostError(
                f"{self.origin} failed with exit status {error.returncode}",
                "remove the private root from the cache to fetch it anew",
                error.stderr.decode(errors="replace").strip(),
            ) from error


def version(text: str) -> tuple[int, int] | None:
    """(major, minor) of what ``qemu --version`` printed, or None if it is not a QEMU."""
    match = re.match(r"QEMU emulator version (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def unfit(program: Program) -> str | None:
    """Why this QEMU cannot be used, or None if it can."""
    try:
        found = version(program.run("--version").decode(errors="replace"))
        if found is None:
            return "it is not a QEMU"
        if found < OLDEST:
            return f"its version is {found[0]}.{found[1]}, needed is {OLDEST[0]}.{OLDEST[1]}"
        program.run("-device", f"{DEVICE},help")
    except HostError as error:
        return f"it lacks the device {DEVICE}" if "exit status" in error.wrong else error.wrong
    return None


def find_qemu(private: Callable[[], Program], path: str | None = None) -> Program:
    """The QEMU to use: the one on the PATH if it is fit, else the private root's.

    Args:
        private: gives the private root's QEMU, and fetches it if need be.
        path: folders to search, as in PATH; None for the environment's.

    Raises:
        HostError: whatever ``private`` raises.
    """
    place = shutil.which(QEMU, path=path)
    if place is not None:
        program = Program([str(Path(place).absolute())], {}, place)
        if unfit(program) is None:
            return program
    return private()
