"""One channel: from CHAINADDR and DMACOUNT to copies, completions and interrupts."""

import enum
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Annotated

from mdevemu.accel import Reach, Work
from mdevemu.accel.operations import Operation as EngineOperation
from mdevemu.accel.operations.command import Pieces, chunks
from mdevemu.accel.repeat import apart
from mdevemu.accel.saving import within
from mdevemu.accel.scheduler import PIECE
from mdevemu.alarms import Alarm
from mdevemu.errors import CommandFault, DmaFault, StateError
from mdevemu.layout import U32, Struct, members_of, sizeof, u32, u64, unpack
from mdevemu.personalities.ioat.layout import (
    ChannelCommand,
    ChannelError,
    ChannelState,
    Descriptor,
    Flag,
    Operation,
)
from mdevemu.units import KIB, Iova

if TYPE_CHECKING:
    from mdevemu.personalities.ioat.device import Ioat

DESCRIPTOR_COST = 16 * KIB
"""Copy-bytes that fetching and completing one descriptor costs."""

MICROSECOND = 1000
"""In nanoseconds."""

COUNT = 1 << 16
"""DMACOUNT is modulo this."""

NEXT = next(offset for name, offset, _ in members_of(Descriptor) if name == "next")
FLAGS = sum(Flag)
OPERATION_SHIFT = 24


class ChannelFlag(enum.IntFlag):
    """What there is of a channel's place: descriptors, and an interrupt that is owed."""

    LAST = 1
    NEXT = 2
    OWED = 4


class ChannelFault(CommandFault):
    """A channel has to halt.

    Attributes:
        channel: its number.
    """

    def __init__(self, channel: int, code: ChannelError, reason: str) -> None:
        super().__init__(code, f"channel {channel}: {code.name}: {reason}")
        self.channel = channel


class ChannelPlace(Struct):
    """Where a channel stands in its chain, between two descriptors.

    ``done`` descriptors were completed, modulo 2**16; ``last`` and ``next`` are Iovas of
    descriptors as far as ``flags`` says so.
    """

    last: u64
    next: u64
    done: u32
    flags: Annotated[ChannelFlag, U32]


def _nothing() -> bool:
    """The descriptor at hand has done nothing: it can be left where it is."""
    return True


class Channel:
    """Takes descriptors of a chain, one at a time, for as long as DMACOUNT says there are more."""

    def __init__(self, device: "Ioat", number: int) -> None:
        self._device = device
        self.number = number
        self._lane = device.lane()
        self._memory = Reach(device.port, self._lane)
        self._done = 0
        self._last: Iova | None = None
        self._next: Iova | None = None
        self._owed = False
        self._counted = 0
        self._alarm: Alarm | None = None

    @property
    def state(self) -> ChannelState:
        """What it is doing."""
        return self._device.regs.channel_status[self.number].state

    @property
    def pending(self) -> int:
        """Descriptors that were announced and not done."""
        return (self._device.regs.channel_descriptors[self.number].count - self._done) % COUNT

    # What the driver does.

    def arm(self) -> None:
        """CHAINADDR was written: forget the old chain, unless it is being worked on."""
        if self.state is ChannelState.ACTIVE:
            return
        regs = self._device.regs
        self._done = regs.channel_descriptors[self.number].count = 0
        regs.channel_status[self.number].completed = 0
        self._last, self._next = None, Iova(regs.channel_chain[self.number].iova)
        self._show(ChannelState.ARMED)

    def announce(self) -> None:
        """DMACOUNT was written: go on, if there is a chain to go on with."""
        if self.state in (ChannelState.ARMED, ChannelState.IDLE):
            self._go()

    def command(self, command: ChannelCommand) -> None:
        """CHANCMD was written.

        Raises:
            ChannelFault: COMMAND; more than one command at once.
        """
        if command.suspend and command.reset:
            command.suspend = command.reset = False
            raise self._fault(ChannelError.COMMAND, "suspend and reset at once")
        if command.reset:
            self.reset()
        elif command.suspend and self.state is ChannelState.IDLE:
            self._show(ChannelState.SUSPENDED)
        elif not command.suspend and self.state is ChannelState.SUSPENDED:
            self._show(ChannelState.IDLE)
            self._go()

    def reset(self) -> None:
        """Halt at once, and forget everything but the errors and what CHANCTRL enables."""
        regs, number = self._device.regs, self.number
        self.stop()
        self._done = regs.channel_descriptors[number].count = 0
        self._last = self._next = None
        regs.channel_command[number].reset = regs.channel_command[number].suspend = False
        regs.channel_control[number].interrupt_disable = False
        regs.channel_chain[number].iova = regs.channel_completion[number].iova = 0
        regs.channel_current[number].iova = regs.channel_status[number].completed = 0
        self._show(ChannelState.HALTED)

    def stop(self) -> None:
        """Drop all work, and the interrupt that is owed."""
        self._lane.cancel()
        self._owed = False
        self.pause()

    # A move to another device.

    @property
    def place(self) -> ChannelPlace:
        """Where it stands, between two descriptors."""
        flags = ChannelFlag(0)
        for flag, there in (
            (ChannelFlag.LAST, self._last is not None),
            (ChannelFlag.NEXT, self._next is not None),
            (ChannelFlag.OWED, self._owed),
        ):
            flags |= flag if there else 0
        return ChannelPlace(self._last or 0, self._next or 0, self._done, flags)

    def put(self, place: ChannelPlace) -> None:
        """Go on where another channel stood; the registers are there already.

        Raises:
            StateError: none can stand there.
        """
        known = place.flags & (ChannelFlag.LAST | ChannelFlag.NEXT)
        if bool(known) == (self.state is ChannelState.HALTED) or place.flags & ~sum(ChannelFlag):
            raise StateError(f"channel {self.number}, {self.state.name}, with {place.flags!r}")
        self._done = within("descriptors done", place.done, COUNT - 1)
        self._last = Iova(place.last) if place.flags & ChannelFlag.LAST else None
        self._next = Iova(place.next) if place.flags & ChannelFlag.NEXT else None
        self._owed = bool(place.flags & ChannelFlag.OWED)

    def pause(self) -> None:
        """Interrupt nobody by itself."""
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None

    def resume(self) -> None:
        """Go on; an interrupt that is owed comes after its delay, which begins anew."""
        if self.state is ChannelState.ACTIVE:
            self._lane.submit(self._run())
        if self._owed:
            self._delay()
            self.deliver()

    # What the device does.

    def _go(self) -> None:
        if not self.pending:
            return
        if self._device.regs.channel_command[self.number].suspend:
            self._rest()
            return
        self._show(ChannelState.ACTIVE)
        if not self._lane.busy:
            self._lane.submit(self._run())

    def _run(self) -> Work:
        """Do what was announced, until there is no more or the driver wants us to stop."""
        command = self._device.regs.channel_command[self.number]
        while self.pending and not command.suspend:
            self._lane.undo = _nothing
            at, descriptor = yield from self._fetch()
            self._device.commence(self._lane, Operation.COPY)
            yield from self._execute(descriptor)
            self._lane.commit()
            try:
                times = yield from self._device.conclude(self._lane, Operation.COPY)
            except CommandFault as fault:
                raise self._fault(ChannelError(fault.code), fault.reason) from None
            self._advance(at, descriptor)
            for _ in range(times):
                yield from self._complete(at, descriptor)
            yield self._lane.between(DESCRIPTOR_COST)
        if self.state is ChannelState.ACTIVE:
            self._rest()

    def _fetch(self) -> Generator[int, None, tuple[Iova, Descriptor]]:
        """The next descriptor, and where it is."""
        first = self._last is None
        error = ChannelError.CHAIN_ADDRESS if first else ChannelError.NEXT_ADDRESS
        memory = self._memory
        try:
            if self._next is None:
                assert self._last is not None
                link = yield from memory.read(Iova(self._last + NEXT), 8)
                self._next = Iova(int.from_bytes(link, "little"))
            at = self._next
            if at % sizeof(Descriptor):
                raise self._fault(error, f"descriptor at {at:#x} is not aligned")
            descriptor = unpack(Descriptor, (yield from memory.read(at, sizeof(Descriptor))))
        except DmaFault as fault:
            raise self._fault(error, str(fault)) from None
        self._device.regs.channel_current[self.number].iova = at
        return at, descriptor

    def _execute(self, descriptor: Descriptor) -> Work:
        """Check a descriptor, and copy what it says."""
        device, control = self._device, descriptor.control
        operation, flags = control >> OPERATION_SHIFT, control & (1 << OPERATION_SHIFT) - 1
        if operation != Operation.COPY or flags & ~FLAGS:
            raise self._fault(ChannelError.CONTROL, f"control word {control:#010x}")
        if not 0 < descriptor.size <= device.max_transfer:
            raise self._fault(ChannelError.LENGTH, f"{descriptor.size} bytes")
        if flags & Flag.NULL:
            return
        try:
            use = yield from device.slice.engines.take(EngineOperation.COPY, self._lane)
            if use is None:
                raise self._fault(ChannelError.CONTROL, "no engine copies")
            self._counted = 0
            yield from use.run(self._copy(descriptor))
        except CommandFault as fault:
            if isinstance(fault, ChannelFault):
                raise
            raise self._fault(ChannelError.CONTROL, fault.reason) from None

    def _copy(self, descriptor: Descriptor) -> Pieces:
        """Copy what a descriptor says; returns the bytes."""
        device = self._device
        for at, count in chunks(Iova(descriptor.source), descriptor.size, PIECE):
            try:
                data = yield from self._memory.read(at, count)
                there = Iova(descriptor.destination + at - descriptor.source)
                written = there + count - descriptor.destination
                self._lane.undo = partial(self._undo, descriptor, written)
                yield from self._memory.write(there, data)
            except DmaFault as fault:
                error = ChannelError.WRITE_DATA if fault.write else ChannelError.READ_DATA
                raise self._fault(error, str(fault)) from None
            self._counted += count
            device.counters.bytes_read += count
            device.counters.bytes_written += count
            yield count
        return descriptor.size

    def _undo(self, descriptor: Descriptor, written: int) -> bool:
        """Leave the descriptor at hand as one that was not begun, if it can be done again."""
        port, counters = self._device.port, self._device.counters
        source = port, Iova(descriptor.source), descriptor.size
        if not apart((port, Iova(descriptor.destination), written), [source]):
            return False
        counters.bytes_read -= self._counted
        counters.bytes_written -= self._counted
        return True

    def _advance(self, at: Iova, descriptor: Descriptor) -> None:
        """Be done with a descriptor; idle if it was the last."""
        self._done = (self._done + 1) % COUNT
        self._last = at
        self._next = Iova(descriptor.next) if self.pending else None
        if not self.pending:
            self._rest()

    def _complete(self, at: Iova, descriptor: Descriptor) -> Work:
        """Show that a descriptor is done, in the register and, if it says so, in memory."""
        self._device.regs.channel_status[self.number].completed = at >> 6
        if descriptor.control & Flag.COMPLETION:
            try:
                yield from self._memory.write(*self._status())
            except DmaFault as fault:
                raise self._fault(ChannelError.COMPLETION_ADDRESS, str(fault)) from None
        self._device.counters.completed += 1
        if descriptor.control & Flag.INTERRUPT:
            self.interrupt()

    def _status(self) -> tuple[Iova, bytes]:
        """CHANSTS, and where in memory the driver wants it: at CHANCMP."""
        regs = self._device.regs
        where = regs.channel_completion[self.number].iova << 3
        return Iova(where), int(regs.channel_status[self.number]).to_bytes(8, "little")

    def fail(self, error: ChannelError) -> None:
        """Halt until the driver sets up a new chain, and say why."""
        regs, number = self._device.regs, self.number
        control, errors = regs.channel_control[number], regs.channel_errors[number]
        masked = regs.channel_error_mask[number].errors
        self._lane.cancel()
        self._last = self._next = None
        errors.errors |= error
        self._show(ChannelState.HALTED)
        if error & masked:
            return
        if control.error_completion and error != ChannelError.COMPLETION_ADDRESS:
            try:
                self._device.port.write(*self._status())
            except DmaFault:
                # The driver learns of it from CHANERR alone, as it has no other place.
                errors.errors |= ChannelError.COMPLETION_ADDRESS
        if control.error_interrupt:
            self.interrupt()

    # Interrupts.

    def interrupt(self) -> None:
        """Interrupt the driver as soon as it wants to be, and the delay is over."""
        if not self._owed:
            self._owed = True
            self._delay()
        self.deliver()

    def _delay(self) -> None:
        if delay := self._device.regs.interrupt_delay.microseconds:
            flow = self._device.slice.flow
            self._alarm = flow.after(delay * MICROSECOND, self._delayed)

    def _delayed(self) -> None:
        self._alarm = None
        self.deliver()

    def deliver(self) -> None:
        """Raise the vector if there is a reason to, and nothing against it."""
        regs = self._device.regs
        control = regs.channel_control[self.number]
        if not self._owed or self._alarm or control.interrupt_disable:
            return
        if regs.interrupt_control.master_enable:
            self._owed = False
            control.interrupt_disable = True
            self._device.raise_vector(self.number)

    def _rest(self) -> None:
        """Show that nothing goes on, and whether that is the driver's wish."""
        suspended = self._device.regs.channel_command[self.number].suspend
        self._show(ChannelState.SUSPENDED if suspended else ChannelState.IDLE)

    def _show(self, state: ChannelState) -> None:
        self._device.regs.channel_status[self.number].state = state

    def _fault(self, error: ChannelError, reason: str) -> ChannelFault:
        return ChannelFault(self.number, error, reason)
