"""Arguments of commands and checks, which come from outside and are checked one by one."""

from guest.errors import InvalidArgument
from guest.protocol import Message


class Arguments:
    """Named values of which each is asked for by its type; what nobody asks for is refused.

    Every getter raises InvalidArgument that names the argument and what it must be.
    """

    def __init__(self, values: object) -> None:
        """``values`` is what the message held: an object, or None for no arguments."""
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise InvalidArgument(f"arguments: must be an object, not {_kind(values)}")
        self._values: Message = values
        self._known: set[str] = set()

    def text(self, name: str, default: str | None = None) -> str:
        """A string; it must be there if there is no default."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None if it is not there."""
        return self.text(name) if self._take(name, None, needed=False) is not None else None

    def number(self, name: str, default: int | None = None, least: int = 0) -> int:
        """An integer of at least ``least``; ``0x`` text counts too."""
        value = self._take(name, default)
        if isinstance(value, str):
            try:
                value = int(value, 0)
            except ValueError:
                raise self._wrong(name, "an integer", value) from None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "an integer", value)
        if value < least:
            raise self._wrong(name, f"at least {least}", value)
        return value

    def seconds(self, name: str, default: float | None = None) -> float:
        """A time of at least 0 seconds."""
        value = self._take(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise self._wrong(name, "seconds, at least 0", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def data(self, name: str) -> bytes:
        """Bytes given as hexadecimal text."""
        value = self.text(name)
        try:
            return bytes.fromhex(value)
        except ValueError:
            raise self._wrong(name, "hexadecimal bytes", value) from None

    def texts(self, name: str, default: list[str] | None = None) -> list[str]:
        """A list of strings."""
        value = self._take(name, default)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings", value)
        return value

    def numbers(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list of integers of at least 0."""
        value = self._take(name, default)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self._wrong(name, "a list of integers", value)
        return value

    def objects(self, name: str, default: list[Message] | None = None) -> "list[Arguments]":
        """A list of objects, each with arguments of its own."""
        value = self._take(name, default)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(name, "a list of objects", value)
        return [Arguments(item) for item in value]

    def nested(self, name: str) -> "Arguments":
        """An object with arguments of its own; an empty one if it is not there."""
        value = self._take(name, {}, needed=False)
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return Arguments(value)

    def pairs(self, name: str) -> dict[str, str]:
        """Strings by name; none if it is not there."""
        value = self._take(name, {}, needed=False)
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise self._wrong(name, "an object of strings", value)
        return value

    def finish(self) -> None:
        """Every argument has been asked for by now.

        Raises:
            InvalidArgument: naming the first that nobody knows, and what is accepted.
        """
        for name in self._values:
            if name not in self._known:
                from difflib import get_close_matches  # costs the agent's start too much

                near = get_close_matches(name, self._known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                accepted = ", ".join(sorted(self._known)) or "none"
                raise InvalidArgument(f"unknown argument {name!r}{hint} (accepted: {accepted})")

    def _take(self, name: str, default: object, *, needed: bool = True) -> object:
        self._known.add(name)
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None and needed:
            raise InvalidArgument(f"{name}: is missing")
        return value

    def _wrong(self, name: str, accepted: str, value: object) -> InvalidArgument:
        return InvalidArgument(f"{name}: must be {accepted}, not {value!r}")


def _kind(value: object) -> str:
    return type(value).__name__
