"""MSIs of a guest's device: from the guest page of an interrupt file to the real one.

Spec: RISC-V IOMMU 1.0, Process to translate addresses of MSIs
"""

from mdevemu.iommu.causes import ACCESS_FAULT, Access, Cause, Fault
from mdevemu.iommu.walk import A, D, Leaf, MsiTable, R, U, V, W
from mdevemu.memory import Miss, PhysicalMemory

_BASIC_RESERVED = ~(0x7 | (1 << 44) - 1 << 10) & (1 << 63) - 1


def interrupt_file(table: MsiTable, gpa: int) -> int | None:
    """Number of the interrupt file at a guest-physical address, or None for other memory.

    Spec: RISC-V IOMMU 1.0, MSI address mask and pattern
    """
    page = gpa >> 12
    # 3. and 4.
    if page & ~table.mask != table.pattern & ~table.mask:
        return None
    # 5. I = extract(A >> 12, DC.msi_addr_mask)
    number, at, mask = 0, 0, table.mask
    while mask:
        if mask & 1:
            number |= (page & 1) << at
            at += 1
        page, mask = page >> 1, mask >> 1
    return number


def msi_leaf(
    memory: PhysicalMemory, table: MsiTable, number: int, access: int, *, big: bool
) -> Leaf:
    """The page that stands for an interrupt file, as a second-stage leaf would give it.

    Raises:
        Fault: causes 1 and 261 to 263.
    """
    # 7. Let msipte be the sixteen bytes at m | (I x 16).
    try:
        data = memory.read(table.root | number * 16, 16)
    except Miss:
        raise Fault(Cause.MSI_PTE_LOAD_ACCESS_FAULT) from None
    order = "big" if big else "little"
    low = int.from_bytes(data[:8], order)  # type: ignore[arg-type]
    high = int.from_bytes(data[8:], order)  # type: ignore[arg-type]
    # 9.
    if not low & V:
        raise Fault(Cause.MSI_PTE_NOT_VALID)
    # 10. C = 1 is custom, and we define none; 12. to 14. M = 3 is all that we support:
    # capabilities.MSI_MRIF is 0.
    if low >> 63 or low >> 1 & 3 != 3 or low & _BASIC_RESERVED or high:
        raise Fault(Cause.MSI_PTE_MISCONFIGURED)
    # 15. As R = W = U = 1 and X = 0 of a second-stage entry.
    if access == Access.EXECUTE:
        raise Fault(ACCESS_FAULT[access])
    return Leaf(low >> 10 << 12 & (1 << 56) - 1, 12, V | R | W | U | A | D, False)
