"""Hop 6, doorbell to command structs: rings in guest memory.

Indices are free-running, modulo 2**32; an index's place in its ring is what is
left of it after division by the number of entries.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mdevemu.accel.reach import Reading, Writing
from mdevemu.errors import CommandFault, StateError
from mdevemu.layout import Struct, pack, sizeof, u32, u64, unpack
from mdevemu.units import Iova

S = TypeVar("S", bound=Struct)
R = TypeVar("R", bound=Struct, contravariant=True)

INDEX_MASK = 0xFFFF_FFFF


class Memory(Protocol):
    """What a ring lives in; each access may have to wait, which is part of the work."""

    def read(self, iova: Iova, length: int) -> Reading:
        """Bytes at an address."""

    def write(self, iova: Iova, data: bytes) -> Writing:
        """Put bytes at an address."""


class RingState(Struct):
    """The device end of a ring: where it is in memory, and where it stands."""

    base: u64
    entries: u32
    head: u32
    tail: u32


@dataclass(slots=True)
class Popped(Generic[S]):
    """A command taken off a ring: an obligation to complete it exactly once.

    Attributes:
        index: its index in the ring.
        settled: it has been completed, put back, or given up by a reset.
    """

    index: int
    command: S
    settled: bool = False

    def settle(self) -> None:
        """Meet the obligation."""
        assert not self.settled, f"command {self.index} completed twice"
        self.settled = True


class Ring(Generic[S]):
    """The device end of a ring of commands.

    The guest moves the tail, the device the head; the ring is empty when they
    are equal and holds up to ``entries`` commands.

    Attributes:
        head: index of the next command to take.
        tail: index behind the last command that the guest announced.
    """

    def __init__(self, memory: Memory, base: Iova, entries: int, kind: type[S]) -> None:
        """``entries`` is a power of two."""
        assert entries.bit_count() == 1
        self._memory = memory
        self._base = base
        self._entries = entries
        self._kind = kind
        self._last: Popped[S] | None = None
        self.head = 0
        self.tail = 0

    @property
    def state(self) -> RingState:
        """What another ring goes on with."""
        return RingState(self._base, self._entries, self.head, self.tail)

    @classmethod
    def restored(cls, memory: Memory, state: RingState, kind: type[S], most: int) -> "Ring[S]":
        """The ring that goes on where another stood; it may have ``most`` entries.

        Raises:
            StateError: no driver could have set it up.
        """
        if state.entries.bit_count() != 1 or state.entries > most:
            raise StateError(f"a ring of {state.entries} entries, at most {most}")
        found = cls(memory, Iova(state.base), state.entries, kind)
        found.place(state.head, state.tail)
        return found

    def announce(self, tail: int) -> None:
        """The guest says that commands up to ``tail`` (an index, not included) are there.

        Raises:
            CommandFault: that is more than the ring holds; the tail stays.
        """
        if (tail - self.head) & INDEX_MASK > self._entries:
            raise CommandFault(0, f"tail {tail} with head {self.head} in a ring of {self._entries}")
        self.tail = tail

    @property
    def empty(self) -> bool:
        """Every announced command was taken."""
        return self.head == self.tail

    def pop(self) -> Generator[int, None, Popped[S]]:
        """Take the next command; the one before must have been settled.

        Raises:
            DmaFault: it cannot be read; it stays in the ring.
        """
        assert not self.empty
        assert self._last is None or self._last.settled, f"command {self.head - 1} never completed"
        size = sizeof(self._kind)
        at = Iova(self._base + (self.head & (self._entries - 1)) * size)
        data = yield from self._memory.read(at, size)
        self._last = Popped(self.head, unpack(self._kind, data))
        self.head = (self.head + 1) & INDEX_MASK
        return self._last

    def put_back(self, popped: Popped[S]) -> None:
        """Leave a command in the ring after all: it is the next one again."""
        assert popped is self._last
        popped.settle()
        self.head = popped.index

    def place(self, head: int, tail: int) -> None:
        """Go on where another ring of this size stood.

        Raises:
            StateError: no ring of this size can stand there; nothing changed.
        """
        if (tail - head) & INDEX_MASK > self._entries:
            raise StateError(f"head {head} and tail {tail} in a ring of {self._entries}")
        self.head, self.tail = head, tail


class CompletionRing(Generic[R]):
    """The device end of a ring of completion records that carry a phase.

    The phase is 1 on the first pass over the ring and changes with every pass,
    so the guest sees a fresh record without a register read.

    Attributes:
        head: index up to which the guest has taken records.
        tail: index of the next record.
    """

    def __init__(self, memory: Memory, base: Iova, entries: int, kind: type[R]) -> None:
        """``entries`` is a power of two."""
        self._memory = memory
        self._base = base
        self._entries = entries
        self._size = sizeof(kind)
        self.head = 0
        self.tail = 0

    @property
    def full(self) -> bool:
        """The guest has not taken enough records for another one to have room."""
        return (self.tail - self.head) & INDEX_MASK >= self._entries

    @property
    def phase(self) -> int:
        """Phase of the next record."""
        return 1 - (self.tail // self._entries & 1)

    def take(self, head: int) -> None:
        """The guest has taken records up to ``head`` (an index, not included).

        Raises:
            CommandFault: there are not that many; nothing changes.
        """
        if (head - self.head) & INDEX_MASK > (self.tail - self.head) & INDEX_MASK:
            raise CommandFault(0, f"took {head} with {self.tail} written")
        self.head = head

    def place(self, head: int, tail: int) -> None:
        """Go on where another ring of this size stood.

        Raises:
            StateError: no ring of this size can stand there; nothing changed.
        """
        if (tail - head) & INDEX_MASK > self._entries:
            raise StateError(f"{tail} written and {head} taken in a ring of {self._entries}")
        self.head, self.tail = head, tail

    def put(self, popped: Popped[S], record: R) -> Writing:
        """Complete a command by its record.

        Raises:
            DmaFault: the record cannot be written; the command stays open.
        """
        yield from self.write(record)
        popped.settle()

    def write(self, record: R) -> Writing:
        """Append a record: all of it, and then the two bytes with the phase.

        Raises:
            DmaFault: it cannot be written; the ring stays as it is.
        """
        assert not self.full
        data = pack(record)
        at = Iova(self._base + (self.tail & (self._entries - 1)) * self._size)
        yield from self._memory.write(at, data[:-2])
        yield from self._memory.write(Iova(at + self._size - 2), data[-2:])
        self.tail = (self.tail + 1) & INDEX_MASK
