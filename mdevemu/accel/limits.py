"""How fast an mdev may be: token buckets for bandwidth and for commands."""

from dataclasses import dataclass, field

SECOND = 10**9
"""In nanoseconds."""

MAX_RATE = 10**15

_BURST = 100
"""A bucket holds what its rate gives in this part of a second, a hundredth."""


@dataclass(slots=True)
class TokenBucket:
    """Lets so much through in a second; what is used too early has to be waited for.

    A piece's cost is known only after it ran, so the level may be below zero: whoever
    brought it there rests until it is not.

    Attributes:
        rate: tokens a second; 0 for no limit.
    """

    rate: int = 0
    _level: int = 0  # tokens times SECOND, so that no nanosecond's part is lost
    _at: int | None = None

    def set(self, rate: int) -> None:
        """Have another rate from now on; what was used before counts no more."""
        self.rate, self._level, self._at = rate, 0, None

    def take(self, tokens: int, now: int) -> int:
        """Use tokens at a time, in nanoseconds: how many nanoseconds to rest afterwards."""
        if not self.rate:
            return 0
        full = self.rate * (SECOND // _BURST)
        passed = now - self._at if self._at is not None else SECOND
        self._level = min(full, self._level + passed * self.rate) - tokens * SECOND
        self._at = now
        return max(0, -(self._level // self.rate))


@dataclass(slots=True)
class Limits:
    """What one mdev may do in a second.

    Attributes:
        bandwidth: copy-bytes.
        commands: commands begun.
    """

    bandwidth: TokenBucket = field(default_factory=TokenBucket)
    commands: TokenBucket = field(default_factory=TokenBucket)

    def rest(self, cost: int, begun: int, now: int) -> int:
        """Nanoseconds to rest after a piece of so many copy-bytes that began so many commands."""
        return max(self.bandwidth.take(cost, now), self.commands.take(begun, now))
