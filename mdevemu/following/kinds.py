"""Every kind of event that there is in the trace, and what it means."""

from collections.abc import Mapping

from mdevemu.accel.personality import COMMAND_BEGIN, COMMAND_END
from mdevemu.iommu.observing import COMMAND, HIT, WALK
from mdevemu.pci.function import INTERRUPT

READ, WRITE, LOST = "register.read", "register.write", "trace.lost"

KINDS: Mapping[str, str] = {
    READ: "a guest read a register, or a place without one",
    WRITE: "a guest writes a register, or a place without one",
    COMMAND_BEGIN: "a queue begins a command",
    COMMAND_END: "a command was executed, and this is its status",
    INTERRUPT: "the device raises a vector",
    WALK: "the IOMMU translated an address by tables and contexts, or refused to",
    HIT: "the IOMMU translated an address by what it had cached",
    COMMAND: "the IOMMU fetched a command of the host's driver",
    "iommu.fault": "the IOMMU reported a fault",
    "iommu.page_request": "a function asked its guest for a page",
    "device.fault": "the device refused what its driver did",
    "device.spin": "a guest reads one place over and over, and nothing changes",
    "fault.injected": "an injected fault strikes",
    "function.reset": "a function was reset",
    "function.power": "a function changed its power state",
    "function.bus_master": "a function may reach memory, or not any more",
    "function.no_vector": "a driver asked for an interrupt that does not exist",
    "session.open": "a VMM connected",
    "session.close": "a VMM is gone",
    "session.error": "a request of a VMM was refused, or broke the protocol",
    "session.refused": "a VMM was turned away",
    "dma.map": "a VMM lends memory",
    "dma.unmap": "a VMM takes memory back",
    "dma.refused": "a VMM refused to give or take bytes of memory that it keeps",
    "iofd.closed": "a descriptor by which a VMM rang doorbells cannot be used any more",
    "engine.reprogram": "an engine is to become something else",
    "mdev.created": "an mdev was created",
    "mdev.removed": "an mdev was removed",
    "mdev.not_started": "an mdev that is defined to start could not be created",
    LOST: "a follower was too slow for so many events",
}

DETAILS: Mapping[str, frozenset[str]] = {
    READ: frozenset({"register"}),
    WRITE: frozenset({"register"}),
    COMMAND_BEGIN: frozenset({"queue", "pasid"}),
    COMMAND_END: frozenset({"queue", "pasid"}),
    INTERRUPT: frozenset(),
    WALK: frozenset({"pasid"}),
    HIT: frozenset({"pasid"}),
    COMMAND: frozenset(),
}
"""Events that are made only while somebody follows them, with those facts of each that
filters ask for."""
