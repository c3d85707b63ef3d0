"""Numbers and layouts of regions that are reached by descriptors.

Spec: QEMU docs/interop/vfio-user.rst, VFIO_USER_DEVICE_GET_REGION_IO_FDS; what goes over
an ioregionfd is from E. Afanasova's proposal for KVM (KVM_SET_IOREGION, Linux mailing
list, 2021), which the specification refers to and which no kernel has.
"""

import enum
import struct

from mdevemu.layout import Struct, u32, u64


class IoFdType(enum.IntEnum):
    """What a descriptor is to be used as."""

    IOEVENTFD = 0
    IOREGIONFD = 1


class IoEventFlags(enum.IntFlag):
    """Spec: linux/kvm.h, KVM_IOEVENTFD_FLAG_*."""

    DATAMATCH = 1
    PIO = 2


class IoRegionFlags(enum.IntFlag):
    """Spec: KVM_IOREGION_*."""

    PIO = 1
    POSTED_WRITES = 2


class RegionIoFds(Struct):
    """Spec: VFIO_USER_DEVICE_GET_REGION_IO_FDS; in a reply ``count`` entries follow."""

    argsz: u32
    flags: u32
    index: u32
    count: u32


class IoFd(Struct):
    """One sub-region; ``value`` is the datamatch of an ioeventfd, user_data of an ioregionfd."""

    offset: u64
    size: u64
    fd_index: u32
    type: u32
    flags: u32
    padding: u32
    value: u64


IO_COMMAND = struct.Struct("<I4xQQQ")
"""info, user_data, offset, data: an access that comes over an ioregionfd."""

IO_RESPONSE = struct.Struct("<Q24x")
"""The data of a read, anything for a write."""

IO_READ, IO_WRITE = 0, 1
"""The low four bits of info."""

IO_SIZE_SHIFT, IO_RESPONSE_WANTED = 4, 1 << 6
"""In info: the two bits of the access size, 1 << them bytes; and a write that is answered."""
