"""I/OAT's driver in user space: the function, and its channels with a chain of descriptors each.

Spec: docs/ioat.md
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from guest import ioat
from guest.access import PAGE, Access, Buffer, Interrupt
from guest.driver import bits, field
from guest.errors import DeviceError, DeviceTimeout
from guest.ioat import ChannelState, Flag, Operation

BAR = 0
_VERSION = 3  # major
_SLOTS = 16  # descriptors in a channel's ring
_STATUS_AT = PAGE // 2  # offset of the status that the channel writes back
_OPERATION = (24, 8)  # of a descriptor's control word
_DONE = ~0x3F  # bits of a status that are the address of a descriptor
_NAP = 0.001  # seconds between two looks at a channel that cannot interrupt
_RUN = (
    bits(1, ioat.CHANNEL_CONTROL_ERROR_COMPLETION)
    | bits(1, ioat.CHANNEL_CONTROL_ERROR_ABORT)
    | bits(1, ioat.CHANNEL_CONTROL_ERROR_INTERRUPT)
)
SUSPEND = bits(1, ioat.CHANNEL_COMMAND_SUSPEND)
RESET = bits(1, ioat.CHANNEL_COMMAND_RESET)


class Ioat:
    """One I/OAT function, identified, its channels reset.

    Attributes:
        access: how it is reached.
        version: major and minor.
        channels: how many there are.
        max_transfer: bytes that one descriptor copies at most.
    """

    def __init__(self, access: Access) -> None:
        """Identify the function behind ``access``, reset its channels, enable its interrupts.

        Raises:
            DeviceError: it is not of a version that we drive, or it has no channels.
        """
        self.access = access
        version = self.read(ioat.VERSION, 1)
        self.version = field(version, ioat.VERSION_MAJOR), field(version, ioat.VERSION_MINOR)
        if self.version[0] != _VERSION:
            raise DeviceError(
                f"{access.name}: version {version:#x} of I/OAT, this driver knows {_VERSION}"
            )
        self.channels = field(self.read(ioat.CHANNELS, 1), ioat.CHANNELS_COUNT)
        if not 0 < self.channels <= ioat.CHANNEL_COUNT:
            raise DeviceError(f"{access.name}: {self.channels} channels, not 1 to 4")
        log2 = self.read(ioat.TRANSFER_CAPABILITY, 1)
        self.max_transfer = 1 << field(log2, ioat.TRANSFER_CAPABILITY_LOG2_BYTES)
        self.start()

    def read(self, offset: int, size: int) -> int:
        """A register of ``size`` bytes."""
        return self.access.read(BAR, offset, size)

    def write(self, offset: int, value: int, size: int) -> None:
        """A register of ``size`` bytes."""
        self.access.write(BAR, offset, value, size)

    def start(self) -> None:
        """Reset every channel, and let each interrupt with its own vector."""
        self.disable()
        both = bits(1, ioat.INTERRUPT_CONTROL_MASTER_ENABLE)
        both |= bits(1, ioat.INTERRUPT_CONTROL_VECTOR_PER_CHANNEL)
        self.write(ioat.INTERRUPT_CONTROL, both, 1)

    def disable(self) -> None:
        """Stop every channel; the function touches no memory from here on."""
        self.write(ioat.INTERRUPT_CONTROL, 0, 1)
        for number in range(self.channels):
            block = ioat.CHANNEL_BASE + number * ioat.CHANNEL_STRIDE
            self.write(block + ioat.CHANNEL_COMMAND, RESET, 1)


class Transfer(NamedTuple):
    """What a descriptor says.

    Attributes:
        size: bytes.
        flags: of ``ioat.Flag``.
        operation: an ``ioat.Operation``, or any byte to be refused.
        next: Iova of the next descriptor; None for the next slot of the ring.
    """

    size: int
    source: int
    destination: int
    flags: int = 0
    operation: int = Operation.COPY
    next: int | None = None


class Outcome(NamedTuple):
    """How a channel stands once it works no more.

    Attributes:
        state: an ``ioat.ChannelState``.
        completed: Iova of the last descriptor that is done.
        written: the status in memory, which has both.
        errors: bits of ``ioat.ChannelError``.
    """

    state: int
    completed: int
    written: int
    errors: int


class Channel:
    """A channel with a ring of descriptors that are linked downwards.  One thread uses it.

    Downwards, so that a channel that guesses the next descriptor guesses wrong.

    Attributes:
        number: which of the function's channels.
        slots: descriptors that the ring holds.
        interrupt: its vector's interrupts; None if there are no vectors.
    """

    def __init__(self, device: Ioat, number: int) -> None:
        """Set the channel up; it has a chain, and nothing to do."""
        self.number = number
        self.slots = _SLOTS
        self._device = device
        self._block = ioat.CHANNEL_BASE + number * ioat.CHANNEL_STRIDE
        self.interrupt: Interrupt | None = None
        if device.access.vectors:
            self.interrupt = device.access.interrupt(number)
        self._memory: Buffer = device.access.allocate(PAGE)
        self._head = 0  # descriptors put into the ring
        self._count = 0  # of those, in the present chain
        self.begin()

    def begin(self, chain: int | None = None, status: int | None = None) -> None:
        """Reset the channel, clear its errors, and give it a new chain.

        ``chain`` and ``status`` point it elsewhere than to the next slot and our memory, to
        see it fault.
        """
        self.command(RESET)
        if self.interrupt is not None:
            self.interrupt.take()
        self._write(ioat.CHANNEL_ERRORS, self.errors, 4)
        status = self._memory.iova + _STATUS_AT if status is None else status
        self._write(ioat.CHANNEL_COMPLETION, status, 8)
        self._memory.view[_STATUS_AT : _STATUS_AT + 8] = bytes(8)
        self._rearm()
        self._write(ioat.CHANNEL_CHAIN, self._slot(self._head) if chain is None else chain, 8)
        self._count = 0

    def command(self, command: int) -> None:
        """``SUSPEND``, ``RESET``, or 0 to go on."""
        self._write(ioat.CHANNEL_COMMAND, command, 1)

    @property
    def interrupts(self) -> int:
        """Interrupts of its vector so far."""
        if self.interrupt is None:
            return 0
        self.interrupt.take()
        return self.interrupt.total

    @property
    def state(self) -> int:
        """A ``ioat.ChannelState``."""
        return field(self._status(), ioat.CHANNEL_STATUS_STATE)

    @property
    def errors(self) -> int:
        """Bits of ``ioat.ChannelError``, of all errors since they were cleared."""
        return field(self._read(ioat.CHANNEL_ERRORS, 4), ioat.CHANNEL_ERRORS_ERRORS)

    def put(self, transfer: Transfer) -> int:
        """Write a descriptor without telling the channel; gives its Iova.

        No more of a chain than ``slots`` may be undone.
        """
        at = self._slot(self._head)
        following = self._slot(self._head + 1) if transfer.next is None else transfer.next
        control = transfer.flags | bits(transfer.operation, _OPERATION)
        ioat.DESCRIPTOR.pack_into(
            self._memory.view,
            at - self._memory.iova,
            *(transfer.size, control, transfer.source, transfer.destination, following),
            *(0, 0, 0, 0),
        )
        self._head += 1
        self._count += 1
        return at

    def announce(self) -> None:
        """Tell the channel of every descriptor written."""
        self._write(ioat.CHANNEL_DESCRIPTORS, self._count & 0xFFFF, 2)

    def run(self, transfers: Sequence[Transfer], seconds: float = 30) -> tuple[int, Outcome]:
        """Do the transfers as one piece of the chain; gives the last one's Iova, and the outcome.

        The last one interrupts, and has the status written back.

        Raises:
            DeviceTimeout: they were not done in time.
        """
        *others, last = transfers
        for transfer in others:
            self.put(transfer)
        at = self.put(last._replace(flags=last.flags | Flag.COMPLETION | Flag.INTERRUPT))
        self.announce()
        return at, self.wait(seconds)

    def wait(self, seconds: float = 30) -> Outcome:
        """Sleep until the channel says that it works no more.

        Raises:
            DeviceTimeout: it did not in time.
        """
        deadline = time.monotonic() + seconds
        if self.interrupt is not None and not self.interrupt.wait(seconds):
            raise self._late(seconds)
        self._rearm()
        while self.state == ChannelState.ACTIVE:
            if time.monotonic() > deadline:
                raise self._late(seconds)
            time.sleep(_NAP)
        return self.outcome()

    def outcome(self) -> Outcome:
        """How it stands now."""
        status = self._status()
        return Outcome(
            state=field(status, ioat.CHANNEL_STATUS_STATE),
            completed=status & _DONE,
            written=int.from_bytes(self._memory.view[_STATUS_AT : _STATUS_AT + 8], "little"),
            errors=self.errors,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the channel and give its memory back."""
        self.command(RESET)
        self._device.access.release(self._memory)

    def _slot(self, index: int) -> int:
        """Iova of a slot of the ring."""
        return self._memory.iova + (self.slots - 1 - index % self.slots) * ioat.DESCRIPTOR.size

    def _rearm(self) -> None:
        """Let the channel interrupt again: an interrupt disables the next."""
        again = bits(1, ioat.CHANNEL_CONTROL_INTERRUPT_DISABLE)
        self._write(ioat.CHANNEL_CONTROL, _RUN | again, 2)

    def _status(self) -> int:
        return self._read(ioat.CHANNEL_STATUS, 8)

    def _read(self, offset: int, size: int) -> int:
        return self._device.read(self._block + offset, size)

    def _write(self, offset: int, value: int, size: int) -> None:
        self._device.write(self._block + offset, value, size)

    def _late(self, seconds: float) -> DeviceTimeout:
        return DeviceTimeout(
            f"channel {self.number} was not done after {seconds} s: {self.outcome()}, "
            f"at {self._read(ioat.CHANNEL_CURRENT, 8):#x}, {self._count} descriptors announced"
        )
