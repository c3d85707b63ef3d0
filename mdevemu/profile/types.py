"""What slices exist: mdev types, named and described as the kernel's mdev ABI does."""

from dataclasses import dataclass

from mdevemu.pci.messages import MessageKind

DRIVER = "mdevemu"
DEVICE_API = "vfio-pci"


@dataclass(frozen=True, slots=True, kw_only=True)
class MdevType:
    """What one slice gets.

    Attributes:
        name: the part of the id behind the driver's name.
        personality: how a slice behaves to its driver.
        hbm: bytes.
        weight: share of the engines against other slices.
        queues: how many it may use.
        instances: how many slices of this type there may be at once.
        max_transfer: the most bytes that a command moves; None leaves it to the personality.
        pasid_bits: width of the guest's own PASIDs; None attaches by one of the host's.
        interrupts: which capability a slice has for its messages.
        compute: how many of the accelerator's compute shares it takes.
        starts: where its HBM may begin, in bytes, lowest first; empty for anywhere.
        engines: names of the engines that its commands run on; empty for all.
        work_queues: names of the work queues of which it gets one; empty for none.
    """

    name: str
    description: str
    personality: str
    hbm: int
    weight: int
    queues: int
    instances: int
    max_transfer: int | None = None
    pasid_bits: int | None = None
    interrupts: MessageKind = MessageKind.MSIX
    compute: int = 0
    starts: tuple[int, ...] = ()
    engines: tuple[str, ...] = ()
    work_queues: tuple[str, ...] = ()

    @property
    def attach(self) -> str:
        """How a slice sits in the IOMMU: ``pasid`` or ``rid``."""
        return "pasid" if self.pasid_bits is None else "rid"

    @property
    def id(self) -> str:
        """``<driver>-<name>``.  Spec: Linux, Documentation/driver-api/vfio-mediated-device.rst."""
        return f"{DRIVER}-{self.name}"

    @property
    def details(self) -> str:
        """``key=value`` lines, then the operator's own words."""
        lines = [
            f"personality={self.personality}",
            f"hbm={self.hbm}",
            f"weight={self.weight}",
            f"queues={self.queues}",
            f"attach={self.attach}",
            f"interrupts={self.interrupts}",
        ]
        if self.max_transfer is not None:
            lines.append(f"max-transfer={self.max_transfer}")
        if self.compute:
            lines.append(f"compute={self.compute}")
        return "\n".join([*lines, self.description] if self.description else lines)
