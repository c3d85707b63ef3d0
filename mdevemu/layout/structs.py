"""Little-endian structs of fixed size, written as annotated classes.

    class Header(Struct):
        id: u16
        flags: Annotated[Flags, U32]             # any IntEnum or IntFlag
        nonce: Annotated[bytes, Scalar("12s")]   # bytes of a fixed length

A struct is a frozen value that moves between machines.  Its attributes are the
names in the specification and nothing else, so the verbs are functions:
``sizeof``, ``pack`` and ``unpack``.
"""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform, get_args, get_type_hints


@dataclass(frozen=True, slots=True)
class Scalar:
    """How one member is stored; ``code`` is the struct module's format of it."""

    code: str


U8, U16, U32, U64 = Scalar("B"), Scalar("H"), Scalar("I"), Scalar("Q")
u8 = Annotated[int, U8]
u16 = Annotated[int, U16]
u32 = Annotated[int, U32]
u64 = Annotated[int, U64]


@dataclass_transform(frozen_default=True)
class Struct:
    """Base of every struct."""

    _codec: ClassVar[struct.Struct]
    _kinds: ClassVar[dict[str, type[Any]]]
    _codes: ClassVar[dict[str, str]]
    _decoders: ClassVar[tuple[tuple[int, Callable[[Any], Any]], ...]]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)
        hints = get_type_hints(cls, include_extras=True)
        placed = {field.name: get_args(hints[field.name]) for field in fields(cls)}  # type: ignore[arg-type]
        cls._kinds = {name: kind for name, (kind, _) in placed.items()}
        cls._codes = {name: scalar.code for name, (_, scalar) in placed.items()}
        # Of what is not as the struct module gives it: where it is, and what makes it.
        cls._decoders = tuple(
            (at, _decoder(kind))
            for at, kind in enumerate(cls._kinds.values())
            if kind not in (int, bytes)
        )
        cls._codec = struct.Struct("<" + "".join(cls._codes.values()))


S = TypeVar("S", bound=Struct)
F = TypeVar("F", bound=enum.IntFlag)


def _decoder(kind: type[Any]) -> Callable[[Any], Any]:
    """What makes a member of this kind from what the struct module gives."""
    if not issubclass(kind, enum.IntFlag):
        return kind
    return partial(_flags, kind, reduce(or_, (int(flag) for flag in kind), 0))


def _flags(kind: type[F], known: int, value: int) -> F:
    """Flags, some of them perhaps not ``known``.

    Enum remembers every value that it ever made; whoever sends all kinds of bits would
    fill our memory with them, so one with unknown bits is made here.
    """
    if not value & ~known:
        return kind(value)
    made = int.__new__(kind, value)
    made._name_, made._value_ = None, value
    return made


def sizeof(kind: type[Struct]) -> int:
    """Encoded size, in bytes."""
    return kind._codec.size


def members_of(kind: type[Struct]) -> list[tuple[str, int, int]]:
    """Each member's (name, offset in bytes, size in bytes), in order."""
    placed, offset = [], 0
    for name, letter in kind._codes.items():
        size = struct.calcsize("<" + letter)
        placed.append((name, offset, size))
        offset += size
    return placed


def format_of(kind: type[Struct]) -> str:
    """The struct module's format string."""
    return kind._codec.format


def unpack(kind: type[S], data: bytes | bytearray | memoryview, offset: int = 0) -> S:
    """Decode ``sizeof(kind)`` bytes of ``data`` from ``offset`` on.

    Raises:
        ValueError: ``data`` is too short, or an enum has no such value.
    """
    if len(data) - offset < sizeof(kind):
        raise ValueError(f"{kind.__name__} is {sizeof(kind)} bytes, got {len(data) - offset}")
    members = list(kind._codec.unpack_from(data, offset))
    for at, to in kind._decoders:
        members[at] = to(members[at])
    return kind(*members)


def pack(value: Struct) -> bytes:
    """Encode to exactly ``sizeof(type(value))`` bytes."""
    # Members are what was set, in their order, and nothing else is.
    return value._codec.pack(*vars(value).values())
