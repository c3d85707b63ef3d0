"""An emulated host: memory, IOMMU, driver, and files as a VMM would lend them."""

import fcntl
import os
import time

from mdevemu.fds import Fd
from mdevemu.iommu import Iommu, Port
from mdevemu.iommu.ats import Fabric
from mdevemu.iommu.registers import Capabilities
from mdevemu.mdev.address_space import AddressSpace
from mdevemu.mdev.attachment import OwnDevice
from mdevemu.mdev.host_iommu import HostIommu
from mdevemu.memory import PhysicalMemory
from mdevemu.trace import Trace
from mdevemu.units import MIB

DEVICE = 0x0100
F_ADD_SEALS = 1033
F_SEAL_SHRINK = 0x2


def lent(size: int, *, sealed: bool = True) -> Fd:
    """A memfd of ``size`` bytes; a sealed one cannot shrink."""
    file = Fd(os.memfd_create("lent", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC))
    os.ftruncate(file.fileno(), size)
    if sealed:
        fcntl.fcntl(file.fileno(), F_ADD_SEALS, F_SEAL_SHRINK)
    return file


class Host:
    """Everything below the mdevs.

    Attributes:
        device_id: of the accelerator; all address spaces share it.
    """

    def __init__(
        self,
        *,
        tables: int = 4 * MIB,
        capabilities: Capabilities | None = None,
        fabric: Fabric | None = None,
    ) -> None:
        self.device_id = DEVICE
        self.memory = PhysicalMemory()
        self.trace = Trace(time.monotonic_ns)
        self.iommu = Iommu(self.memory, self.trace, capabilities=capabilities, fabric=fabric)
        self.driver = HostIommu(self.iommu, self.memory, tables=tables)

    def space(self) -> AddressSpace:
        """One more tenant."""
        return AddressSpace(self.driver, self.device_id)

    def own_space(self, device_id: int) -> AddressSpace:
        """One more tenant, with a device id of its own."""
        return AddressSpace(self.driver, device_id, OwnDevice)

    def faults(self) -> list[tuple[int | None, int, int]]:
        """Everything in the fault queue, as (PASID, cause, Iova)."""
        return [
            (report.pasid, int(report.cause), int(report.iova))
            for report in self.driver.read_faults()
        ]


def ready(space: AddressSpace) -> Port:
    """A port of the space whose function is a bus master."""
    port = space.port()
    port.enabled = True
    return port
