"""Narration of long work on stderr: a bar on a terminal, one plain line per phase elsewhere."""

import sys
import time
from typing import Protocol, TextIO


class Progress(Protocol):
    """Whoever wants to know how far the work is."""

    def phase(self, name: str) -> None:
        """A new phase begins; the one before it is done."""

    def advance(self, share: float, note: str = "") -> None:
        """``share`` of the phase is done, 0.0 to 1.0."""

    def done(self) -> None:
        """The last phase is done."""


class Silent:
    """Nobody wants to know."""

    def phase(self, name: str) -> None:
        """See `Progress`."""

    def advance(self, share: float, note: str = "") -> None:
        """See `Progress`."""

    def done(self) -> None:
        """See `Progress`."""


class Console:
    """Progress for a person: phases with the time they took, a bar if it is a terminal."""

    WIDTH = 28
    """Characters of the bar."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._name = ""
        self._start = 0.0
        self._drawn = 0.0

    def phase(self, name: str) -> None:
        """See `Progress`."""
        self.done()
        self._name, self._start, self._drawn = name, time.monotonic(), 0.0
        if self._terminal:
            self.advance(0.0)
        else:
            print(f"{name} ...", file=self._stream, flush=True)

    def advance(self, share: float, note: str = "") -> None:
        """See `Progress`; drawn at most ten times a second."""
        now = time.monotonic()
        if not self._terminal or now - self._drawn < 0.1:
            return
        self._drawn = now
        filled = round(min(max(share, 0.0), 1.0) * self.WIDTH)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        line = f"\r{self._name}  [{bar}] {share:4.0%} {now - self._start:5.1f} s  {note[:32]}"
        self._stream.write(f"{line}\x1b[K")
        self._stream.flush()

    def done(self) -> None:
        """See `Progress`."""
        if not self._name:
            return
        took = time.monotonic() - self._start
        start, end = ("\r", "\x1b[K\n") if self._terminal else ("", "\n")
        self._stream.write(f"{start}{self._name}: done in {took:.1f} s{end}")
        self._stream.flush()
        self._name = ""
