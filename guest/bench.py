"""A bound device with what the checks left on it, so that one check can build on another."""

from contextlib import AbstractContextManager

from guest import native
from guest.access import Access, Buffer, allocated
from guest.benches import Run
from guest.driver import Device
from guest.protocol import Message
from guest.queue import Queue, Rings, User

__all__ = ["Bench", "Run", "operation_name", "status_name"]


class Bench:
    """A native device on the bench; see ``guest.devices.AnyBench``.

    Attributes:
        access: how the device is reached.
        device: its driver.
        events: interrupts that tell of faults and of changes.
        held: buffers that outlive their check, by what they hold.
        kept: queues that outlive their check, by number.
    """

    personality = "native"

    def __init__(self, access: Access) -> None:
        """Identify the device, reset and enable it; owns ``access`` from here on."""
        self.access = access
        self.device = Device(access)
        self.events = access.interrupt(native.EVENT_VECTOR)
        self.held: dict[str, Buffer] = {}
        self.kept: dict[int, Queue] = {}

    def hold(self, name: str, size: int) -> Buffer:
        """Memory that stays until the bench is closed; what had that name is released."""
        if name in self.held:
            self.access.release(self.held.pop(name))
        self.held[name] = self.access.allocate(size)
        return self.held[name]

    def memory(self, size: int) -> AbstractContextManager[Buffer]:
        """Memory for the length of a block."""
        return allocated(self.access, size)

    def open_queue(
        self,
        number: int = 0,
        *,
        log2_entries: int = 6,
        event_index: bool = False,
        interrupts: bool = True,
        rings: Rings | None = None,
        user: User | None = None,
    ) -> Queue:
        """A running queue; interrupts with vector 1 + its number, if there is that vector.

        A kept queue of that number is closed first.
        """
        if number in self.kept:
            self.kept.pop(number).close()
        vector = native.FAULT_VECTOR + 1 + number
        return Queue(
            self.device,
            number,
            log2_entries=log2_entries,
            vector=vector if interrupts and vector < self.access.vectors else None,
            event_index=event_index and self.device.event_index,
            rings=rings,
            user=user,
        )

    def keep(self, queue: Queue) -> None:
        """Leave the queue running until the bench is closed or the queue is needed."""
        self.kept[queue.number] = queue

    def facts(self) -> Message:
        """What the device is."""
        device = self.device
        return {
            "device": self.access.name,
            "queues": device.queues,
            "entries": device.max_entries,
            "transfer": device.max_transfer,
            "hbm": device.hbm,
            "operations": [operation_name(code) for code in device.operations],
            "event-index": device.event_index,
            "pasid-bits": device.pasid_bits,
            "vectors": self.access.vectors,
            "bars": {str(bar): size for bar in range(6) if (size := self.access.size(bar))},
        }

    def close(self) -> None:
        """Stop the device and give everything back."""
        self.device.disable()
        self.access.close()


def operation_name(code: int) -> str:
    """``copy``, ``aes-gcm-encrypt``; the number of one without a name."""
    try:
        return native.Operation(code).name.lower().replace("_", "-")
    except ValueError:
        return str(code)


def status_name(code: int) -> str:
    """``success``, ``read-fault``; the number of one without a name."""
    try:
        return native.Status(code).name.lower().replace("_", "-")
    except ValueError:
        return str(code)
