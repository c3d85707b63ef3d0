"""The native device's driver in user space: identification, faults, counters, its queues.

Sizes are bytes, addresses are Iovas or, where a command's flag says so, HBM offsets.
"""

from collections.abc import Mapping
from typing import NamedTuple

from guest import native
from guest.access import Access
from guest.errors import DeviceError

COUNTERS: Mapping[str, int] = {
    "completed": native.COMPLETED,
    "failed": native.FAILED,
    "bytes-read": native.BYTES_READ,
    "bytes-written": native.BYTES_WRITTEN,
    "interrupts": native.INTERRUPTS,
    "doorbells": native.DOORBELLS,
    "faults": native.FAULTS,
    "busy-ns": native.BUSY_NS,
    "hbm-bytes": native.HBM_BYTES,
    "weight": native.WEIGHT,
}


def field(value: int, place: tuple[int, int]) -> int:
    """The bits of ``value`` at (lowest bit, width)."""
    low, width = place
    return value >> low & (1 << width) - 1


def bits(value: int, place: tuple[int, int]) -> int:
    """``value`` moved to (lowest bit, width)."""
    return value << place[0]


class Fault(NamedTuple):
    """What the fault record holds.

    Attributes:
        code: a ``native.FaultCode``.
        queue: which queue's driver is to blame.
        cause: the IOMMU's cause, 0 if it was not asked.
        address: the Iova or register value at fault.
        descriptor: index of the one at fault.
        overflow: later faults were lost.
    """

    code: int
    queue: int
    cause: int
    address: int
    descriptor: int
    overflow: bool


class Device:
    """One native device, identified and reset.

    Attributes:
        access: how it is reached.
        queues: number of queues.
        max_entries: descriptors that a ring holds at most.
        max_transfer: bytes that one command moves at most.
        hbm: bytes of its HBM.
        operations: codes that it executes.
        event_index: it can be driven without a doorbell per command.
        pasid_bits: width of the PASIDs that are ours to give; 0 if there are none.
        page_requests: it can ask for a page that is missing.
    """

    def __init__(self, access: Access) -> None:
        """Identify and reset the device behind ``access``, and enable it.

        Raises:
            DeviceError: it is not the native device, or not of a version we drive.
        """
        self.access = access
        magic = self.read32(native.MAGIC)
        if magic != native.MAGIC_VALUE:
            raise DeviceError(f"{access.name}: MAGIC is {magic:#x}, not {native.MAGIC_VALUE:#x}")
        major = field(self.read32(native.VERSION), native.VERSION_MAJOR)
        if major != 1:
            raise DeviceError(f"{access.name}: version {major} of the device, this driver knows 1")
        capabilities = self.read64(native.CAPABILITIES)
        self.queues = field(capabilities, native.CAPABILITIES_QUEUES)
        self.max_entries = 1 << field(capabilities, native.CAPABILITIES_LOG2_MAX_ENTRIES)
        self.max_transfer = 1 << field(capabilities, native.CAPABILITIES_LOG2_MAX_TRANSFER)
        self.event_index = bool(field(capabilities, native.CAPABILITIES_EVENT_INDEX))
        self.hbm = self.read64(native.HBM_SIZE)
        pasids = self.read32(native.PASID_CAPABILITIES)
        self.pasid_bits = field(pasids, native.PASID_CAPABILITIES_BITS)
        self.page_requests = bool(field(pasids, native.PASID_CAPABILITIES_PAGE_REQUESTS))
        self.operations = self._operations()
        self.reset()

    def _operations(self) -> list[int]:
        offered = self.read64(native.OPERATIONS)
        return [code for code in range(64) if offered >> code & 1]

    def read32(self, offset: int) -> int:
        """A 32-bit register of BAR0."""
        return self.access.read(native.REGISTERS_BAR, offset, 4)

    def read64(self, offset: int) -> int:
        """A 64-bit register of BAR0."""
        return self.access.read(native.REGISTERS_BAR, offset, 8)

    def write32(self, offset: int, value: int) -> None:
        """A 32-bit register of BAR0."""
        self.access.write(native.REGISTERS_BAR, offset, value, 4)

    def write64(self, offset: int, value: int) -> None:
        """A 64-bit register of BAR0."""
        self.access.write(native.REGISTERS_BAR, offset, value, 8)

    def ring_doorbell(self, queue: int, offset: int, value: int) -> None:
        """Write a doorbell of the queue's page."""
        page = queue * native.DOORBELL_STRIDE
        self.access.write(native.DOORBELLS_BAR, page + offset, value, 4)

    def reset(self) -> None:
        """Reset the device through its own register and enable it again."""
        self.write32(native.CONTROL, bits(1, native.CONTROL_RESET))
        self.write32(native.CONTROL, bits(1, native.CONTROL_ENABLE))
        state = field(self.read32(native.STATUS), native.STATUS_STATE)
        if state != native.DeviceState.READY:
            raise DeviceError(f"{self.access.name}: enabled, but STATUS.STATE is {state}")

    def disable(self) -> None:
        """Stop every queue; the device touches no memory from here on."""
        self.write32(native.CONTROL, 0)

    def take_event(self) -> bool:
        """See if what the device does was changed since the last look, and read it again."""
        changed = bits(1, native.EVENT_STATUS_FUNCTIONS_CHANGED)
        if not self.read32(native.EVENT_STATUS) & changed:
            return False
        # First, so that a change after the reading is another event.
        self.write32(native.EVENT_STATUS, changed)
        self.operations = self._operations()
        return True

    def fault(self) -> Fault | None:
        """The fault record, if it holds a fault."""
        status = self.read32(native.FAULT_STATUS)
        if not field(status, native.FAULT_STATUS_VALID):
            return None
        return Fault(
            code=field(status, native.FAULT_STATUS_CODE),
            queue=field(status, native.FAULT_STATUS_QUEUE),
            cause=self.read32(native.FAULT_CAUSE),
            address=self.read64(native.FAULT_ADDRESS),
            descriptor=self.read64(native.FAULT_INDEX),
            overflow=bool(field(status, native.FAULT_STATUS_OVERFLOW)),
        )

    def clear_fault(self) -> None:
        """Make the fault record ready for the next fault."""
        both = bits(1, native.FAULT_STATUS_VALID) | bits(1, native.FAULT_STATUS_OVERFLOW)
        self.write32(native.FAULT_STATUS, both)

    def counters(self) -> dict[str, int]:
        """The monitoring page."""
        return {name: self.read64(offset) for name, offset in COUNTERS.items()}
