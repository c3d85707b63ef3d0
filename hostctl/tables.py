"""Typed reading of tables that others wrote: TOML files, records, replies."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from mdevemu.errors import ConfigError, MdevError, unknown
from mdevemu.units import GIB, KIB, MIB

Refusal = Callable[[str, str], MdevError]

_REQUIRED = object()
_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB)")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
_MISSING = "is missing"


def _kind(value: object) -> str:
    """What a TOML or JSON value is called when it is the wrong one."""
    kinds: dict[type, str] = {
        bool: "a boolean",
        int: "a whole number",
        float: "a number",
        str: "a text",
        dict: "a table",
        list: "a list",
    }
    return kinds.get(type(value), "nothing" if value is None else type(value).__name__)


class Table:
    """A mapping, read key by key; whatever does not fit is refused with its whole name.

    Attributes:
        where: what the table is called in messages: file and path of keys.
    """

    def __init__(self, where: str, found: object, refusal: Refusal = ConfigError) -> None:
        """Refuse ``found`` with ``refusal(where, wrong)`` if it is not a mapping of texts."""
        self.where = where
        self._refusal = refusal
        if not isinstance(found, Mapping):
            raise refusal(where, f"must be a table, not {_kind(found)}")
        self._found: Mapping[str, object] = found

    def refuse(self, key: str, wrong: str) -> MdevError:
        """The error that says what is wrong with a key."""
        return self._refusal(f"{self.where}.{key}" if key else self.where, wrong)

    def only(self, accepted: Iterable[str]) -> None:
        """Refuse every key but these."""
        names = tuple(accepted)
        for key in self._found:
            if key not in names:
                raise self.refuse("", unknown("key", key, names))

    def has(self, key: str) -> bool:
        """The key is there."""
        return key in self._found

    @property
    def facts(self) -> Mapping[str, object]:
        """Everything in it, unchecked."""
        return self._found

    def raw(self, key: str) -> object:
        """A value of any type; None if it is missing."""
        return self._found.get(key)

    def _get(self, key: str, default: object) -> object:
        if key in self._found:
            return self._found[key]
        if default is _REQUIRED:
            raise self.refuse(key, _MISSING)
        return default

    def text(self, key: str, default: object = _REQUIRED) -> str:
        """A text that is not empty."""
        value = self._get(key, default)
        if not isinstance(value, str) or (not value and value is not default):
            raise self.refuse(key, f"must be a text that is not empty, not {value!r}")
        return value

    def name(self, key: str) -> str:
        """A name: a lower-case letter, then up to 15 of lower-case letters, digits and "-"."""
        value = self.text(key)
        if not _NAME.fullmatch(value):
            raise self.refuse(
                key,
                f"{value!r} is not a name (accepted: a lower-case letter, then up to 15 "
                "lower-case letters, digits or '-')",
            )
        return value

    def whole(
        self, key: str, low: int, high: int | None = None, default: object = _REQUIRED
    ) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        value = self._get(key, default)
        accepted = f"{low} to {high}" if high is not None else f"{low} or more"
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, f"must be a whole number, not {value!r} (accepted: {accepted})")
        if value < low or (high is not None and value > high):
            raise self.refuse(key, f"{value} is out of range (accepted: {accepted})")
        return value

    def number(self, key: str, default: object = _REQUIRED) -> float:
        """A number, whole or not."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, f"must be a number, not {value!r}")
        return float(value)

    def truth(self, key: str, default: object = _REQUIRED) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, f"must be true or false, not {value!r}")
        return value

    def size(self, key: str, low: int, default: object = _REQUIRED) -> int:
        """Bytes: a whole number, or a text such as "512MiB"; at least ``low``."""
        value = self._get(key, default)
        form = 'a whole number of bytes, or a text like "64KiB", "512MiB" or "1GiB"'
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match:
            value = int(match[1]) * _UNITS[match[2]]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, f"{value!r} is not a size (accepted: {form})")
        if value < low:
            raise self.refuse(key, f"{value} bytes are too few (accepted: {low} or more)")
        return value

    def choice(self, key: str, accepted: Sequence[str], default: object = _REQUIRED) -> str:
        """One of the accepted texts."""
        value = self._get(key, default)
        if value not in accepted or not isinstance(value, str):
            raise self.refuse(key, unknown("value", value, accepted))
        return value

    def texts(self, key: str, default: object = _REQUIRED) -> tuple[str, ...]:
        """A list of texts."""
        value = self._get(key, default)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.refuse(key, f"must be a list of texts, not {_kind(value)}")
        for at, item in enumerate(value):
            if not isinstance(item, str):
                raise self.refuse(f"{key}[{at}]", f"must be a text, not {_kind(item)}")
        return tuple(value)

    def lists(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of lists of texts."""
        value = self._get(key, _REQUIRED)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.refuse(key, f"must be a list of lists, not {_kind(value)}")
        rows = Table(
            f"{self.where}.{key}", {str(at): row for at, row in enumerate(value)}, self._refusal
        )
        return tuple(rows.texts(at) for at in rows)

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self._get(key, _REQUIRED)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.refuse(key, f"must be a list of whole numbers, not {_kind(value)}")
        for at, item in enumerate(value):
            if isinstance(item, bool) or not isinstance(item, int):
                raise self.refuse(f"{key}[{at}]", f"must be a whole number, not {_kind(item)}")
        return tuple(value)

    def table(self, key: str) -> "Table":
        """A table within the table."""
        return Table(f"{self.where}.{key}", self._get(key, _REQUIRED), self._refusal)

    def tables(self, key: str) -> "list[Table]":
        """A list of tables; none if the key is missing."""
        value = self._get(key, ())
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.refuse(key, f"must be a list of tables, not {_kind(value)}")
        return [
            Table(f"{self.where}.{key}[{at}]", item, self._refusal) for at, item in enumerate(value)
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)


def choose_name(option: str, what: str, given: str | None, known: Collection[str]) -> str:
    """The name that was given, or that of the only one there is.

    ``option`` is how it is given, ``what`` it is the name of.

    Raises:
        ConfigError: there is none of that name, or one has to be given.
    """
    if given is None and len(known) == 1:
        return next(iter(known))
    if given is None:
        raise ConfigError(option, f"is needed (accepted: {', '.join(sorted(known)) or 'none'})")
    if given not in known:
        raise ConfigError(option, unknown(what, given, known))
    return given
