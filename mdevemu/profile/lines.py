"""Where in a TOML file a key is, which the standard library's reader does not tell."""

import tomllib
from collections.abc import Mapping
from typing import Any

Path = tuple[str | int, ...]
"""Keys from the top of a file down; a number counts tables of one name, from 0."""

LONGEST_STATEMENT = 500
"""Lines of one statement that are looked at; a longer one is found by its first line only."""


class Lines:
    """Line numbers of a file that is TOML."""

    def __init__(self, text: str) -> None:
        """Look at each statement on its own; ``text`` was read as TOML before."""
        self._found: dict[Path, int] = {(): 1}
        self._here: Path = ()
        self._counts: dict[Path, int] = {}
        lines = text.split("\n")
        at = 0
        while at < len(lines):
            statement, used = _statement(lines[at : at + LONGEST_STATEMENT])
            if lines[at].lstrip().startswith("["):
                self._enter(statement, at + 1)
            else:
                self._note(self._here, statement, at + 1)
            at += used

    def of(self, path: Path) -> int:
        """The line of a key, counted from 1; of the nearest table around it if it is not there."""
        while path not in self._found:
            path = path[:-1]
        return self._found[path]

    def _enter(self, statement: Mapping[str, Any], line: int) -> None:
        """A header: what follows is in its table, the last one of each name on the way."""
        path: Path = ()
        inner: Any = statement
        while isinstance(inner, dict) and inner:
            ((key, inner),) = inner.items()
            path = (*path, key)
            self._found.setdefault(path, line)
            if isinstance(inner, list):
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
        self._here = path
        self._found.setdefault(path, line)

    def _note(self, around: Path, found: Mapping[str, Any], line: int) -> None:
        for key, value in found.items():
            self._found.setdefault((*around, key), line)
            if isinstance(value, dict):
                self._note((*around, key), value, line)


def _statement(lines: list[str]) -> tuple[Mapping[str, Any], int]:
    """The statement that begins on the first line, and how many lines it has."""
    for count in range(1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[:count])), count
        except (ValueError, RecursionError):
            continue
    return {}, 1
