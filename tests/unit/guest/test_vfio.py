"""The parts of VFIO that need no device."""

import ctypes
import mmap
import struct

from guest import vfio


def test_address_of_is_where_the_memory_is_and_does_not_pin_it():
    memory = mmap.mmap(-1, 8192)
    memory[100:105] = b"hello"
    assert ctypes.string_at(vfio.address_of(memory) + 100, 5) == b"hello"
    memory.close()


def test_capabilities_are_followed_to_their_end():
    info = bytearray(64)
    struct.pack_into("<HHI", info, 16, 2, 1, 40)
    struct.pack_into("<HHI", info, 40, 1, 1, 0)
    assert vfio._capabilities(info, 16) == [(2, 16), (1, 40)]
    assert vfio._capabilities(info, 0) == []


def test_ioctl_numbers_are_those_of_the_kernel():
    """Spec: Linux, include/uapi/linux/vfio.h: _IO(';', 100 + n)."""
    numbers = {
        vfio._GET_API_VERSION: 0,
        vfio._CHECK_EXTENSION: 1,
        vfio._SET_IOMMU: 2,
        vfio._GROUP_GET_STATUS: 3,
        vfio._GROUP_SET_CONTAINER: 4,
        vfio._GROUP_GET_DEVICE_FD: 6,
        vfio._DEVICE_GET_REGION_INFO: 8,
        vfio._DEVICE_GET_IRQ_INFO: 9,
        vfio._DEVICE_SET_IRQS: 10,
        vfio._DEVICE_RESET: 11,
        vfio._IOMMU_GET_INFO: 12,
        vfio._IOMMU_MAP_DMA: 13,
        vfio._IOMMU_UNMAP_DMA: 14,
    }
    assert all(code == ord(";") << 8 | 100 + number for code, number in numbers.items())
