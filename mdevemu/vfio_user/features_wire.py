"""Numbers and layouts of device features: migration and DMA logging.

Spec: QEMU docs/interop/vfio-user.rst, VFIO_USER_DEVICE_FEATURE; linux/vfio.h.
"""

import enum
import struct

from mdevemu.layout import Struct, u32, u64

MAX_RANGES = 4096
"""Most ranges of one DMA_LOGGING_START."""

FEATURE_MASK = 0xFFFF
"""The bits of the flags that name the feature."""


class Feature(enum.IntEnum):
    """Spec: Device Features."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8


class Operation(enum.IntFlag):
    """What to do about a feature."""

    GET = 1 << 16
    SET = 1 << 17
    PROBE = 1 << 18


class MigrationFlags(enum.IntFlag):
    """Which states there are beyond those that always are."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


class MigState(enum.IntEnum):
    """Where a device is on its way from one server to another.

    Spec: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE; 5 and 7 are not used.
    """

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    PRE_COPY = 6


FEATURE = struct.Struct("<II")
"""argsz, flags; data may follow.  Spec: VFIO_USER_DEVICE_FEATURE."""

MIG_DATA = struct.Struct("<II")
"""argsz, size; data may follow.  Spec: VFIO_USER_MIG_DATA_READ, _WRITE."""


class MigrationInfo(Struct):
    """Data of MIGRATION."""

    flags: u64


class DeviceState(Struct):
    """Data of MIG_DEVICE_STATE."""

    device_state: u32
    data_fd: u32


class LoggingStart(Struct):
    """Data of DMA_LOGGING_START; ``num_ranges`` ranges follow."""

    page_size: u64
    num_ranges: u32
    reserved: u32


class LoggingRange(Struct):
    """One range of a DMA_LOGGING_START."""

    iova: u64
    length: u64


class LoggingReport(Struct):
    """Data of DMA_LOGGING_REPORT; in a reply the bitmap follows."""

    iova: u64
    length: u64
    page_size: u64


class BitmapRequest(Struct):
    """What a DMA_UNMAP with GET_DIRTY_BITMAP ends in; in a reply the bitmap follows.

    Source: libvfio-user, struct vfio_user_bitmap; the specification has it no more.
    """

    page_size: u64
    size: u64


def bitmap_size(length: int, page_size: int) -> int:
    """Bytes of a bitmap of so many bytes of memory: whole 64-bit words."""
    pages = -(-length // page_size)
    return -(-pages // 64) * 8
