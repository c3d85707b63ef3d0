"""One table of a profile, taken apart key by key; every refusal names file, line, table and key."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdevemu.accel.hbm import GRANULE
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.profile.lines import Path
from mdevemu.units import GIB, KIB, MIB

MAX_HBM = 64 * GIB
SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
SIZE = re.compile(rf"(?P<number>[0-9]{{1,20}}) ?(?P<unit>{'|'.join(SIZES)})")
NAME_CHARACTERS = "letters, digits, '-', '_', '.'"

Locate = Callable[[Path], int | None]
"""The line of a key, counted from 1; None where there are no lines."""


def is_name(text: str) -> bool:
    """It has only characters that a name may have, and something to pronounce."""
    return text.replace("-", "").replace("_", "").replace(".", "").isalnum()


@dataclass(frozen=True, slots=True)
class File:
    """What a refusal calls a file, and where its keys are."""

    name: str
    locate: Locate = lambda path: None

    def refuse(self, path: Path, where: str, wrong: str) -> ConfigError:
        """A refusal; ``where`` names the place in the file for people."""
        line = self.locate(path)
        name = self.name if line is None else f"{self.name}:{line}"
        return ConfigError(f"{name}: {where}" if where else name, wrong)


class Table:
    """One table of a file."""

    def __init__(
        self, file: File, path: Path, given: Mapping[str, Any], accepted: frozenset[str]
    ) -> None:
        """The table at ``path``: ``(name,)``, or ``(name, number)`` for one of several.

        Raises:
            ConfigError: it has a key that is not accepted.
        """
        self._file = file
        self._path = path
        self._given = given
        number = f" {int(path[1]) + 1}" if len(path) > 1 else ""
        self._title = f"[[{path[0]}]]{number}" if number else f"[{path[0]}]"
        for key in given:
            if key not in accepted:
                raise file.refuse((*path, key), self._title, unknown("key", key, accepted))

    def text(self, key: str, default: str | None = None) -> str:
        """A string that is not empty."""
        value = self._get(key, default)
        if not isinstance(value, str) or (not value and default is None):
            raise self.wrong(key, f"{shown(value)} is not a text")
        return value

    def name(self, key: str) -> str:
        """A name: letters, digits, '-', '_' and '.'."""
        value = self.text(key)
        if not is_name(value):
            raise self.wrong(key, f"{shown(value)} (accepted: {NAME_CHARACTERS})")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._get(key, default)
        if not _is_number(value, low, high):
            raise self.wrong(key, f"{shown(value)} (accepted: a whole number from {low} to {high})")
        return int(value)

    def optional_number(self, key: str, low: int, high: int) -> int | None:
        """A whole number from ``low`` to ``high``, or None where the key is not given."""
        return self.number(key, low, high) if self.has(key) else None

    def numbers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """A list of different whole numbers from ``low`` to ``high``, not empty."""
        value = self._get(key, None)
        if not isinstance(value, list) or not value:
            raise self.wrong(key, f"{shown(value)} (accepted: a list of whole numbers)")
        for at, each in enumerate(value):
            if not _is_number(each, low, high):
                raise self.wrong(key, f"{shown(each)} (accepted: {low} to {high})")
            if each in value[:at]:
                raise self.wrong(key, f"{each} is there twice")
        return tuple(value)

    def size(self, key: str, default: int | None = None) -> int:
        """Bytes up to ``MAX_HBM``, written as a number or as "64MiB"; a multiple of 2 MiB."""
        accepted = f"a multiple of 2 MiB up to {MAX_HBM // GIB} GiB, as '64MiB'"
        value = self._bytes(key, default, accepted)
        if not 0 <= value <= MAX_HBM or value % GRANULE:
            raise self._not_accepted(key, accepted)
        return value

    def power(self, key: str, sizes: Sequence[int]) -> int:
        """Bytes, written as a number or as "64KiB"; one of ``sizes``, all powers of two."""
        accepted = f"a power of two from {sizes[0]} to {sizes[-1]} bytes, as '64KiB'"
        value = self._bytes(key, None, accepted)
        if value not in sizes:
            raise self._not_accepted(key, accepted)
        return value

    def _bytes(self, key: str, default: int | None, accepted: str) -> int:
        value = self._get(key, default)
        found = SIZE.fullmatch(value) if isinstance(value, str) else None
        if found:
            value = int(found["number"]) * SIZES[found["unit"]]
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._not_accepted(key, accepted)
        return value

    def _not_accepted(self, key: str, accepted: str) -> ConfigError:
        return self.wrong(key, f"{shown(self._given[key])} (accepted: {accepted})")

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{shown(value)} (accepted: true, false)")
        return value

    def choice(self, key: str, accepted: Mapping[str, Any], default: str | None) -> str:
        """One of the accepted names."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in accepted:
            raise self.wrong(key, unknown("value", value, accepted))
        return value

    def choices(self, key: str, accepted: Mapping[str, Any]) -> tuple[str, ...]:
        """A list of accepted names, not empty."""
        value = self._get(key, None)
        if not isinstance(value, list) or not value:
            raise self.wrong(
                key, f"{shown(value)} (accepted: a list of {', '.join(sorted(accepted))})"
            )
        for each in value:
            if not isinstance(each, str) or each not in accepted:
                raise self.wrong(key, unknown("value", each, accepted))
        return tuple(value)

    def has(self, key: str) -> bool:
        """The operator gave this key."""
        return key in self._given

    def wrong(self, key: str, what: str) -> ConfigError:
        """A refusal of one key's value."""
        return self._file.refuse((*self._path, key), f"{self._title}: {key}", what)

    def _get(self, key: str, default: Any) -> Any:  # noqa: ANN401 (what TOML can hold)
        if key in self._given:
            return self._given[key]
        if default is None:
            raise self.wrong(key, "is missing")
        return default


def distinct(tables: Sequence[Table], names: Iterable[str]) -> None:
    """Refuse a name that is there twice.

    Raises:
        ConfigError: one is.
    """
    seen: set[str] = set()
    for table, name in zip(tables, names, strict=True):
        if name in seen:
            raise table.wrong("name", f"{name!r} is there twice")
        seen.add(name)


def _is_number(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
