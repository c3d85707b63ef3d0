"""The device's registers for PASIDs: its process directory, invalidations, page requests.

Spec: docs/native.md; PCIe 5.0 §10.4.2 (response codes)
"""

import time
from typing import NamedTuple

from guest import native
from guest.access import Buffer, Interrupt
from guest.driver import Device, bits
from guest.errors import DeviceTimeout
from guest.native import InvalidateKind, PasidMode
from guest.tables import Directory

SUCCESS, INVALID = 0, 1
READ, WRITE = 1, 2  # flags of a page request
_MODULO = 1 << 32
_NAP = 0.001  # seconds between two looks at the ring


def use_directory(device: Device, directory: Directory) -> None:
    """Let the device find processes in a directory, from now on."""
    device.write64(native.PASID_TABLE, directory.base | directory.mode)


def forget_directory(device: Device) -> None:
    """From now on every access with a PASID faults."""
    device.write64(native.PASID_TABLE, PasidMode.OFF)


def invalidate_context(device: Device, pasid: int) -> None:
    """The process context of a PASID has changed."""
    _invalidate(device, InvalidateKind.CONTEXT, pasid)


def invalidate_space(device: Device, pscid: int | None) -> None:
    """Entries of an address space have changed, or with None of any."""
    _invalidate(device, InvalidateKind.SPACE, pscid)


def invalidate_page(device: Device, pscid: int | None, address: int) -> None:
    """The entry of one page has changed."""
    device.write64(native.INVALIDATE_ADDRESS, address)
    _invalidate(device, InvalidateKind.PAGE, pscid)


def _invalidate(device: Device, kind: InvalidateKind, which: int | None) -> None:
    word = bits(kind, native.INVALIDATE_KIND)
    word |= bits(1, native.INVALIDATE_ALL) if which is None else bits(which, native.INVALIDATE_ID)
    device.write32(native.INVALIDATE, word)


class PageRequest(NamedTuple):
    """A page that the device wants before it goes on.

    Attributes:
        address: virtual, of the page.
        group: number to answer with.
        flags: READ or WRITE.
    """

    address: int
    pasid: int
    group: int
    flags: int


class PageRequests:
    """The ring that the device puts page requests into, while this is open.

    Attributes:
        interrupt: its vector's interrupts; None if the device has no vectors.
    """

    def __init__(
        self,
        device: Device,
        memory: Buffer,
        *,
        log2_entries: int = 3,
        vector: int = native.FAULT_VECTOR,
    ) -> None:
        """Take page requests; the ring is at the start of ``memory``."""
        self._device = device
        self._memory = memory
        self._entries = 1 << log2_entries
        self._head = 0
        self.interrupt: Interrupt | None = None
        self._before = 0  # interrupts of the vector before the first page request
        if device.access.vectors:
            self.interrupt = device.access.interrupt(vector)
            self.interrupt.take()
            self._before = self.interrupt.total
        device.write64(native.PAGE_REQUEST_BASE, memory.iova)
        size = bits(log2_entries, native.PAGE_REQUEST_SIZE_LOG2_ENTRIES)
        device.write32(native.PAGE_REQUEST_SIZE, size)
        control = bits(1, native.PAGE_REQUEST_CONTROL_ENABLE)
        control |= bits(vector, native.PAGE_REQUEST_CONTROL_VECTOR)
        device.write32(native.PAGE_REQUEST_CONTROL, control)

    @property
    def interrupts(self) -> int:
        """Interrupts that arrived for page requests."""
        if self.interrupt is None:
            return 0
        self.interrupt.take()
        return self.interrupt.total - self._before

    def take(self) -> list[PageRequest]:
        """Page requests that are there; their slots go back to the device."""
        tail = self._device.read32(native.PAGE_REQUEST_TAIL)
        found = []
        while self._head != tail:
            at = self._head % self._entries * native.PAGE_REQUEST.size
            record = native.PAGE_REQUEST.unpack_from(self._memory.view, at)
            found.append(PageRequest(*record))
            self._head = (self._head + 1) % _MODULO
        if found:
            self._device.write32(native.PAGE_REQUEST_HEAD, self._head)
        return found

    def wait(self, seconds: float) -> PageRequest:
        """The next page request, when no other can come before it is answered.

        Raises:
            DeviceTimeout: none came in time.
        """
        deadline = time.monotonic() + seconds
        while not (found := self.take()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeviceTimeout(
                    f"no page request for {seconds} s: fault record {self._device.fault()}"
                )
            if self.interrupt is not None:
                self.interrupt.wait(left)
            else:
                time.sleep(min(left, _NAP))
        return found[0]

    def answer(self, request: PageRequest, code: int) -> None:
        """Let the device go on: the page is there (SUCCESS), or never will be (INVALID)."""
        word = bits(request.group, native.PAGE_RESPONSE_GROUP)
        word |= bits(request.pasid, native.PAGE_RESPONSE_PASID)
        word |= bits(code, native.PAGE_RESPONSE_CODE)
        self._device.write64(native.PAGE_RESPONSE, word)

    def close(self) -> None:
        """Take no more page requests: a page that is missing faults at once."""
        self._device.write32(native.PAGE_REQUEST_CONTROL, 0)
