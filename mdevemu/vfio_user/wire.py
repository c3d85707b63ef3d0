"""Numbers, limits and layouts, as the specification gives them.

Everything is little-endian (the specification says host order; we are x86 and
RISC-V).  Sizes are in bytes.  Spec: QEMU docs/interop/vfio-user.rst.
"""

import enum
import struct
from typing import Annotated

from mdevemu.layout import U32, Struct, u16, u32, u64
from mdevemu.units import KIB, MIB, PAGE

MAJOR = 0
MINOR = 1
"""The protocol version that we speak; a client that proposes less gets less."""

MAX_TRANSFER = MIB
"""Most data bytes of one read or write (max_data_xfer_size)."""

MAX_FDS = 16
"""Most descriptors of one message (max_msg_fds); QEMU refuses a server that says more."""

MAX_MAPS = 65535
"""Most DMA windows of one session (max_dma_maps); QEMU refuses a server that says more."""

MAX_WINDOW = 1 << 43
"""Most bytes of one DMA window, 8 TiB."""

MAX_MESSAGE = MAX_TRANSFER + 4 * KIB
"""Most bytes of one message.

A little more than a full REGION_WRITE, so that one with too much data is
answered with an error before the size ends the session.
"""

MAX_WRITES = 1024
"""Most writes in one REGION_WRITE_MULTI (QEMU sends 200), so that one message is short work."""

PAGE_SIZES = PAGE
"""Granularity of DMA windows, sizes or'ed together (pgsizes)."""

REGIONS = 9
IRQS = 5


class Command(enum.IntEnum):
    """Spec: Commands.  11 and 12 go from server to client."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


def name(command: int) -> str:
    """What a command is called, also one that nobody knows."""
    return Command(command).name if command in _COMMANDS else f"command {command}"


_COMMANDS = frozenset(Command)


class RegionIndex(enum.IntEnum):
    """Which region a number names.  Spec: linux/vfio.h, VFIO_PCI_*_REGION_INDEX."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class Irq(enum.IntEnum):
    """Which interrupts a number names.  Spec: linux/vfio.h, VFIO_PCI_*_IRQ_INDEX."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


# Header flags.  Plain ints: they are looked at for every message.
TYPE_MASK = 0xF
COMMAND = 0x0
REPLY = 0x1
NO_REPLY = 0x10
ERROR = 0x20

HEADER = struct.Struct("<HHIII")
"""id, command, size of header and payload, flags, errno.  Spec: Header."""

HEADER_SIZE = HEADER.size

ACCESS = struct.Struct("<QII")
"""offset, region, count; data may follow.  Spec: VFIO_USER_REGION_READ, _WRITE."""

ACCESS_SIZE = ACCESS.size

DMA = struct.Struct("<QQ")
"""address, count; data may follow.  Spec: VFIO_USER_DMA_READ, _WRITE."""

MULTI = struct.Struct("<QII8s")
"""offset, region, count, data: one write of a REGION_WRITE_MULTI."""

COUNT = struct.Struct("<Q")
"""How many writes a REGION_WRITE_MULTI has, or did."""

VERSION = struct.Struct("<HH")
"""major, minor; NUL-terminated JSON may follow.  Spec: VFIO_USER_VERSION."""


class MapFlags(enum.IntFlag):
    """What a device may do with a DMA window."""

    READ = 1
    WRITE = 2


class UnmapFlags(enum.IntFlag):
    """How to unmap."""

    GET_DIRTY_BITMAP = 1
    ALL = 2


class DeviceFlags(enum.IntFlag):
    """What a device is."""

    RESET = 1
    PCI = 2


class RegionFlags(enum.IntFlag):
    """What a client may do with a region."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


class IrqFlags(enum.IntFlag):
    """What a client may do with the interrupts of an index."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class SetFlags(enum.IntFlag):
    """The data and the action of a SET_IRQS: one of each."""

    NONE = 0x01
    BOOL = 0x02
    EVENTFD = 0x04
    MASK = 0x08
    UNMASK = 0x10
    TRIGGER = 0x20


class DmaMap(Struct):
    """Spec: VFIO_USER_DMA_MAP."""

    argsz: u32
    flags: Annotated[MapFlags, U32]
    offset: u64
    address: u64
    size: u64


class DmaUnmap(Struct):
    """Spec: VFIO_USER_DMA_UNMAP."""

    argsz: u32
    flags: Annotated[UnmapFlags, U32]
    address: u64
    size: u64


class DeviceInfo(Struct):
    """Spec: VFIO_USER_DEVICE_GET_INFO."""

    argsz: u32
    flags: Annotated[DeviceFlags, U32]
    num_regions: u32
    num_irqs: u32


class RegionInfo(Struct):
    """Spec: VFIO_USER_DEVICE_GET_REGION_INFO; capabilities may follow in a reply."""

    argsz: u32
    flags: Annotated[RegionFlags, U32]
    index: u32
    cap_offset: u32
    size: u64
    offset: u64


SPARSE_MMAP = 1
"""Capability id of a list of mappable areas."""


class SparseMmap(Struct):
    """Spec: VFIO sparse mmap cap header; ``nr_areas`` areas follow."""

    id: u16
    version: u16
    next: u32
    nr_areas: u32
    reserved: u32


class Area(Struct):
    """One mappable area of a region."""

    offset: u64
    size: u64


class IrqInfo(Struct):
    """Spec: VFIO_USER_DEVICE_GET_IRQ_INFO."""

    argsz: u32
    flags: Annotated[IrqFlags, U32]
    index: u32
    count: u32


class SetIrqs(Struct):
    """Spec: VFIO_USER_DEVICE_SET_IRQS; with BOOL, ``count`` bytes follow."""

    argsz: u32
    flags: Annotated[SetFlags, U32]
    index: u32
    start: u32
    count: u32
