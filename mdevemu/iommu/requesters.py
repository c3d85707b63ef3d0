"""One requester's own small cache in front of the IOTLB: the path of every DMA.

It holds pages, whatever size the translation has, so that a hit is one lookup and one
sum.  Commands and the registers that change what is allowed empty it: it is never
staler than the caches behind it.  A page enters when it is asked for, and when there is
no room left all leave; so what it holds depends on nothing but the accesses.
"""

from collections.abc import Sequence
from typing import Protocol

from mdevemu.iommu.caches import Line
from mdevemu.iommu.causes import Fault

PAGE_SHIFT = 12
BATCH = 2048


class Resolver(Protocol):
    """The IOMMU behind it."""

    def line(self, device_id: int, process_id: int | None, iova: int, access: int) -> Line:
        """Translate, or report the fault and raise it."""

    def keeps(self, requester: "Requester") -> bool:
        """What was just translated may be kept; the requester is then told to forget it."""


class Requester:
    """Whom the IOMMU sees behind an access, and what it was last told.

    Attributes:
        device_id: 24 bits.
        process_id: 20 bits, or None without a PASID.
        pages: for each access (1 read, 2 write, 4 execute), page number to physical
            address less Iova.
    """

    __slots__ = ("__weakref__", "_resolver", "_room", "device_id", "pages", "process_id")

    def __init__(
        self, resolver: Resolver, device_id: int, process_id: int | None, room: int
    ) -> None:
        """``room`` is for how many pages of each access; at least a batch fits."""
        self._resolver = resolver
        self._room = max(room, BATCH)
        self.device_id = device_id
        self.process_id = process_id
        self.pages: dict[int, dict[int, int]] = {1: {}, 2: {}, 4: {}}

    def translate(self, iova: int, access: int) -> int:
        """Physical address of one Iova; ``access`` is READ, WRITE or EXECUTE.

        Raises:
            Fault: it was reported.
        """
        try:
            return iova + self.pages[access][iova >> 12]
        except KeyError:
            return iova + self.line(iova, access).delta

    def translate_many(self, iovas: Sequence[int], access: int) -> list[int]:
        """Physical addresses of many Iovas, in their order.

        Raises:
            Fault: of the first that faults, named by its ``iova``; it was reported.
        """
        pages = self.pages[access]
        try:
            return [iova + pages[iova >> 12] for iova in iovas]
        except KeyError:
            return self._missing(iovas, access)

    def line(self, iova: int, access: int) -> Line:
        """The whole run of Iovas around one that is translated together.

        Raises:
            Fault: it was reported.
        """
        line = self._resolver.line(self.device_id, self.process_id, iova, access)
        if self._resolver.keeps(self):
            pages = self.pages[access]
            if len(pages) >= self._room:
                pages.clear()
            pages[iova >> PAGE_SHIFT] = line.delta
        return line

    def forget(self) -> None:
        """Keep nothing."""
        for pages in self.pages.values():
            pages.clear()

    def _missing(self, iovas: Sequence[int], access: int) -> list[int]:
        """Translate part by part, asking once for each page that is not there yet."""
        pages = self.pages[access]
        found: list[int] = []
        iova = 0
        try:
            if not self._resolver.keeps(self):
                for iova in iovas:
                    found.append(iova + self.line(iova, access).delta)
                return found
            for at in range(0, len(iovas), BATCH):
                part = iovas[at : at + BATCH]
                if len(pages) > self._room - BATCH:
                    pages.clear()
                for iova in part:
                    if iova >> PAGE_SHIFT not in pages:
                        self.line(iova, access)
                found += [iova + pages[iova >> PAGE_SHIFT] for iova in part]
        except Fault as fault:
            fault.iova = iova
            raise
        return found
