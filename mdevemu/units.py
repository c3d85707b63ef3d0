"""Address kinds and sizes.  An address of one kind is never used as another.

Iova  what a device puts on the bus, before the IOMMU translates it.
Gpa   guest physical: what the code in a VM calls an address of its memory.
Hpa   physical memory of the emulated host: page tables, HBM, windows lent by VMMs.
"""

from typing import NewType

Iova = NewType("Iova", int)
Gpa = NewType("Gpa", int)
Hpa = NewType("Hpa", int)

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
PAGE = 4 * KIB

HBM_IOVA = Iova(0xFFFF_8000_0000_0000)
"""Where a slice finds its HBM: the start of the upper canonical half, which no window can reach."""

HBM_GPA = Gpa(1 << 48)
"""Where a slice with a device id of its own finds it: above all windows, without a PASID."""
