"""Whether a command that was done in part can be done again from its beginning."""

from collections.abc import Iterable

from mdevemu.errors import DmaFault
from mdevemu.iommu.port import Port
from mdevemu.units import Iova

Range = tuple[Port, Iova, int]
"""By which port, from which address on, and how many bytes."""


def apart(written: Range, read: Iterable[Range]) -> bool:
    """What was written is nothing of what is to be read, by whatever addresses.

    Memory that cannot be reached any more counts as the same.
    """
    try:
        ours = _places(written, write=True)
        theirs = [place for each in read for place in _places(each, write=False)]
    except DmaFault:
        return False
    return not any(
        here < there + length and there < here + count
        for here, count in ours
        for there, length in theirs
    )


def _places(wanted: Range, *, write: bool) -> list[tuple[int, int]]:
    port, at, count = wanted
    return [(int(to), size) for to, size in port.places(at, count, write=write)] if count else []
