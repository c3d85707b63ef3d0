"""Faults of accesses to memory: the IOMMU says no."""

from collections.abc import Callable

from mdevemu.errors import ConfigError, unknown
from mdevemu.faults.injection import WHEN, Direction, Injection, Kind
from mdevemu.faults.seam import Seam
from mdevemu.iommu import Access, Port
from mdevemu.iommu.causes import PAGE_FAULT
from mdevemu.units import Iova

TRANSLATION = Kind(
    name="translation-fault",
    occasion="an access of the mdev to memory; its Iova is the address",
    effect="the IOMMU reports a page fault, and no byte moves",
    takes=WHEN | {"address", "length", "access"},
)

ACCESSES = {each.value: each for each in Direction}


class Dma(Seam):
    """Looks at each access of an mdev."""

    KINDS = (TRANSLATION,)

    def check(self, injection: Injection) -> None:
        if injection.order.access not in (None, *ACCESSES):
            raise ConfigError("access", unknown("access", injection.order.access, ACCESSES))
        super().check(injection)

    def join(self, wanted: bool) -> None:
        watch(self.mdev.port, self._look, wanted)

    def _look(self, port: Port, iova: Iova, length: int, access: Access) -> None:
        write = access == Access.WRITE
        other = Direction.READ if write else Direction.WRITE
        meant = [
            each
            for each in self.of(TRANSLATION)
            if ACCESSES[each.order.access or "any"] is not other and each.touches(iova, length)
        ]
        if self.pick(meant, iova=iova, length=length, write=write):
            raise port.refused(iova, length, PAGE_FAULT[access], access)


def watch(port: Port, guard: Callable[[Port, Iova, int, Access], None], wanted: bool) -> None:
    """Have a guard look at the accesses of a function, or not any more."""
    others = [each for each in port.gate.guards if each != guard]
    port.gate.watch(*others, *([guard] if wanted else []))
