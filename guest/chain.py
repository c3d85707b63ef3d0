"""Chains: several descriptors that the device does as one command.

Each stage works on what the one before it has left in HBM.
"""

from collections.abc import Sequence
from typing import NamedTuple

from guest import native
from guest.native import Flag, Operation, Status
from guest.queue import Command, Completion, pack


class Chain:
    """A list of stages, where the device reads it.

    Attributes:
        capacity: stages that there is room for.
    """

    def __init__(self, address: int, view: memoryview, *, in_hbm: bool = False) -> None:
        """``view`` is the list's memory; ``address`` its Iova, or its offset into HBM."""
        self.capacity = len(view) // native.DESCRIPTOR.size
        self._address = address
        self._view = view
        self._flags = Flag.SOURCE_HBM if in_hbm else 0

    def load(self, stages: Sequence[Command]) -> Command:
        """Write the list; gives the command that does it, without a cookie.

        The first stage says what it reads.  The others leave ``source`` and ``length`` at 0
        and read what the one before them wrote; all but the last write into HBM.
        """
        assert len(stages) <= self.capacity, "the list has no room for them"
        data = b"".join(pack(stage) for stage in stages)
        self._view[: len(data)] = data
        return Command(Operation.CHAIN, length=len(data), source=self._address, flags=self._flags)


class End(NamedTuple):
    """How a chain ended.

    Attributes:
        stage: which one failed, counted from 0; None if none did, or if the chain's own
            descriptor or its list is wrong.
        result: of the last stage, or of the one that failed.
    """

    stage: int | None
    result: int


def end_of(completion: Completion) -> End:
    """What the completion of a chain says."""
    if completion.status == Status.SUCCESS:
        return End(None, completion.result)
    stage, result = completion.result >> 32, completion.result & 0xFFFF_FFFF
    return End(None if stage == native.NO_STAGE else stage, result)
