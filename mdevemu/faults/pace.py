"""Limits of what a slice moves in a time."""

from mdevemu.faults.injection import Kind
from mdevemu.faults.seam import Seam

SECOND = 10**9
"""In nanoseconds."""

BANDWIDTH = Kind(
    name="bandwidth",
    occasion="a piece of the mdev's work",
    effect="the mdev rests until its copies have taken as long as rate (bytes per second) says",
    takes=frozenset({"rate"}),
    needs=frozenset({"rate"}),
    endless=True,
)


class Pace(Seam):
    """Slows down the work of an mdev."""

    KINDS = (BANDWIDTH,)

    def join(self, wanted: bool) -> None:
        self.mdev.flow.pace = self._rest if wanted else None
        if not wanted:
            self.mdev.flow.resume()

    def _rest(self, cost: int) -> int:
        """Nanoseconds to rest after a piece that cost so many copy-bytes."""
        injection = self.pick(self.of(BANDWIDTH)) if cost else None
        rate = injection.order.rate if injection else None
        return cost * SECOND // rate if rate else 0
