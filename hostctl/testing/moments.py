"""What happened in a test, by whom and when."""

from collections.abc import Callable
from dataclasses import dataclass

TEST = "test"
"""Who it was, if it was the test itself."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened.

    Attributes:
        time: nanoseconds on the clock of the device's trace.
        who: the test, an mdev, a guest or the accelerator.
        text: one line.
    """

    time: int
    who: str
    text: str


class Moments:
    """What the test itself did.

    Attributes:
        all: in order.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        """``clock`` returns nanoseconds."""
        self._clock = clock
        self.all: list[Moment] = []

    def add(self, who: str, text: str) -> None:
        """It happened now."""
        self.all.append(Moment(self._clock(), who, text))

    def clear(self) -> None:
        """Another test begins."""
        self.all.clear()
