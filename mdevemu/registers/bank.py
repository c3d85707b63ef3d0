"""Hop 5, bytes at an offset to register and word.  Every access is defined.

    class AdderRegs(RegisterMap, size=0x1000):
        control = Reg(0x00, Control)
        doorbell = Reg(0x14, Doorbell)
        counter = Array(0x100, Counter, count=8)

Device code uses ``bank.regs.control.enable`` and ``bank.regs.counter[3].value``;
the guest comes in through ``bank.read`` and ``bank.write``, at any offset and
length.  Gaps between registers read as zero and ignore writes.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, overload

from mdevemu.layout import Word, width_of
from mdevemu.layout.words import guest_read, guest_write, restore

W = TypeVar("W", bound=Word)
M = TypeVar("M", bound="RegisterMap")
H = TypeVar("H", bound=Callable[..., None])


class Hooks(Protocol):
    """What a bank tells about guest accesses; a personality fits."""

    def reading(self, slot: "Slot") -> None:
        """A guest is about to read this register."""

    def written(self, slot: "Slot", word: Word) -> None:
        """A guest wrote this register, and ``word`` has its new value."""


class _Placed(Generic[W]):
    """What a register and an array of registers have in common."""

    name: str
    count: int

    def __init__(self, offset: int, word: type[W], stride: int) -> None:
        self.offset = offset
        self.word = word
        self.length = width_of(word) // 8
        self.stride = stride or self.length
        assert offset % self.length == 0, f"{word.__name__} at {offset:#x} is not aligned"
        assert self.stride % self.length == 0, f"{word.__name__} with stride {self.stride:#x}"

    def __set_name__(self, owner: type["RegisterMap"], name: str) -> None:
        self.name = name

    def written(self, hook: H) -> H:
        """Mark a method to run after each guest write to this register.

        The method is called with the word; one of an array with (index, word).
        """
        hook.__dict__.setdefault("_on_write", []).append(self.name)
        return hook

    def reading(self, hook: H) -> H:
        """Mark a method to run before each guest read of this register.

        The method is called without arguments; one of an array with the index.
        """
        hook.__dict__.setdefault("_on_read", []).append(self.name)
        return hook


class Reg(_Placed[W]):
    """A word at an offset."""

    count = 1

    def __init__(self, offset: int, word: type[W]) -> None:
        super().__init__(offset, word, 0)

    @overload
    def __get__(self, regs: None, owner: type["RegisterMap"]) -> Self: ...
    @overload
    def __get__(self, regs: "RegisterMap", owner: type["RegisterMap"]) -> W: ...
    def __get__(self, regs: "RegisterMap | None", owner: type["RegisterMap"]) -> Self | W:
        return self if regs is None else cast(W, regs._words[self.name][0])


class Array(_Placed[W]):
    """``count`` words of one kind, ``stride`` bytes apart (their own size if not given)."""

    def __init__(self, offset: int, word: type[W], *, count: int, stride: int = 0) -> None:
        super().__init__(offset, word, stride)
        self.count = count

    @overload
    def __get__(self, regs: None, owner: type["RegisterMap"]) -> Self: ...
    @overload
    def __get__(self, regs: "RegisterMap", owner: type["RegisterMap"]) -> Sequence[W]: ...
    def __get__(self, regs: "RegisterMap | None", owner: type["RegisterMap"]) -> Self | Sequence[W]:
        return self if regs is None else cast(Sequence[W], regs._words[self.name])


@dataclass(frozen=True, slots=True)
class Slot:
    """One place where a word lives: a register, or one of an array.

    Attributes:
        name: the register's name.
        index: which of an array, 0 for a plain register.
        offset, length: bytes.
        single: it is a plain register.
    """

    name: str
    index: int
    offset: int
    length: int
    word: type[Word]
    single: bool

    def __str__(self) -> str:
        return self.name if self.single else f"{self.name}[{self.index}]"


_Place = tuple[Slot, int, int, int]

NEAR = 8
"""Most bytes that a processor reads or writes at once."""

REMEMBERED = 1024
"""Accesses of that kind whose registers are remembered, of each map."""


class RegisterMap:
    """Base of every register map.  Its attributes are registers, nothing else."""

    _size: ClassVar[int]
    _placed: ClassVar[tuple[_Placed[Any], ...]]
    _slots: ClassVar[tuple[Slot, ...]]
    _starts: ClassVar[list[int]]
    # Drivers come back to the same few registers; a hostile one fills this and gains nothing.
    _near: ClassVar[Callable[[int, int], tuple[_Place, ...]]]

    def __init_subclass__(cls, *, size: int) -> None:
        placed = [reg for reg in vars(cls).values() if isinstance(reg, _Placed)]
        found = [
            Slot(reg.name, i, reg.offset + i * reg.stride, reg.length, reg.word, type(reg) is Reg)
            for reg in placed
            for i in range(reg.count)
        ]
        found.sort(key=lambda slot: slot.offset)
        end = 0
        for slot in found:
            assert end <= slot.offset, f"{cls.__name__}.{slot} overlaps the register before it"
            end = slot.offset + slot.length
        assert end <= size, f"{cls.__name__} does not fit in {size:#x} bytes"
        cls._size, cls._slots = size, tuple(found)
        cls._placed = tuple(sorted(placed, key=lambda reg: reg.offset))
        cls._starts = [slot.offset for slot in found]
        cls._near = lru_cache(REMEMBERED)(partial(touched, cls))

    def __init__(self) -> None:
        self._words: dict[str, list[Any]] = {
            reg.name: [reg.word() for _ in range(reg.count)] for reg in self._placed
        }
        # Python looks here before it asks a Reg or an Array, which saves device code a call.
        for reg in self._placed:
            words = self._words[reg.name]
            self.__dict__[reg.name] = words[0] if type(reg) is Reg else words


def declared(kind: type[RegisterMap]) -> tuple[_Placed[Any], ...]:
    """The registers and arrays of a map, lowest offset first."""
    return kind._placed


def slots(kind: type[RegisterMap]) -> tuple[Slot, ...]:
    """Every single place of a map, lowest offset first."""
    return kind._slots


def size_of(kind: type[RegisterMap]) -> int:
    """Size of the region, in bytes."""
    return kind._size


class Bank(Generic[M]):
    """A register map with storage behind it.

    Attributes:
        missed: if it is set, hears of each access that touches no register: offset and
            length in bytes, and whether it is a write.
    """

    def __init__(self, kind: type[M], hooks: Hooks | None = None) -> None:
        self.kind = kind
        self.regs = kind()
        self.missed: Callable[[int, int, bool], None] | None = None
        self._hooks = hooks

    def reset(self) -> None:
        """Give every register its reset value; the words stay the same objects."""
        # Not a new map: that takes several times as long, and neighbours wait for it.
        restore(chain.from_iterable(self.regs._words.values()))

    def read(self, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes."""
        hooks, value = self._hooks, 0
        places = self._places(offset, length)
        for slot, lanes, skip, at in places:
            if hooks:
                hooks.reading(slot)
            word = self.regs._words[slot.name][slot.index]
            value |= (guest_read(word, lanes) & lanes) >> skip << at
        if not places and self.missed is not None:
            self.missed(offset, length, False)
        return value.to_bytes(length, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Guest write; the hooks see each register once it has changed, lowest first."""
        hooks, value = self._hooks, int.from_bytes(data, "little")
        places = self._places(offset, len(data))
        for slot, lanes, skip, at in places:
            word = self.regs._words[slot.name][slot.index]
            guest_write(word, value >> at << skip & lanes, lanes)
            if hooks:
                hooks.written(slot, word)
        if not places and self.missed is not None:
            self.missed(offset, len(data), True)

    def word(self, slot: Slot) -> Word:
        """The live word in a slot."""
        word: Word = self.regs._words[slot.name][slot.index]
        return word

    def _places(self, offset: int, length: int) -> tuple[_Place, ...]:
        if length <= NEAR:
            return self.kind._near(offset, length)
        return touched(self.kind, offset, length)


def touched(kind: type[RegisterMap], offset: int, length: int) -> tuple[_Place, ...]:
    """Each (slot, its bits in the access, those below them, those before it in the access)."""
    found, end = [], offset + length
    for at in range(max(bisect_right(kind._starts, offset) - 1, 0), len(kind._slots)):
        slot = kind._slots[at]
        if slot.offset >= end:
            break
        low, high = max(offset, slot.offset), min(end, slot.offset + slot.length)
        if low < high:
            skip = 8 * (low - slot.offset)
            lanes = ((1 << 8 * (high - low)) - 1) << skip
            found.append((slot, lanes, skip, 8 * (low - offset)))
    return tuple(found)
