"""A bound I/OAT function, for the checks."""

from guest.access import Access
from guest.ioat_driver import Ioat
from guest.protocol import Message


class IoatBench:
    """An I/OAT function on the bench; see ``guest.devices.AnyBench``.

    Attributes:
        access: how the function is reached.
        device: its driver.
    """

    personality = "ioat"

    def __init__(self, access: Access) -> None:
        """Identify the function and reset its channels; owns ``access`` from here on."""
        self.access = access
        self.device = Ioat(access)

    def facts(self) -> Message:
        """What the function is."""
        device = self.device
        return {
            "device": self.access.name,
            "version": ".".join(map(str, device.version)),
            "channels": device.channels,
            "transfer": device.max_transfer,
            "vectors": self.access.vectors,
            "bars": {str(bar): size for bar in range(6) if (size := self.access.size(bar))},
        }

    def close(self) -> None:
        """Stop every channel and give everything back."""
        self.device.disable()
        self.access.close()
