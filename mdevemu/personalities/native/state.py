"""What the native device has besides registers, as it moves to another slice."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from mdevemu.accel.saving import Count, Saved, within
from mdevemu.errors import StateError
from mdevemu.layout import Struct, u32
from mdevemu.personalities.native.layout import MAX_QUEUES, DeviceState
from mdevemu.personalities.native.memory import Counters
from mdevemu.personalities.native.paging import PagingSetup
from mdevemu.personalities.native.queue import Queue, QueueFault, QueuePlace, QueueSetup

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native


class QueueNumber(Struct):
    """Which queue the setup and the place after this are of; MAX_QUEUES ends the list."""

    number: u32


def save(device: "Native") -> Iterator[Struct]:
    """Everything, of a device at rest."""
    yield from map(Count, asdict(device.counters).values())
    yield Count(device.slice.flow.busy_ns - device.busy_before)
    yield device.paging.setup
    for number, queue in sorted(device.queues.items()):
        yield QueueNumber(number)
        yield queue.setup
        yield queue.place
    yield QueueNumber(MAX_QUEUES)
    yield from device.buffers.save()


def load(device: "Native", saved: Saved) -> None:
    """Be what ``save`` saw; the registers are there already.

    Raises:
        StateError: no driver could have brought this device there.
    """
    device.counters = Counters(*(saved.take(Count).value for _ in fields(Counters)))
    device.busy_before = device.slice.flow.busy_ns - saved.take(Count).value
    device.paging.load(saved.take(PagingSetup))
    while (number := within("queue", saved.take(QueueNumber).number, MAX_QUEUES)) < MAX_QUEUES:
        if number in device.queues or number >= device.queue_count:
            raise StateError(f"queue {number} twice, or of {device.queue_count}")
        try:
            queue = Queue(device, number, saved.take(QueueSetup))
        except QueueFault as wrong:
            raise StateError(str(wrong)) from None
        queue.put(saved.take(QueuePlace))
        device.queues[number] = queue
    enabled = {n for n, control in enumerate(device.regs.queue_control) if control.enable}
    ready = device.regs.status.state is DeviceState.READY
    if enabled != set(device.queues) or (enabled and not ready):
        raise StateError(f"queues {sorted(enabled)} are enabled, {sorted(device.queues)} are there")
    device.buffers.load(saved)
