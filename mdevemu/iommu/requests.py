"""What a device asks of the IOMMU, and what it is told."""

from dataclasses import dataclass

from mdevemu.iommu.causes import Access, TransactionType

_UNTRANSLATED = {
    1: TransactionType.UNTRANSLATED_READ,
    2: TransactionType.UNTRANSLATED_WRITE_AMO,
    4: TransactionType.UNTRANSLATED_READ_FOR_EXECUTE,
}
_TRANSLATED = {
    1: TransactionType.TRANSLATED_READ,
    2: TransactionType.TRANSLATED_WRITE_AMO,
    4: TransactionType.TRANSLATED_READ_FOR_EXECUTE,
}


@dataclass(frozen=True, slots=True)
class Request:
    """An access, or a question of the device's own translation cache (ATS).

    Attributes:
        device_id: 24 bits.
        process_id: 20 bits, or None without a PASID.
        iova: byte address; a translated request carries what ATS gave it.
        access: READ, WRITE or EXECUTE; a question about writing too has WRITE.
        supervisor: privilege asked for; only together with a process id.
        translated: ATS translated it already.
        asks: a PCIe ATS Translation Request.
        execute: such a question asks for execute permission as well.
    """

    device_id: int
    process_id: int | None
    iova: int
    access: int = Access.READ
    supervisor: bool = False
    translated: bool = False
    asks: bool = False
    execute: bool = False

    @property
    def privileged(self) -> bool:
        """Supervisor privilege is asked for, by a request that can."""
        return self.supervisor and self.process_id is not None

    @property
    def kind(self) -> TransactionType:
        """TTYP of a fault record about it."""
        if self.asks:
            return TransactionType.PCIE_ATS_TRANSLATION_REQUEST
        return (_TRANSLATED if self.translated else _UNTRANSLATED)[self.access]
