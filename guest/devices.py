"""Devices that the agent drives, by their PCI ids."""

import struct
from collections.abc import Callable, Mapping
from typing import Protocol

from guest import ioat, native
from guest.access import Access
from guest.bench import Bench
from guest.errors import DeviceError
from guest.ioat_bench import IoatBench
from guest.protocol import Message


class AnyBench(Protocol):
    """A bound device of any personality.

    Attributes:
        personality: which; it chooses the checks.
        access: how the device is reached.
    """

    @property
    def personality(self) -> str: ...
    @property
    def access(self) -> Access: ...

    def facts(self) -> Message:
        """What the device is."""
        ...

    def close(self) -> None:
        """Stop the device and give everything back."""
        ...


BENCHES: Mapping[tuple[int, int], Callable[[Access], AnyBench]] = {
    (native.VENDOR, native.DEVICE): Bench,
    (ioat.VENDOR, ioat.DEVICE): IoatBench,
}


def bench_of(access: Access) -> AnyBench:
    """Put the device on the bench that its ids ask for; the bench owns ``access`` from then on.

    Raises:
        DeviceError: it is none that we drive, or does not do what it documents.
    """
    vendor, device = struct.unpack("<HH", access.config(0, 4))
    if (vendor, device) not in BENCHES:
        raise DeviceError(f"{access.name}: is a {vendor:04x}:{device:04x} (accepted: {accepted()})")
    return BENCHES[vendor, device](access)


def accepted() -> str:
    """The ids of all that we drive, for people."""
    return ", ".join(f"{vendor:04x}:{device:04x}" for vendor, device in BENCHES)
