"""Buffers in HBM: the device's allocator, and what slices share.

Addresses are operands of commands with an HBM flag.  Spec: docs/native.md, Buffers in HBM
"""

import time
from typing import NamedTuple

from guest import native
from guest.driver import Device, bits
from guest.errors import DeviceError, DeviceTimeout
from guest.native import HbmOperation, HbmStatusCode

_NAP = 0.001  # seconds between two looks at what is to be scrubbed


class Refused(DeviceError):
    """The device did not do what was asked about a buffer; nothing has changed.

    Attributes:
        status: a ``native.HbmStatusCode``.
    """

    kind = "Refused"

    def __init__(self, operation: HbmOperation, argument: int, status: HbmStatusCode) -> None:
        super().__init__(f"{operation.name} {argument:#x}: {status.name}")
        self.status = status


class HbmBuffer(NamedTuple):
    """A buffer of this slice's, or one that was imported.

    Attributes:
        size: bytes, whole pages.
    """

    address: int
    size: int


class Usage(NamedTuple):
    """What there is of buffers, in bytes.

    Attributes:
        high_water: the most that was ever used since the reset.
        scrubbing: freed, and still to be scrubbed.
        imported: other slices', reachable by this one.
    """

    used: int
    high_water: int
    scrubbing: int
    imported: int


class Buffers:
    """The buffers of one device.  Everything raises Refused if the device does."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def allocate(self, size: int, *, mapped: bool = False) -> HbmBuffer:
        """A buffer of at least ``size`` bytes, all zero.

        In the aperture it lies in one piece; ``mapped`` by the slice's MMU it has an address
        above, and lies wherever there is room.
        """
        return self._placed(
            HbmOperation.ALLOCATE, size, flags=bits(mapped, native.HBM_COMMAND_MAPPED)
        )

    def free(self, buffer: HbmBuffer) -> None:
        """Give a buffer back; it is scrubbed, and nobody reaches it by what was shared of it."""
        self._do(HbmOperation.FREE, buffer.address)

    def join(self) -> int:
        """The number by which other drivers can export to this slice, until it is reset."""
        return self._do(HbmOperation.JOIN)

    def export(self, buffer: HbmBuffer, peer: int, *, writable: bool = False) -> int:
        """A handle with which the slice of that number, and no other, can import a buffer."""
        wanted = bits(peer, native.HBM_PEER_NUMBER) | bits(writable, native.HBM_PEER_WRITABLE)
        self._device.write64(native.HBM_PEER, wanted)
        return self._do(HbmOperation.EXPORT, buffer.address)

    def revoke(self, handle: int) -> None:
        """Take an export back; the other slice reaches nothing of it when this returns."""
        self._do(HbmOperation.REVOKE, handle)

    def take(self, handle: int) -> HbmBuffer:
        """Import what another slice exported to this one."""
        return self._placed(HbmOperation.IMPORT, handle)

    def release(self, imported: HbmBuffer) -> None:
        """Reach what was imported no more."""
        self._do(HbmOperation.RELEASE, imported.address)

    @property
    def usage(self) -> Usage:
        """What there is now."""
        read = self._device.read64
        return Usage(
            used=read(native.HBM_USED),
            high_water=read(native.HBM_HIGH_WATER),
            scrubbing=read(native.HBM_SCRUBBING),
            imported=read(native.HBM_IMPORTED),
        )

    def wait_scrubbed(self, seconds: float = 30) -> None:
        """Wait until all that was freed can be allocated again.

        Raises:
            DeviceTimeout: it takes longer; the message says how much is left.
        """
        deadline = time.monotonic() + seconds
        while left := self.usage.scrubbing:
            if time.monotonic() > deadline:
                raise DeviceTimeout(f"{left} bytes are not scrubbed after {seconds} s")
            time.sleep(_NAP)

    def _placed(self, operation: HbmOperation, argument: int, flags: int = 0) -> HbmBuffer:
        """Do what gives an address, and a size."""
        address = self._do(operation, argument, flags)
        return HbmBuffer(address, self._device.read64(native.HBM_LENGTH))

    def _do(self, operation: HbmOperation, argument: int = 0, flags: int = 0) -> int:
        """Have the device do something; its result."""
        device = self._device
        device.write64(native.HBM_ARGUMENT, argument)
        device.write32(native.HBM_COMMAND, bits(operation, native.HBM_COMMAND_OPERATION) | flags)
        status = HbmStatusCode(device.read32(native.HBM_STATUS))
        if status != HbmStatusCode.OK:
            raise Refused(operation, argument, status)
        return device.read64(native.HBM_RESULT)
