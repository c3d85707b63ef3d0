"""Why a request faulted, and what kind of request it was.

Spec: RISC-V IOMMU 1.0, Fault/Event-Queue, CAUSE and TTYP encodings
"""

import enum
from typing import Self


class Titled(enum.IntEnum):
    """Numbers with a name for people.

    Attributes:
        title: as the specification writes it.
    """

    title: str

    def __new__(cls, number: int, title: str = "") -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.title = title
        return member


class Cause(Titled):
    """CAUSE of a fault record; the names are the specification's.

    Spec: RISC-V IOMMU 1.0, Fault/Event-Queue, CAUSE field encodings
    """

    INSTRUCTION_ACCESS_FAULT = 1, "Instruction access fault"
    READ_ADDRESS_MISALIGNED = 4, "Read address misaligned"
    READ_ACCESS_FAULT = 5, "Read access fault"
    WRITE_AMO_ADDRESS_MISALIGNED = 6, "Write/AMO address misaligned"
    WRITE_AMO_ACCESS_FAULT = 7, "Write/AMO access fault"
    INSTRUCTION_PAGE_FAULT = 12, "Instruction page fault"
    READ_PAGE_FAULT = 13, "Read page fault"
    WRITE_AMO_PAGE_FAULT = 15, "Write/AMO page fault"
    INSTRUCTION_GUEST_PAGE_FAULT = 20, "Instruction guest page fault"
    READ_GUEST_PAGE_FAULT = 21, "Read guest-page fault"
    WRITE_AMO_GUEST_PAGE_FAULT = 23, "Write/AMO guest-page fault"
    ALL_INBOUND_TRANSACTIONS_DISALLOWED = 256, "All inbound transactions disallowed"
    DDT_ENTRY_LOAD_ACCESS_FAULT = 257, "DDT entry load access fault"
    DDT_ENTRY_NOT_VALID = 258, "DDT entry not valid"
    DDT_ENTRY_MISCONFIGURED = 259, "DDT entry misconfigured"
    TRANSACTION_TYPE_DISALLOWED = 260, "Transaction type disallowed"
    MSI_PTE_LOAD_ACCESS_FAULT = 261, "MSI PTE load access fault"
    MSI_PTE_NOT_VALID = 262, "MSI PTE not valid"
    MSI_PTE_MISCONFIGURED = 263, "MSI PTE misconfigured"
    MRIF_ACCESS_FAULT = 264, "MRIF access fault"
    PDT_ENTRY_LOAD_ACCESS_FAULT = 265, "PDT entry load access fault"
    PDT_ENTRY_NOT_VALID = 266, "PDT entry not valid"
    PDT_ENTRY_MISCONFIGURED = 267, "PDT entry misconfigured"
    DDT_DATA_CORRUPTION = 268, "DDT data corruption"
    PDT_DATA_CORRUPTION = 269, "PDT data corruption"
    MSI_PT_DATA_CORRUPTION = 270, "MSI PT data corruption"
    MSI_MRIF_DATA_CORRUPTION = 271, "MSI MRIF data corruption"
    INTERNAL_DATA_PATH_ERROR = 272, "Internal data path error"
    IOMMU_MSI_WRITE_ACCESS_FAULT = 273, "IOMMU MSI write access fault"
    FIRST_SECOND_STAGE_PT_DATA_CORRUPTION = 274, "First/second-stage PT data corruption"


class TransactionType(Titled):
    """TTYP of a fault record.

    Spec: RISC-V IOMMU 1.0, Fault/Event-Queue, TTYP field encodings
    """

    NONE = 0, "None"
    UNTRANSLATED_READ_FOR_EXECUTE = 1, "Untranslated read for execute"
    UNTRANSLATED_READ = 2, "Untranslated read"
    UNTRANSLATED_WRITE_AMO = 3, "Untranslated write/AMO"
    TRANSLATED_READ_FOR_EXECUTE = 5, "Translated read for execute"
    TRANSLATED_READ = 6, "Translated read"
    TRANSLATED_WRITE_AMO = 7, "Translated write/AMO"
    PCIE_ATS_TRANSLATION_REQUEST = 8, "PCIe ATS translation request"
    PCIE_MESSAGE_REQUEST = 9, "PCIe message request"


class Access(enum.IntFlag):
    """What a request does; the bits stand as R, W and X do in an entry, shifted down by one."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


# Plain dicts of ints: a walk looks into them on every fault, and an access is often a bare int.
PAGE_FAULT = {
    1: Cause.READ_PAGE_FAULT,
    2: Cause.WRITE_AMO_PAGE_FAULT,
    4: Cause.INSTRUCTION_PAGE_FAULT,
}
GUEST_PAGE_FAULT = {
    1: Cause.READ_GUEST_PAGE_FAULT,
    2: Cause.WRITE_AMO_GUEST_PAGE_FAULT,
    4: Cause.INSTRUCTION_GUEST_PAGE_FAULT,
}
ACCESS_FAULT = {
    1: Cause.READ_ACCESS_FAULT,
    2: Cause.WRITE_AMO_ACCESS_FAULT,
    4: Cause.INSTRUCTION_ACCESS_FAULT,
}

ALWAYS_REPORTED = frozenset(
    {
        Cause.ALL_INBOUND_TRANSACTIONS_DISALLOWED,
        Cause.DDT_ENTRY_LOAD_ACCESS_FAULT,
        Cause.DDT_ENTRY_NOT_VALID,
        Cause.DDT_ENTRY_MISCONFIGURED,
        Cause.DDT_DATA_CORRUPTION,
        Cause.INTERNAL_DATA_PATH_ERROR,
        Cause.IOMMU_MSI_WRITE_ACCESS_FAULT,
    }
)
"""Causes that are reported although the device context's DTF is 1."""


class Fault(Exception):
    """A translation stopped; it becomes a fault record and the requester's answer.

    Attributes:
        cause: why.
        iotval2: the fault record's second value (guest-physical address and flags), or 0.
        iova: of a batch, the Iova that it stopped at; None for a single request.
    """

    def __init__(self, cause: Cause, iotval2: int = 0) -> None:
        super().__init__(cause.title)
        self.cause = cause
        self.iotval2 = iotval2
        self.iova: int | None = None
