"""Freed HBM of the native device, which is zero before it can be allocated again."""

from typing import TYPE_CHECKING

from mdevemu.accel import Work
from mdevemu.accel.ranges import Ranges
from mdevemu.accel.scheduler import PIECE

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native


class Scrubber:
    """Scrubs what is not in use any more, piece by piece, as other work is done.

    Attributes:
        ranges: (offset: bytes) of all that is not free yet.
        left: bytes of it that are still to be scrubbed.
    """

    def __init__(self, device: "Native", free: Ranges) -> None:
        """``free`` gets what is scrubbed."""
        self.ranges: dict[int, int] = {}
        self.left = 0
        self._device = device
        self._free = free
        self._done = 0  # bytes of the first range
        self._lane = device.lane()
        self._lane.queue = None

    def add(self, at: int, size: int) -> None:
        """Scrub a range as well, after the others."""
        self.ranges[at] = size
        self.left += size
        self.resume()

    def resume(self) -> None:
        """Scrub what there is."""
        if self.ranges and not self._lane.busy:
            self._lane.submit(self._run())

    def forget(self) -> None:
        """What there is was scrubbed by somebody else."""
        self._lane.cancel()
        for at, size in self.ranges.items():
            self._free.give(at, size)
        self.ranges.clear()
        self.left = self._done = 0

    def _run(self) -> Work:
        """Oldest first; it can stop after each piece, and go on there."""
        hbm = self._device.slice.hbm
        assert hbm is not None
        while self.ranges:
            at, size = next(iter(self.ranges.items()))
            length = min(PIECE, size - self._done)
            hbm.scrub(at + self._done, length)
            self._done += length
            self.left -= length
            if self._done == size:
                del self.ranges[at]
                self._free.give(at, size)
                self._done = 0
            yield self._lane.between(length)
