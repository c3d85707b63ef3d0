"""Long work as phases with their times, for people while it goes on and for reports afterwards."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.status import Status
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Step:
    """A phase that has ended.

    Attributes:
        seconds: how long it took.
        note: what there is to say about its result.
    """

    name: str
    seconds: float
    note: str


class Note:
    """What a phase that goes on wants said when it has ended."""

    def __init__(self) -> None:
        self.text = ""

    def say(self, text: str) -> None:
        """Say this instead of what was to be said before."""
        self.text = text


class Steps:
    """Times phases and narrates them: a spinner on a terminal, one plain line each elsewhere.

    Attributes:
        done: phases that have ended, in order; one that failed is not among them.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` returns seconds."""
        self._console = console
        self._clock = clock
        self.done: list[Step] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Note]:
        """A phase; it ends with the block."""
        note = Note()
        start = self._clock()
        spinner = Status(Text(f"{name} ..."), console=self._console)
        if self._console.is_terminal:
            spinner.start()
        try:
            yield note
        except BaseException:
            spinner.stop()
            self._line("failed", self._clock() - start, name, "")
            raise
        spinner.stop()
        step = Step(name, self._clock() - start, note.text)
        self.done.append(step)
        self._line("ok", step.seconds, name, note.text)

    def _line(self, word: str, seconds: float, name: str, note: str) -> None:
        mark = Text(f"{word:>6}", style="green" if word == "ok" else "bold red")
        self._console.print(
            Text.assemble(mark, f"  {seconds:6.2f} s  {name}", (f"  {note}" if note else "", "dim"))
        )
