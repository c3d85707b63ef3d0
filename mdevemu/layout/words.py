"""One machine word, split into named bits.

    class Status(Word, width=32):
        ready = bit(0, Access.RO, reset=True)
        fault = bit(1, Access.W1C)
        mode = code(5, 4, Mode)
        done = bits(31, 16, Access.RO)

A word is state: the device reads and assigns its bits freely.  The access says
what a *guest* access does.  Bits without a name are reserved: they read as zero
and ignore writes.
"""

import enum
from collections.abc import Iterable
from typing import ClassVar, Generic, Self, TypeVar, overload

T = TypeVar("T", bound=int)


class Access(enum.Enum):
    """What a guest access does to a field."""

    RO = "read-only"
    RW = "read-write"
    WO = "write-only"
    W1C = "write one to clear"
    W1S = "write one to set"
    RC = "read to clear"


class Field(Generic[T]):
    """Some adjacent bits, read as a ``T``."""

    def __init__(self, high: int, low: int, kind: type[T], access: Access, reset: T) -> None:
        self.low = low
        self.high = high
        self.kind = kind
        self.access = access
        self.mask = ((1 << (high - low + 1)) - 1) << low
        self.reset = int(reset) << low

    @overload
    def __get__(self, word: None, owner: type["Word"]) -> Self: ...
    @overload
    def __get__(self, word: "Word", owner: type["Word"]) -> T: ...
    def __get__(self, word: "Word | None", owner: type["Word"]) -> Self | T:
        return self if word is None else self.kind((word._raw & self.mask) >> self.low)

    def __set__(self, word: "Word", value: T) -> None:
        word._raw = word._raw & ~self.mask | int(value) << self.low & self.mask


def bit(at: int, access: Access = Access.RW, *, reset: bool = False) -> Field[bool]:
    """One bit."""
    return Field(at, at, bool, access, reset)


def bits(high: int, low: int, access: Access = Access.RW, *, reset: int = 0) -> Field[int]:
    """A number in bits ``high`` down to ``low``, both included."""
    return Field(high, low, int, access, reset)


E_ = TypeVar("E_", bound=enum.IntEnum)


def code(
    high: int, low: int, kind: type[E_], access: Access = Access.RW, *, reset: int = 0
) -> Field[E_]:
    """An enum in bits ``high`` down to ``low``.

    A field that a guest can write must name every code; one that only the
    device writes need not.
    """
    complete = len(kind) == 1 << (high - low + 1)
    assert complete or access is Access.RO, f"{kind.__name__} leaves codes unnamed"
    return Field(high, low, kind, access, kind(reset))


class Word:
    """Base of every word."""

    _width: ClassVar[int]
    _reset: ClassVar[int]
    _masks: ClassVar[dict[Access, int]]
    # The masks again, as a guest's access needs them: it is often a single word.
    _visible: ClassVar[int]
    _clearing: ClassVar[int]
    _writable: ClassVar[int]
    _w1c: ClassVar[int]
    _w1s: ClassVar[int]
    _fields: ClassVar[dict[str, Field[int]]]

    __slots__ = ("_raw",)

    def __init_subclass__(cls, *, width: int) -> None:
        cls._width, cls._reset = width, 0
        cls._masks = dict.fromkeys(Access, 0)
        cls._fields = {k: v for k, v in vars(cls).items() if isinstance(v, Field)}
        taken = 0
        for name, field in cls._fields.items():
            assert field.high < width, f"{cls.__name__}.{name} does not fit"
            assert not taken & field.mask, f"{cls.__name__}.{name} overlaps another field"
            taken |= field.mask
            cls._masks[field.access] |= field.mask
            cls._reset |= field.reset
        masks = cls._masks
        cls._visible, cls._clearing = ~masks[Access.WO], masks[Access.RC]
        cls._writable = masks[Access.RW] | masks[Access.WO]
        cls._w1c, cls._w1s = masks[Access.W1C], masks[Access.W1S]

    def __init__(self, raw: int | None = None) -> None:
        self._raw = self._reset if raw is None else raw

    def __int__(self) -> int:
        return self._raw

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({', '.join(shown)})"


def width_of(kind: type[Word]) -> int:
    """Width, in bits."""
    return kind._width


def reset_value(kind: type[Word]) -> int:
    """The raw value after reset."""
    return kind._reset


def fields_of(kind: type[Word]) -> dict[str, Field[int]]:
    """The named fields, in the order of their declaration."""
    return kind._fields


def decoded(kind: type[Word], value: int, lanes: int) -> dict[str, int | str]:
    """The fields all of whose bits are in ``lanes``, by name; a code that has a name has that."""
    found: dict[str, int | str] = {}
    for name, field in kind._fields.items():
        if not field.mask & ~lanes:
            number = (value & field.mask) >> field.low
            codes = field.kind if issubclass(field.kind, enum.IntEnum) else ()
            found[name] = next((each.name for each in codes if each == number), number)
    return found


def access_mask(kind: type[Word], access: Access) -> int:
    """The bits of a word that have this access."""
    return kind._masks[access]


def put_raw(word: Word, raw: int) -> None:
    """Replace the whole word, as the device and not as a guest."""
    word._raw = raw


def guest_view(word: Word) -> int:
    """What a guest read returns."""
    return word._raw & word._visible


def guest_read(word: Word, lanes: int) -> int:
    """Apply a guest read of the bits in ``lanes``: what it returns, RC bits then cleared."""
    raw = word._raw
    if word._clearing:
        word._raw = raw & ~(word._clearing & lanes)
    return raw & word._visible


def guest_write(word: Word, value: int, lanes: int) -> None:
    """Apply a guest write of ``value`` on the bits in ``lanes``."""
    writable = word._writable & lanes
    ones = value & lanes
    kept = word._raw & ~writable & ~(word._w1c & ones)
    word._raw = kept | value & writable | word._w1s & ones


def restore(words: Iterable[Word]) -> None:
    """Give each word its reset value."""
    for word in words:
        word._raw = word._reset
