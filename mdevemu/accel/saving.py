"""What a personality has besides registers, as structs in a row."""

import zlib
from collections.abc import Iterable
from typing import TypeVar

from mdevemu.errors import StateError
from mdevemu.layout import Struct, members_of, pack, sizeof, u32, u64, unpack

S = TypeVar("S", bound=Struct)


class Tag(Struct):
    """What stands before each struct: which declaration it is of."""

    layout: u32


def save(structs: Iterable[Struct]) -> bytes:
    """Structs in a row, each behind its tag."""
    return b"".join(pack(Tag(layout_of(type(each)))) + pack(each) for each in structs)


def layout_of(kind: type[Struct]) -> int:
    """A number that two structs share only if they have the same name and members."""
    return zlib.crc32(repr((kind.__name__, members_of(kind))).encode())


class Saved:
    """Structs that ``save`` made bytes of, or anybody who says so."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that nobody took."""
        return len(self._data) - self._at

    def take(self, kind: type[S]) -> S:
        """The next struct, which has to be of this kind.

        Raises:
            StateError: it is another, of another version, or not there.
        """
        end = self._at + sizeof(Tag) + sizeof(kind)
        if end > len(self._data):
            raise StateError(f"it ends before {kind.__name__}")
        if unpack(Tag, self._data, self._at).layout != layout_of(kind):
            raise StateError(f"no {kind.__name__}, or one of another version")
        try:
            found = unpack(kind, self._data, self._at + sizeof(Tag))
        except ValueError as wrong:
            raise StateError(f"{kind.__name__}: {wrong}") from None
        self._at = end
        return found


class Count(Struct):
    """Something that was counted."""

    value: u64


def within(what: str, value: int, most: int) -> int:
    """A number of a saved state, if it is not above ``most``.

    Raises:
        StateError: it is.
    """
    if value > most:
        raise StateError(f"{what} {value:#x}, at most {most:#x}")
    return value
