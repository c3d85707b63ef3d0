"""Hop 8 for work that can wait: memory by a port, wherever its bytes are.

Most memory is at hand.  What a VMM keeps to itself is asked for by message, and
the lane rests meanwhile: nothing that a guest waits for may wait for its VMM.
"""

from collections.abc import Generator
from typing import TypeAlias

from mdevemu.accel.scheduler import Lane
from mdevemu.errors import DmaFault, Elsewhere
from mdevemu.iommu.causes import ACCESS_FAULT, Access
from mdevemu.iommu.port import Port
from mdevemu.units import Iova

Reading: TypeAlias = Generator[int, None, bytes]
Writing: TypeAlias = Generator[int, None, None]
"""Parts of a piece of work, see ``mdevemu.accel.scheduler.Work``."""

ANSWER_LIMIT_NS = 5 * 10**9
"""How long a client may take to answer one message, in nanoseconds."""


class Reach:
    """Memory as one port sees it, for work on one lane."""

    def __init__(self, port: Port, lane: Lane) -> None:
        self._port = port
        self._lane = lane

    def read(self, iova: Iova, length: int) -> Reading:
        """Bytes at an address.

        Raises:
            DmaFault: a byte may not be read, or the client does not give it.
        """
        try:
            return self._port.read(iova, length)
        except Elsewhere:
            pass
        got = bytearray()
        while (done := len(got)) < length:
            # Anew after each wait: what was allowed then need not be now.
            at = Iova(iova + done)
            count, found = self._port.first(at, length - done, write=False)
            if found is None:
                got += self._port.read(at, count)
                continue
            lender, place = found
            count = min(count, lender.largest)
            answer = yield from self._lane.wait(
                lambda tell: lender.fetch(place, count, tell),  # noqa: B023 - called at once
                ANSWER_LIMIT_NS,
            )
            if answer is None:
                raise DmaFault(at, length - done, ACCESS_FAULT[Access.READ], write=False)
            got += answer
        return bytes(got)

    def write(self, iova: Iova, data: bytes) -> Writing:
        """Put bytes at an address: none unless all of them may be written.

        Raises:
            DmaFault: a byte may not be written, or the client does not take it; those
                before it are written.
        """
        try:
            return self._port.write(iova, data)
        except Elsewhere:
            pass
        done = 0
        while done < len(data):
            at = Iova(iova + done)
            count, found = self._port.first(at, len(data) - done, write=True)
            if found is None:
                self._port.write(at, data[done : done + count])
                done += count
                continue
            lender, place = found
            part = data[done : done + min(count, lender.largest)]
            answer = yield from self._lane.wait(
                lambda tell: lender.store(place, part, tell),  # noqa: B023 - called at once
                ANSWER_LIMIT_NS,
            )
            if answer is None:
                raise DmaFault(at, len(data) - done, ACCESS_FAULT[Access.WRITE], write=True)
            done += len(part)
