"""What a guest's kernel says on its serial console, by the host's clock.

The console is a file of the host's, so it can be read when the guest does nothing any more.
A line that we have the kernel print when we know the time tells its clock from ours.
"""

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"\[ *(\d+)\.(\d{6})\](?:\[ *[CT]\d+\])? (.*)")
_PREFIX = "mdevemu: test"
_PATIENCE = 2.0  # seconds that a line takes at most from the kernel to the file
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log.

    Attributes:
        time: nanoseconds of the host's monotonic clock.
        text: without the time.
    """

    time: int
    text: str


class KernelLog:
    """The log of one guest, from the last mark on.

    Attributes:
        console: the file.
    """

    def __init__(self, console: Path) -> None:
        self.console = console
        self._mark = ""
        self._from = 0  # bytes of the file that belong to earlier chapters
        self._offset = 0  # nanoseconds from the guest's clock to ours

    def mark(self, what: str) -> str:
        """The line that the kernel is to print now."""
        self._mark = f"{_PREFIX} {what[-200:]} {secrets.token_hex(4)}"
        self._from = self._size()
        return self._mark

    def marked(self, span: tuple[int, int]) -> None:
        """The line was printed within a span, (first, last) in nanoseconds."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            for at, text in self._stamped():
                if text == self._mark:
                    self._offset = sum(span) // 2 - at
                    return
            time.sleep(_PAUSE)

    def lines(self) -> list[Line]:
        """What was said since the mark."""
        found = [Line(at + self._offset, text) for at, text in self._stamped()]
        marks = [n for n, line in enumerate(found) if line.text == self._mark]
        return found[marks[-1] + 1 :] if marks else found

    def _size(self) -> int:
        try:
            return self.console.stat().st_size
        except FileNotFoundError:
            return 0

    def _stamped(self) -> Iterator[tuple[int, str]]:
        """Time in nanoseconds of the guest's, and text; programs' output has no time."""
        try:
            with self.console.open("rb") as file:
                file.seek(self._from)
                raw = file.read()
        except FileNotFoundError:
            return
        for line in raw.decode(errors="replace").splitlines():
            shown = "".join(c for c in line if c.isprintable() or c == "\t").rstrip()
            if match := _LINE.search(shown):
                yield int(match[1]) * 10**9 + int(match[2]) * 1000, match[3]
