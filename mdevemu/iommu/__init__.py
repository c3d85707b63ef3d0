"""The RISC-V IOMMU of the emulated host, and the ports that devices reach memory through."""

from mdevemu.iommu.causes import Access, Cause, Fault, TransactionType
from mdevemu.iommu.iommu import Iommu, capabilities_of
from mdevemu.iommu.port import Piece, Port
from mdevemu.iommu.requests import Request
from mdevemu.iommu.walk import Step

__all__ = [
    "Access",
    "Cause",
    "Fault",
    "Iommu",
    "Piece",
    "Port",
    "Request",
    "Step",
    "TransactionType",
    "capabilities_of",
]
