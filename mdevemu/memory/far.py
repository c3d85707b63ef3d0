"""Memory that a VMM keeps to itself: its bytes are asked for by message, which takes time."""

from collections.abc import Callable
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
    hand, so an access that cannot wait misses.  See ``Backing``.

    Attributes:
        client: whom to ask; None while nobody is there.
        stored: told the Iova and the length of each write that a client is asked for.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.client: Lender | None = None
        self.stored: Callable[[int, int], None] | None = None

    @property
    def largest(self) -> int:
        """See ``Lender``; somebody is there."""
        assert self.client is not None
        return self.client.largest

    def fetch(self, iova: int, length: int, done: Done) -> None:
        """See ``Lender``; somebody is there."""
        assert self.client is not None
        self.client.fetch(iova, length, done)

    def store(self, iova: int, data: bytes, done: Done) -> None:
        """See ``Lender``; somebody is there."""
        assert self.client is not None
        if self.stored is not None:
            self.stored(iova, len(data))
        self.client.store(iova, data, done)

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
