"""stdout is data, stderr is narration."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

SCHEMA = "mdevemu.hostctl"
_WIDEST = 1000  # columns


def size(number: int) -> str:
    """Bytes for people: the largest unit that leaves no remainder, else rounded MiB."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= scale and number % scale == 0:
            return f"{number // scale} {unit}"
    return f"{number} B" if number < 1 << 20 else f"{number / (1 << 20):.1f} MiB"


class Output:
    """What one command says.

    Attributes:
        json: data goes out as JSON, with a ``schema`` field.
        console: stdout.
        narration: stderr; without colours unless it is a terminal.
        err: stderr itself.
    """

    def __init__(
        self, *, json: bool = False, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.json = json
        self.console = Console(file=out or sys.stdout, highlight=False, soft_wrap=True)
        self.err = err or sys.stderr
        self.narration = Console(file=self.err, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Narrate one line."""
        self.narration.print(Text(line))

    def line(self, text: str) -> None:
        """One line of data for people and pipes."""
        print(text, file=self.console.file, flush=True)

    def text(self, text: Text) -> None:
        """One line of data, with its colours on a terminal."""
        self.console.print(text)

    def record(self, name: str, facts: Mapping[str, object]) -> None:
        """Data as JSON; ``name`` and version 1 make its schema."""
        text = json.dumps({"schema": f"{SCHEMA}.{name}/1", **facts}, indent=1)
        print(text, file=self.console.file, flush=True)

    def event(self, name: str, facts: Mapping[str, object]) -> None:
        """Data as one line of JSON, for those that come one after the other."""
        text = json.dumps({"schema": f"{SCHEMA}.{name}/1", **facts})
        print(text, file=self.console.file, flush=True)

    def rows(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table on a terminal, aligned plain text elsewhere."""
        texts = [[str(cell) for cell in row] for row in rows]
        if self.console.is_terminal:
            table = Table(
                title=title or None,
                title_justify="left",
                title_style="bold",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
            )
            for at, column in enumerate(columns):
                table.add_column(column, justify="right" if _numeric(texts, at) else "left")
            for row in texts:
                table.add_row(*(Text(cell) for cell in row))
            self.show(table)
            return
        widths = [max(map(len, cells)) for cells in zip(columns, *texts, strict=True)]
        for row in ([column.upper() for column in columns], *texts):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line("  ".join(cells).rstrip())

    def show(self, table: Table) -> None:
        """A table, on a terminal; one that is too narrow breaks lines, and no data is left out."""
        console, before = self.console, self.console.width
        wide = console.options.update(max_width=_WIDEST)
        console.width = max(before, Measurement.get(console, wide, table).maximum)
        console.print(table)
        console.width = before


def _numeric(rows: Sequence[Sequence[str]], at: int) -> bool:
    """Every cell of the column starts with a digit."""
    return bool(rows) and all(row[at][:1].isdigit() for row in rows)
