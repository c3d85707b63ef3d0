"""Memory that a VMM keeps to itself: its bytes are asked for by message, which takes time."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from mdevemu.memory.backing import Miss

Answer: TypeAlias = bytes | None
"""What a client said: the bytes, none for a write that was done, None for a refusal."""

Done: TypeAlias = Callable[[Answer], None]


class Lender(Protocol):
    """A client that answers for the bytes of its windows.

    Attributes:
        largest: most bytes of one ``fetch`` or ``store``.
    """

    @property
    def largest(self) -> int: ...

    def fetch(self, iova: int, length: int, done: Done) -> None:
        """Ask for bytes; ``done`` is called once, now or later."""

    def store(self, iova: int, data: bytes, done: Done) -> None:
        """Ask to have bytes written; ``done`` is called once, now or later."""


class Far:
    """All that one client keeps to itself: at offset n is its Iova n.

    It takes part in translation as every backing does; its bytes are never at
    hand, so an access that cannot wait misses.  See ``Backing``.  What is asked for
    goes through here, so that an answer about a window that is gone is not used.

    Attributes:
        client: whom to ask; None while nobody is there.
        stored: told the Iova and the length of each write that a client is asked for.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.client: Lender | None = None
        self.stored: Callable[[int, int], None] | None = None
        self._asked: dict[int, tuple[int, int, Done]] = {}
        self._count = 0

    @property
    def largest(self) -> int:
        """See ``Lender``; somebody is there."""
        assert self.client is not None
        return self.client.largest

    def fetch(self, iova: int, length: int, done: Done) -> None:
        """See ``Lender``; somebody is there."""
        assert self.client is not None
        self.client.fetch(iova, length, self._ask(iova, length, done))

    def store(self, iova: int, data: bytes, done: Done) -> None:
        """See ``Lender``; somebody is there."""
        assert self.client is not None
        if self.stored is not None:
            self.stored(iova, len(data))
        self.client.store(iova, data, self._ask(iova, len(data), done))

    def forget(self, iova: int, size: int) -> None:
        """A window is gone: what was asked for of it is refused, whatever comes yet."""
        asked = self._asked.items()
        of_it = [n for n, (at, count, _) in asked if at < iova + size and iova < at + count]
        for number in of_it:
            self._answered(number, None)

    def _ask(self, iova: int, length: int, done: Done) -> Done:
        """Remember a question; what its answer is given to."""
        self._count += 1
        self._asked[self._count] = iova, length, done
        return partial(self._answered, self._count)

    def _answered(self, number: int, answer: Answer) -> None:
        if asked := self._asked.pop(number, None):
            asked[2](answer)

    def read(self, offset: int, length: int) -> bytes:
        raise Miss

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        raise Miss

    def read_u64(self, offset: int) -> int:
        raise Miss

    def view(self, offset: int, length: int, *, write: bool) -> memoryview | None:
        return None

    def present(self, offset: int, length: int, *, write: bool) -> bool:
        return self.client is not None

    def close(self) -> None:
        self.client = None
