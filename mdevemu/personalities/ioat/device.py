"""The I/OAT device as a whole: its channels, and what they have in common."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from mdevemu.accel import Identity, Interface, Personality, Saved
from mdevemu.accel.saving import Count
from mdevemu.errors import GuestFault, StateError
from mdevemu.layout import Struct
from mdevemu.pci.config import Bar
from mdevemu.personalities.ioat.channel import Channel, ChannelFault, ChannelPlace
from mdevemu.personalities.ioat.layout import (
    BAR_SIZE,
    LOG2_MAX_TRANSFER,
    LOG2_MAX_TRANSFERS,
    MAX_CHANNELS,
    ChainAddress,
    ChannelCommand,
    ChannelControl,
    ChannelError,
    ChannelState,
    Descriptor,
    DescriptorCount,
    Flag,
    InterruptControl,
    IoatConfig,
    IoatRegs,
    Operation,
)

MSIX_BAR = 2

OF_DESCRIPTORS = (
    ChannelError.READ_DATA
    | ChannelError.WRITE_DATA
    | ChannelError.CONTROL
    | ChannelError.LENGTH
    | ChannelError.COMPLETION_ADDRESS
)
"""Errors of a descriptor that could be read."""


@dataclass(slots=True)
class Counters:
    """What was counted since reset.

    Attributes:
        completed, failed: descriptors that were read and done, or could not be.
        faults: how often a channel halted by an error.
    """

    completed: int = 0
    failed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    interrupts: int = 0
    doorbells: int = 0
    faults: int = 0


class Ioat(Personality[IoatRegs]):
    """Copies by up to four channels, each with a chain of descriptors and a vector."""

    identity = Identity(vendor=0x8086, device=0x2021, class_code=0x088000)
    registers = IoatRegs
    movable = True
    interface = Interface(
        maps={0: IoatRegs},
        config=IoatConfig,
        structs=(Descriptor,),
        codes=(ChannelState, ChannelError, Flag, Operation),
        operations=Operation,
        statuses=ChannelError,
    )
    max_transfers = tuple(1 << log2 for log2 in LOG2_MAX_TRANSFERS)

    def start(self) -> None:
        self.counters = Counters()
        self._channels = [Channel(self, number) for number in range(self.channel_count)]
        self._raising = 0
        self._introduce()

    def _introduce(self) -> None:
        """Say in the registers what this slice has."""
        self.regs.channels.count = self.channel_count
        self.regs.transfer_capability.log2_bytes = self.max_transfer.bit_length() - 1

    @property
    def channel_count(self) -> int:
        """Channels of this slice: one for each of its queues, as far as there are any."""
        return min(self.slice.queues, MAX_CHANNELS)

    @property
    def max_transfer(self) -> int:
        """The most bytes that one descriptor copies."""
        return self.slice.max_transfer or 1 << LOG2_MAX_TRANSFER

    @property
    def vectors(self) -> int:
        return self.channel_count

    @property
    def bars(self) -> Sequence[Bar]:
        return (Bar(0, BAR_SIZE, wide=True),)

    @property
    def msix_bar(self) -> int:
        return MSIX_BAR

    @property
    def config(self) -> IoatConfig:
        """Its live registers in configuration space."""
        assert self._config
        assert isinstance(self._config.regs, IoatConfig)
        return self._config.regs

    def counts(self) -> Mapping[str, int]:
        return {name.replace("_", "-"): count for name, count in asdict(self.counters).items()}

    def reset(self) -> None:
        for channel in self._channels:
            channel.stop()
        super().reset()

    # A move to another device.

    def save(self) -> Iterable[Struct]:
        yield from map(Count, asdict(self.counters).values())
        for channel in self._channels:
            yield channel.place

    def load(self, saved: Saved) -> None:
        self._introduce()
        self.counters = Counters(*(saved.take(Count).value for _ in fields(Counters)))
        for channel in self._channels:
            channel.put(saved.take(ChannelPlace))
        halted = (status.state for status in self.regs.channel_status[self.channel_count :])
        if any(state is not ChannelState.HALTED for state in halted):
            raise StateError(f"more than {self.channel_count} channels have a chain")

    def pause(self) -> None:
        for channel in self._channels:
            channel.pause()

    def resume(self) -> None:
        for channel in self._channels:
            channel.resume()

    # Channel registers.

    @IoatRegs.channel_chain.written
    def _arm(self, number: int, chain: ChainAddress) -> None:
        for channel in self._channels[number : number + 1]:
            channel.arm()

    @IoatRegs.channel_descriptors.written
    def _announce(self, number: int, count: DescriptorCount) -> None:
        self.counters.doorbells += 1
        for channel in self._channels[number : number + 1]:
            channel.announce()

    @IoatRegs.channel_command.written
    def _command(self, number: int, command: ChannelCommand) -> None:
        if number >= self.channel_count:
            command.reset = False
        for channel in self._channels[number : number + 1]:
            channel.command(command)

    @IoatRegs.channel_control.written
    def _rearm(self, number: int, control: ChannelControl) -> None:
        for channel in self._channels[number : number + 1]:
            channel.deliver()

    def fault(self, fault: GuestFault) -> None:
        assert isinstance(fault, ChannelFault), f"unexpected {fault!r}"
        error = ChannelError(fault.code)
        self.counters.faults += 1
        self.counters.failed += bool(error & OF_DESCRIPTORS)
        self.config.error_status.errors |= error & ~self.config.error_mask.errors
        self._channels[fault.channel].fail(error)

    # Interrupts.

    def raise_vector(self, channel: int) -> None:
        """Interrupt the driver on behalf of a channel."""
        self.counters.interrupts += 1
        self._raising = channel
        self.interrupt(channel if self.regs.interrupt_control.vector_per_channel else 0)

    @IoatRegs.interrupt_control.written
    def _enable_interrupts(self, control: InterruptControl) -> None:
        for channel in self._channels:
            channel.deliver()

    @IoatRegs.interrupt_control.reading
    def _show_interrupts(self) -> None:
        control = self.regs.interrupt_control
        control.status = self.regs.attention.channels != 0
        control.interrupt = self.pending_intx

    def pend(self, vector: int) -> None:
        # Without messages each channel has a bit, whatever its vector would have been.
        self.regs.attention.channels |= 1 << self._raising

    @property
    def pending_intx(self) -> bool:
        return self.regs.attention.channels != 0 and self.regs.interrupt_control.master_enable
