"""How the IOMMU itself interrupts: pending bits, then a wire or a message.

Spec: RISC-V IOMMU 1.0, Interrupt pending status register; MSI configuration table
"""

import enum
from collections.abc import Callable

from mdevemu.iommu.registers import VECTORS, IommuRegisters
from mdevemu.layout.words import put_raw
from mdevemu.memory import Miss, PhysicalMemory


class Source(enum.IntEnum):
    """What interrupts; the bit in ipsr."""

    COMMAND_QUEUE = 0
    FAULT_QUEUE = 1
    COUNTERS = 2
    PAGE_REQUEST_QUEUE = 3


class InterruptLogic:
    """ipsr, icvec and msi_cfg_tbl at work.

    Attributes:
        wire: called with (vector, level) when a wire changes; fctl.WSI chooses wires.
        failed: called with the address of a message that could not be written.
    """

    def __init__(self, regs: IommuRegisters, memory: PhysicalMemory) -> None:
        self._regs = regs
        self._memory = memory
        self._pending = 0  # vectors whose message waits for its mask to go
        self._high = 0  # wires that are up
        self.wire: Callable[[int, bool], None] = lambda vector, level: None
        self.failed: Callable[[int], None] = lambda address: None

    def raise_(self, source: Source) -> None:
        """Set a source's pending bit; only the change from 0 to 1 sends a message."""
        raw = int(self._regs.ipsr)
        if raw >> source & 1:
            return
        put_raw(self._regs.ipsr, raw | 1 << source)
        if self._regs.fctl.wsi:
            self.drive()
        else:
            self._send(self._vector(source))

    def drive(self) -> None:
        """Put the wires where ipsr, icvec and fctl.WSI have them."""
        pending, held = int(self._regs.ipsr), 0
        if self._regs.fctl.wsi:
            for source in Source:
                if pending >> source & 1:
                    held |= 1 << self._vector(source)
        changed, self._high = self._high ^ held, held
        for vector in range(VECTORS):
            if changed >> vector & 1:
                self.wire(vector, bool(held >> vector & 1))

    def unmasked(self, vector: int) -> None:
        """Software wrote a vector's control: send what waited."""
        if self._pending >> vector & 1 and not self._regs.msi_vec_ctl[vector].masked:
            self._pending &= ~(1 << vector)
            self._send(vector)

    def _vector(self, source: Source) -> int:
        return int(self._regs.icvec) >> 4 * source & 0xF

    def _send(self, vector: int) -> None:
        if self._regs.msi_vec_ctl[vector].masked:
            self._pending |= 1 << vector
            return
        address = self._regs.msi_addr[vector].addr << 2
        order = "big" if self._regs.fctl.be else "little"
        try:
            self._memory.write(address, self._regs.msi_data[vector].data.to_bytes(4, order))  # type: ignore[arg-type]
        except Miss:
            self.failed(address)
