"""One queue of the native device: a descriptor ring, a completion ring, a shadow area.

Indices run freely modulo 2**32; the slot of an index is its low bits.
"""

import struct
import threading
import time
from typing import NamedTuple, Self

from guest import native
from guest.access import PAGE, Buffer, Interrupt
from guest.driver import Device, bits, field
from guest.errors import DeviceError, DeviceTimeout

_MODULO = 1 << 32
_NAP = 0.001  # seconds between two looks at a ring that interrupts for nothing


class Command(NamedTuple):
    """What a descriptor says.

    Attributes:
        operation: a ``native.Operation``, or any byte to be refused.
        length: bytes of the source (or of the destination, for fill).
        capacity: bytes of the destination, for operations that say how much they wrote.
        cookie: comes back in the completion.
        pasid: the descriptor's PASID field; see ``of_process``.
        reserved: what the reserved fields hold, to be refused.
    """

    operation: int
    length: int = 0
    source: int = 0
    destination: int = 0
    operand: int = 0
    capacity: int = 0
    flags: int = 0
    cookie: int = 0
    pasid: int = 0
    reserved: tuple[int, int, int] = (0, 0, 0)


def of_process(pasid: int) -> int:
    """The PASID field of a descriptor whose operands are addresses of a process."""
    return bits(1, native.QUEUE_PASID_USER) | pasid


def pack(command: Command) -> bytes:
    """The descriptor that says it."""
    first, second, third = command.reserved
    return native.DESCRIPTOR.pack(
        command.operation,
        command.flags,
        first,
        command.length,
        command.source,
        command.destination,
        command.operand,
        command.capacity,
        command.pasid,
        command.cookie,
        second,
        third,
    )


class Completion(NamedTuple):
    """How a command ended.

    Attributes:
        address: the Iova or HBM offset that failed.
        descriptor: low 16 bits of its index.
        cause: the IOMMU's cause, 0 if it refused nothing.
        status: a ``native.Status``.
        phase: bit 0 is the ring's phase.
    """

    cookie: int
    result: int
    address: int
    descriptor: int
    cause: int
    status: int
    phase: int


class Rings(NamedTuple):
    """Where a queue's rings are; the defaults of a Queue are its own buffer."""

    descriptors: int
    completions: int
    shadow: int


class User(NamedTuple):
    """The process that a queue belongs to.

    Attributes:
        base: the virtual address at which the process has the queue's memory.
    """

    pasid: int
    base: int


class Queue:
    """A running queue.  One thread uses it.

    Attributes:
        number: which of the device's queues.
        entries: slots of each ring.
        interrupt: its vector's interrupts; None if it runs without.
        doorbells: times the submission doorbell was rung.
        submitted: commands given so far.
        rings: where the device finds its rings.
    """

    def __init__(
        self,
        device: Device,
        number: int,
        *,
        log2_entries: int = 6,
        vector: int | None = None,
        event_index: bool = False,
        rings: Rings | None = None,
        user: User | None = None,
    ) -> None:
        """Set the queue up and start it.

        ``vector`` is the MSI-X vector it interrupts with.  ``rings`` puts the device's
        pointers elsewhere than to our memory, to see it fault.  With ``user`` the rings and
        operands are addresses of that process; map ``memory`` there before the first command.
        """
        self.device = device
        self.number = number
        self.entries = 1 << log2_entries
        self.interrupt: Interrupt | None = None
        self._before = 0  # interrupts of the vector before this queue's first
        if vector is not None:
            self.interrupt = device.access.interrupt(vector)
            self.interrupt.take()
            self._before = self.interrupt.total
        self.doorbells = 0
        self.submitted = 0
        self._event_index = event_index
        self._barrier = threading.Lock()
        descriptors = self.entries * native.DESCRIPTOR.size
        completions = self.entries * native.COMPLETION.size
        self._completion_base = descriptors
        self._shadow_base = descriptors + completions
        self.memory: Buffer = device.access.allocate(self._shadow_base + PAGE)
        self._view = self.memory.view
        base = self.memory.iova if user is None else user.base
        self.rings = rings or Rings(base, base + self._completion_base, base + self._shadow_base)
        self._tail = 0  # index of the next descriptor
        self._head = 0  # index of the next completion
        self._rung = 0  # tail that the device was last told
        self._block = native.QUEUE_BASE + number * native.QUEUE_STRIDE
        self._start(log2_entries, vector, user)

    def _start(self, log2_entries: int, vector: int | None, user: User | None) -> None:
        device, block = self.device, self._block
        device.write64(block + native.QUEUE_SQ_BASE, self.rings.descriptors)
        device.write64(block + native.QUEUE_CQ_BASE, self.rings.completions)
        device.write64(block + native.QUEUE_SHADOW, self.rings.shadow)
        device.write32(
            block + native.QUEUE_SIZE, bits(log2_entries, native.QUEUE_SIZE_LOG2_ENTRIES)
        )
        if device.pasid_bits:
            binding = 0 if user is None else of_process(user.pasid)
            device.write32(block + native.QUEUE_PASID, binding)
        control = bits(1, native.QUEUE_CONTROL_ENABLE)
        control |= bits(int(self._event_index), native.QUEUE_CONTROL_EVENT_INDEX)
        if vector is not None:
            control |= bits(1, native.QUEUE_CONTROL_INTERRUPT)
            control |= bits(vector, native.QUEUE_CONTROL_VECTOR)
        device.write32(block + native.QUEUE_CONTROL, control)

    @property
    def outstanding(self) -> int:
        """Commands submitted and not yet completed."""
        return (self._tail - self._head) % _MODULO

    @property
    def interrupts(self) -> int:
        """Interrupts that arrived for this queue."""
        if self.interrupt is None:
            return 0
        self.interrupt.take()
        return self.interrupt.total - self._before

    @property
    def state(self) -> int:
        """A ``native.QueueState``."""
        status = self.device.read32(self._block + native.QUEUE_STATUS)
        return field(status, native.QUEUE_STATUS_STATE)

    @property
    def completed(self) -> int:
        """Index of the next completion that the device writes."""
        return self.device.read32(self._block + native.QUEUE_CQ_TAIL)

    @property
    def failure(self) -> int:
        """The ``native.FaultCode`` that stopped the queue; 0 while it runs."""
        status = self.device.read32(self._block + native.QUEUE_STATUS)
        return field(status, native.QUEUE_STATUS_FAULT)

    def put(self, command: Command, *, fetched: bool = False) -> int:
        """Write a descriptor without telling the device; gives its index.

        At most ``entries`` commands may be outstanding, unless the caller knows that the
        device ``fetched`` all that are.
        """
        assert fetched or self.outstanding < self.entries, "the descriptor ring is full"
        index = self._tail
        at = index % self.entries * native.DESCRIPTOR.size
        self._view[at : at + native.DESCRIPTOR.size] = pack(command)
        self._tail = (index + 1) % _MODULO
        self.submitted += 1
        return index

    def kick(self) -> None:
        """Tell the device of every descriptor written, by doorbell only if it asks for one."""
        old, new = self._rung, self._tail
        self._rung = new
        if self._event_index:
            self._store(native.SHADOW_SQ_TAIL, new)
            # The store must be seen before the load: an atomic operation orders them.
            with self._barrier:
                event = self._load(native.SHADOW_SQ_EVENT)
            if (new - event - 1) % _MODULO >= (new - old) % _MODULO:
                return
        self.doorbells += 1
        self.device.ring_doorbell(self.number, native.DOORBELL_SQ_TAIL, new)

    def submit(self, command: Command) -> int:
        """Write a descriptor and tell the device; gives its index."""
        index = self.put(command)
        self.kick()
        return index

    def poll(self, limit: int = 1 << 32) -> list[Completion]:
        """Completions that are there, at most ``limit``; their slots go back to the device."""
        found: list[Completion] = []
        while len(found) < limit and (completion := self._peek()) is not None:
            found.append(completion)
            self._head = (self._head + 1) % _MODULO
        if found:
            if self._event_index:
                self._store(native.SHADOW_CQ_HEAD, self._head)
            else:
                self.device.ring_doorbell(self.number, native.DOORBELL_CQ_HEAD, self._head)
        return found

    def wait(self, seconds: float, *, quiet: bool = False) -> list[Completion]:
        """Completions, at least one; sleeps on the interrupt if the queue has one.

        ``quiet`` looks at the ring again and again instead: the commands interrupt for nothing.

        Raises:
            DeviceTimeout: none came in time; the message holds the queue's state.
        """
        deadline = time.monotonic() + seconds
        while not (found := self.poll()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(seconds)
            if self.interrupt is not None and not quiet:
                self.interrupt.wait(left)
            else:
                time.sleep(min(left, _NAP))
        return found

    def run(self, command: Command, seconds: float = 30) -> Completion:
        """Submit one command to an idle queue and wait for its end.

        Raises:
            DeviceTimeout: it did not end in time.
        """
        assert self.outstanding == 0, "the queue is busy"
        self.submit(command)
        quiet = bool(command.flags & native.Flag.NO_INTERRUPT)
        return self.wait(seconds, quiet=quiet)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the queue and give its memory back."""
        self.device.write32(self._block + native.QUEUE_CONTROL, 0)
        self.device.access.release(self.memory)

    def _peek(self) -> Completion | None:
        slot = self._head % self.entries
        offset = self._completion_base + slot * native.COMPLETION.size
        expected = 1 - (self._head // self.entries & 1)
        # The phase first, then the record: the device writes the record as one.
        if self._view[offset + native.COMPLETION.size - 2] & 1 != expected:
            return None
        if self.outstanding == 0:
            raise DeviceError(f"queue {self.number} completed more than it was given")
        return Completion(*native.COMPLETION.unpack_from(self._view, offset))

    def _store(self, offset: int, value: int) -> None:
        # One store: ``struct.pack_into`` makes memory zero first, which the device may see.
        at = self._shadow_base + offset
        self._view[at : at + 4] = value.to_bytes(4, "little")

    def _load(self, offset: int) -> int:
        value: int = struct.unpack_from("<I", self._view, self._shadow_base + offset)[0]
        return value

    def _late(self, seconds: float) -> DeviceTimeout:
        head = self.device.read32(self._block + native.QUEUE_SQ_HEAD)
        return DeviceTimeout(
            f"queue {self.number} completed nothing for {seconds} s: state {self.state}, "
            f"failure {self.failure}, SQ_HEAD {head} of {self._tail}, "
            f"CQ_TAIL {self.completed}, consumed {self._head}, fault record {self.device.fault()}"
        )
