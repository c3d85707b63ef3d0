"""What the IOMMU tells the host's driver: records of faults and of page requests."""

from dataclasses import dataclass

from mdevemu.iommu import Cause, Iommu, TransactionType
from mdevemu.iommu.formats import (
    FaultHeader,
    FaultRecord,
    PageRequestHeader,
    PageRequestPayload,
    PageRequestRecord,
)
from mdevemu.iommu.registers import IommuRegisters, RecordQueueCsr
from mdevemu.layout import Struct, sizeof, unpack
from mdevemu.memory import PhysicalMemory
from mdevemu.units import Hpa, Iova


@dataclass(frozen=True, slots=True)
class FaultReport:
    """One record that the IOMMU wrote into the fault queue.

    Attributes:
        pasid: None if the request had none.
        iova: of the request; the message code for a PCIe message.
        iotval2: guest-physical address and flags of a guest-page fault, or 0.
    """

    cause: Cause
    kind: TransactionType
    device_id: int
    pasid: int | None
    supervisor: bool
    iova: Iova
    iotval2: int


@dataclass(frozen=True, slots=True)
class PageReport:
    """One record that the IOMMU wrote into the page-request queue.

    Attributes:
        pasid: None if the request had none.
        iova: of the page that is wanted.
        read, write: how.
        last: the group wants a response.
        group: index of the page request group, 9 bits.
    """

    device_id: int
    pasid: int | None
    iova: Iova
    read: bool
    write: bool
    last: bool
    group: int


def fault_report(record: bytes) -> FaultReport:
    """Spec: RISC-V IOMMU 1.0, Fault-queue record"""
    found = unpack(FaultRecord, record)
    header = FaultHeader(found.header)
    return FaultReport(
        cause=Cause(header.cause),
        kind=TransactionType(header.ttyp),
        device_id=header.did,
        pasid=header.pid if header.pv else None,
        supervisor=header.priv,
        iova=Iova(found.iotval),
        iotval2=found.iotval2,
    )


def page_report(record: bytes) -> PageReport:
    """Spec: RISC-V IOMMU 1.0, Page-request-queue record"""
    found = unpack(PageRequestRecord, record)
    header, payload = PageRequestHeader(found.header), PageRequestPayload(found.payload)
    return PageReport(
        device_id=header.did,
        pasid=header.pid if header.pv else None,
        iova=Iova(payload.address << 12),
        read=payload.r,
        write=payload.w,
        last=payload.last,
        group=payload.index,
    )


_OVERFLOW = RecordQueueCsr.overflow.mask


class RecordReader:
    """Software's end of one of the IOMMU's record queues.

    Attributes:
        lost: times that the queue overflowed.
    """

    def __init__(
        self, iommu: Iommu, memory: PhysicalMemory, base: Hpa, log2_entries: int, kind: type[Struct]
    ) -> None:
        """The queue of records of this kind, with its entries at ``base``."""
        self._iommu = iommu
        self._memory = memory
        self._base = base
        self._mask = (1 << log2_entries) - 1
        self._size = sizeof(kind)
        map_, regs = IommuRegisters, iommu.regs
        if kind is FaultRecord:
            self._head_at, self._csr_at = map_.fqh.offset, map_.fqcsr.offset
            self._head, self._tail, self._csr = regs.fqh, regs.fqt, regs.fqcsr
        else:
            self._head_at, self._csr_at = map_.pqh.offset, map_.pqcsr.offset
            self._head, self._tail, self._csr = regs.pqh, regs.pqt, regs.pqcsr
        self.lost = 0

    @property
    def waiting(self) -> bool:
        """There are records, or the queue has stopped."""
        # Asked between any two turns of the loop, so the words are compared whole.
        return int(self._head) != int(self._tail) or int(self._csr) & _OVERFLOW != 0

    def take(self) -> list[bytes]:
        """Every record there is, oldest first; they are gone from the queue afterwards."""
        found, head = [], self._head.index
        while head != self._tail.index:
            found.append(self._memory.read(self._base + head * self._size, self._size))
            head = head + 1 & self._mask
        self._put(self._head_at, head)
        if self._csr.overflow or self._csr.memory_fault:
            self.lost += 1
            self._put(self._csr_at, int(self._csr))  # error bits clear when they are written
        return found

    def _put(self, offset: int, value: int) -> None:
        self._iommu.write_register(offset, value.to_bytes(4, "little"))
