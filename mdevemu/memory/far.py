"""Memory that a VMM keeps to itself: its bytes are asked for by message, which takes time."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from mdevemu.memory.backing import Miss

Answer: TypeAlias = bytes | None
"""What a client said: the bytes, none for a write that was done, None for a refusal."""


class Lender(Protocol):
    """A client that answers for the bytes of its windows.

    Attributes:
        largest: most bytes of one ``fetch`` or ``store``.
    """

    @property
    def largest(self) -> int: ...

    def fetch(self, iova: int, length: int, done: Callable[[Answer], None]) -> None:
        """Ask for bytes; ``done`` is called once, now or later."""

    def store(self, iova: int, data: bytes, done: Callable[[Answer], None]) -> None:
        """Ask to have bytes written; ``done`` is called once, now or later."""


class Far:
    """All that one client keeps to itself: at offset n is its Iova n.

    It takes part in translation as every backing does; its bytes are never at
    hand, so an access that cannot wait misses.  See ``Backing``.

    Attributes:
        lender: whom to ask; None while no client is there.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.lender: Lender | None = None

    def read(self, offset: int, length: int) -> bytes:
        raise Miss

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        raise Miss

    def read_u64(self, offset: int) -> int:
        raise Miss

    def view(self, offset: int, length: int) -> memoryview | None:
        return None

    def present(self, offset: int, length: int, *, write: bool) -> bool:
        return self.lender is not None

    def close(self) -> None:
        self.lender = None
