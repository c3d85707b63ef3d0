"""The player: a C program, compiled on the spot, that talks to servers and to itself."""

import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from hostctl.errors import HostError, TimedOut
from hostctl.processes import spawn, stop, tail

SOURCE = Path(__file__).with_name("player.c")
COMPILERS = ("cc", "gcc", "clang")
_COMPILE_SECONDS = 60.0
_READY_SECONDS = 10.0
_PLAY_SECONDS = 120.0
_PATIENCE = 2.0
_READY = b"ready\n"


def compiler() -> str | None:
    """A C compiler of this machine, None if there is none."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


class Player:
    """The compiled program.

    Attributes:
        program: where it is.
    """

    def __init__(self, folder: Path, compiler: str) -> None:
        """Compile it into ``folder``.

        Raises:
            HostError: that did not work.
            TimedOut: it took too long.
        """
        self.program = folder / "player"
        self._log = folder / "player.log"
        argv = [compiler, "-O2", "-o", str(self.program), str(SOURCE)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            raise TimedOut("compilation of the baseline", _COMPILE_SECONDS) from None
        except OSError as error:
            raise HostError(f"{compiler} cannot be started: {error.strerror}") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise HostError(f"{compiler} cannot compile the baseline: {last}")

    def against(self, socket: str, script: str, times: int, core: int) -> "Playing":
        """Play ``times`` turns with the server at ``socket``."""
        return Playing(self, [str(core), str(times), socket], script, self._log)

    def alone(self, script: str, times: int, core: int, other: int) -> "Playing":
        """Play ``times`` turns with a mirror, which runs on the core ``other``."""
        return Playing(self, [str(core), str(times), "-", str(other)], script, self._log)


class Playing:
    """A player that is set up, and waits for ``go``."""

    def __init__(self, player: Player, arguments: Sequence[str], script: str, log: Path) -> None:
        """Start it, and wait until it is ready.

        Raises:
            HostError: what the other end did was not in the script.
            TimedOut: the other end says nothing.
        """
        self._log = log
        self._child = spawn(
            [str(player.program), *arguments],
            log=log,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._write(script.encode())
            if self._read(len(_READY), _READY_SECONDS) != _READY:
                raise self._failed()
        except BaseException:
            self.stop()
            raise

    def go(self) -> None:
        """Begin with the turns."""
        self._write(b"\n")

    def times(self) -> list[int]:
        """Wait for the end: when the first turn began, and when each was over, in nanoseconds.

        Raises:
            HostError: what the other end did was not in the script.
            TimedOut: it takes too long.
        """
        try:
            out, _ = self._child.communicate(timeout=_PLAY_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            raise TimedOut("a conversation of the bench", _PLAY_SECONDS) from None
        if self._child.returncode:
            raise self._failed()
        return [int(line) for line in out.split()]

    def stop(self) -> None:
        """End it, wherever it is."""
        stop(self._child, _PATIENCE)

    def _write(self, data: bytes) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its log says why
            self._child.stdin.write(data)
            self._child.stdin.flush()

    def _read(self, length: int, seconds: float) -> bytes:
        """Up to ``length`` bytes that it prints; fewer if it ended."""
        assert self._child.stdout is not None
        output, end, data = self._child.stdout.fileno(), time.monotonic() + seconds, b""
        while len(data) < length:
            if not select.select([output], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimedOut("set-up of a conversation of the bench", seconds)
            more = os.read(output, length - len(data))
            if not more:
                break
            data += more
        return data

    def _failed(self) -> HostError:
        last = (tail(self._log) or ["no message"])[-1]
        return HostError(f"the bench's conversation broke off: {last}")
