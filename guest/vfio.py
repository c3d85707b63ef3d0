"""Linux VFIO, type 1: container, group, device, through ioctls.

Spec: Linux 6.12, include/uapi/linux/vfio.h.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence
from fcntl import ioctl
from typing import NamedTuple

from guest.errors import DeviceError

_TYPE1V2 = 3

_GET_API_VERSION = 0x3B64
_CHECK_EXTENSION = 0x3B65
_SET_IOMMU = 0x3B66
_GROUP_GET_STATUS = 0x3B67
_GROUP_SET_CONTAINER = 0x3B68
_GROUP_GET_DEVICE_FD = 0x3B6A
_DEVICE_GET_REGION_INFO = 0x3B6C
_DEVICE_GET_IRQ_INFO = 0x3B6D
_DEVICE_SET_IRQS = 0x3B6E
_DEVICE_RESET = 0x3B6F
_IOMMU_GET_INFO = 0x3B70
_IOMMU_MAP_DMA = 0x3B71
_IOMMU_UNMAP_DMA = 0x3B72

_GROUP_VIABLE = 1
_IOMMU_CAPS = 2
_IOMMU_CAP_RANGES = 1
_REGION_READ, _REGION_WRITE, _REGION_MMAP, _REGION_CAPS = 1, 2, 4, 8
_REGION_CAP_SPARSE = 1
_DMA_READ, _DMA_WRITE = 1, 2
_IRQ_NONE, _IRQ_EVENTFD, _IRQ_TRIGGER = 1, 4, 32

CONFIG_REGION = 7
INTX, MSI, MSIX = 0, 1, 2


class Region(NamedTuple):
    """One region of a device.

    Attributes:
        size: bytes; 0 if the device has no such region.
        offset: where it begins in the device's descriptor.
        areas: (offset in the region, bytes) that can be mapped.
    """

    size: int
    offset: int
    areas: tuple[tuple[int, int], ...]


class Container:
    """An IOMMU address space for the groups that are put in."""

    def __init__(self) -> None:
        """Raises DeviceError if the kernel has no VFIO with a type 1 IOMMU."""
        try:
            self._fileno = os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DeviceError("no /dev/vfio/vfio: the module vfio is not loaded") from None
        version = ioctl(self._fileno, _GET_API_VERSION)
        if version != 0 or not ioctl(self._fileno, _CHECK_EXTENSION, _TYPE1V2):
            self.close()
            raise DeviceError(f"VFIO of version {version} without a type 1 IOMMU")

    def fileno(self) -> int:
        """The container's descriptor."""
        return self._fileno

    def activate(self) -> None:
        """Choose the IOMMU driver, once a group is in."""
        ioctl(self._fileno, _SET_IOMMU, _TYPE1V2)

    def ranges(self) -> list[tuple[int, int]]:
        """(first, last) Iovas that can be mapped."""
        info = _query(self._fileno, _IOMMU_GET_INFO, struct.pack("<IIQII", 24, 0, 0, 0, 0))
        flags, first_capability = struct.unpack_from("<4xI8xI", info)
        found = []
        if flags & _IOMMU_CAPS:
            for kind, at in _capabilities(info, first_capability):
                if kind == _IOMMU_CAP_RANGES:
                    count = struct.unpack_from("<I", info, at + 8)[0]
                    for entry in range(count):
                        found.append(struct.unpack_from("<QQ", info, at + 16 + entry * 16))
        return found or [(0, (1 << 39) - 1)]

    def map(self, iova: int, memory: mmap.mmap) -> None:
        """Let devices read and write ``memory`` at ``iova``."""
        size, address = len(memory), address_of(memory)
        flags = _DMA_READ | _DMA_WRITE
        ioctl(self._fileno, _IOMMU_MAP_DMA, struct.pack("<IIQQQ", 32, flags, address, iova, size))

    def unmap(self, iova: int, size: int) -> None:
        """Take [iova, iova + size) from the devices."""
        answer = bytearray(struct.pack("<IIQQ", 24, 0, iova, size))
        ioctl(self._fileno, _IOMMU_UNMAP_DMA, answer)
        done = struct.unpack_from("<16xQ", answer)[0]
        if done != size:
            raise DeviceError(f"unmapped {done} of {size} bytes at Iova {iova:#x}")

    def close(self) -> None:
        """Give the address space back."""
        os.close(self._fileno)


class Group:
    """An IOMMU group, all of it bound to VFIO."""

    def __init__(self, number: int, container: Container) -> None:
        """Put group ``number`` into the container.

        Raises:
            DeviceError: it is in use, or a device of it is bound to another driver.
        """
        path = f"/dev/vfio/{number}"
        try:
            self._fileno = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"cannot open {path}: {error.strerror}") from None
        status = bytearray(struct.pack("<II", 8, 0))
        ioctl(self._fileno, _GROUP_GET_STATUS, status)
        if not struct.unpack_from("<4xI", status)[0] & _GROUP_VIABLE:
            self.close()
            raise DeviceError(f"IOMMU group {number}: not all of it is bound to VFIO")
        ioctl(self._fileno, _GROUP_SET_CONTAINER, struct.pack("<i", container.fileno()))

    def open_device(self, address: str) -> int:
        """The descriptor of the group's device at a PCI address; opening resets the device."""
        name = bytearray(address.encode("ascii") + b"\0")
        return int(ioctl(self._fileno, _GROUP_GET_DEVICE_FD, name))

    def close(self) -> None:
        """Take the group out of its container."""
        os.close(self._fileno)


def region(device: int, index: int) -> Region:
    """What ``device`` has as region ``index``."""
    request = struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)
    try:
        info = _query(device, _DEVICE_GET_REGION_INFO, request)
    except OSError:
        return Region(0, 0, ())  # the kernel refuses the indices that a device lacks
    flags, first_capability, size, offset = struct.unpack_from("<4xI4xIQQ", info)
    areas: list[tuple[int, int]] = []
    if flags & _REGION_MMAP:
        areas = [(0, size)]
    if flags & _REGION_CAPS:
        for kind, at in _capabilities(info, first_capability):
            if kind == _REGION_CAP_SPARSE:
                count = struct.unpack_from("<I", info, at + 8)[0]
                places = (at + 16 + entry * 16 for entry in range(count))
                areas = [struct.unpack_from("<QQ", info, place) for place in places]
    return Region(size, offset, tuple(areas))


def vectors(device: int, index: int) -> int:
    """Number of interrupts of kind ``index``."""
    info = _query(device, _DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
    return int(struct.unpack_from("<12xI", info)[0])


def enable_interrupts(device: int, index: int, eventfds: Sequence[int]) -> None:
    """Have interrupts 0, 1, ... of kind ``index`` signal these eventfds."""
    size = 20 + 4 * len(eventfds)
    head = struct.pack("<IIIII", size, _IRQ_EVENTFD | _IRQ_TRIGGER, index, 0, len(eventfds))
    ioctl(device, _DEVICE_SET_IRQS, head + struct.pack(f"<{len(eventfds)}i", *eventfds))


def disable_interrupts(device: int, index: int) -> None:
    """No interrupts of kind ``index`` any more."""
    ioctl(
        device,
        _DEVICE_SET_IRQS,
        struct.pack("<IIIII", 20, _IRQ_NONE | _IRQ_TRIGGER, index, 0, 0),
    )


def reset(device: int) -> None:
    """Reset the device: function level reset if it has one."""
    ioctl(device, _DEVICE_RESET)


def address_of(memory: mmap.mmap) -> int:
    """Where our process has ``memory``."""
    # The ctypes object pins the mapping and must be gone before anybody closes it.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _query(fileno: int, request: int, head: bytes) -> bytearray:
    """Ask twice if the kernel has more to say than fits: its answer tells the size it needs."""
    answer = bytearray(head)
    ioctl(fileno, request, answer)
    needed = int(struct.unpack_from("<I", answer)[0])
    if needed > len(answer):
        answer = bytearray(struct.pack("<I", needed) + head[4:]) + bytes(needed - len(head))
        ioctl(fileno, request, answer)
    return answer


def _capabilities(info: bytearray, first: int) -> list[tuple[int, int]]:
    """(id, offset) of each capability in a chain."""
    found = []
    at = first
    while at:
        kind, following = struct.unpack_from("<H2xI", info, at)
        found.append((kind, at))
        at = following
    return found
