"""I/OAT version 3.2: words, registers and descriptors, with the names of the datasheet.

Spec: Intel Xeon Processor E7-2800/4800/8800 v2 Product Family Datasheet, volume 2, §14.5;
Linux, drivers/dma/ioat (what its driver relies on)
"""

import enum

from mdevemu.layout import Access, Struct, Word, bit, bits, code, u32, u64
from mdevemu.registers import Array, Reg, RegisterMap
from mdevemu.units import KIB

RO, RC, W1C, W1S = Access.RO, Access.RC, Access.W1C, Access.W1S

MAX_CHANNELS = 4
"""As many as Linux takes."""
LOG2_MAX_TRANSFER = 20
"""Log2 of the most bytes that one descriptor copies, unless a slice's type says otherwise."""
LOG2_MAX_TRANSFERS = range(12, 32)
"""What a type may say: from a page to what a descriptor's size can hold."""
BAR_SIZE = 16 * KIB


class ChannelState(enum.IntEnum):
    """What a channel is doing.

    A channel starts halted.  CHAINADDR arms it, DMACOUNT makes it active, and it is
    idle when it did as many descriptors as were announced.
    """

    ACTIVE = 0
    IDLE = 1
    SUSPENDED = 2
    HALTED = 3
    ARMED = 4


class ChannelError(enum.IntFlag):
    """Why a channel halted: bits of CHANERR."""

    NEXT_ADDRESS = 1 << 2
    CHAIN_ADDRESS = 1 << 4
    COMMAND = 1 << 5
    READ_DATA = 1 << 8
    WRITE_DATA = 1 << 9
    CONTROL = 1 << 10
    LENGTH = 1 << 11
    COMPLETION_ADDRESS = 1 << 12


class Flag(enum.IntFlag):
    """Flags of a descriptor's control word.

    Execution is in order, caches are coherent and nothing is directed at them, so
    of these only INTERRUPT, COMPLETION and NULL make a difference.
    """

    INTERRUPT = 1 << 0
    SOURCE_SNOOP_DISABLE = 1 << 1
    DESTINATION_SNOOP_DISABLE = 1 << 2
    COMPLETION = 1 << 3
    FENCE = 1 << 4
    NULL = 1 << 5
    SOURCE_BREAK = 1 << 6
    DESTINATION_BREAK = 1 << 7
    BUNDLE = 1 << 8
    DESTINATION_DCA = 1 << 9
    HINT = 1 << 10


class Operation(enum.IntEnum):
    """Bits 31 to 24 of a descriptor's control word."""

    COPY = 0x00


# The device as a whole.


class ChannelCount(Word, width=8):
    """CHANCNT: how many channels there are."""

    count = bits(4, 0, RO)


class TransferCapability(Word, width=8):
    """XFERCAP: log2 of the most bytes that a descriptor may have."""

    log2_bytes = bits(4, 0, RO, reset=LOG2_MAX_TRANSFER)


class GeneralControl(Word, width=8):
    """GENCTRL: remembered, and changes nothing."""

    debug = bit(0)


class InterruptControl(Word, width=8):
    """INTRCTRL: the master enable holds interrupts back, and lets them go when it is set.

    Without ``vector_per_channel`` every channel interrupts by vector 0.
    """

    master_enable = bit(0)
    status = bit(1, RO)
    interrupt = bit(2, RO)
    vector_per_channel = bit(3)


class Attention(Word, width=32):
    """ATTNSTATUS: channels that interrupted while MSI-X is off; reading it clears it."""

    channels = bits(31, 0, RC)


class Version(Word, width=8):
    """CBVER: version 3.2."""

    minor = bits(3, 0, RO, reset=2)
    major = bits(7, 4, RO, reset=3)


class InterruptDelay(Word, width=16):
    """INTRDELAY: microseconds from the first reason to interrupt to the interrupt."""

    microseconds = bits(13, 0)
    coalescing = bit(15, RO, reset=True)


class DeviceStatus(Word, width=16):
    """CS_STATUS: nothing is degraded, restricted, bypassed or remapped."""

    conditions = bits(3, 0, RO)


class Capabilities(Word, width=32):
    """DMACAPABILITY: what there is besides copies, which is nothing."""

    operations = bits(23, 0, RO)


# A channel.


class ChannelControl(Word, width=16):
    """CHANCTRL: an interrupt disables the next one until its bit is written with one."""

    interrupt_disable = bit(0, W1C)
    error_completion = bit(2)
    error_abort = bit(3)
    error_interrupt = bit(4)
    descriptor_snoop_disable = bit(5)
    in_use = bit(8)
    completion_dca = bit(9)
    priority = bits(15, 12)


class ChannelCompatibility(Word, width=16):
    """CHANCOMP: the interface of versions from 2 on."""

    version1 = bit(0, RO)
    version2 = bit(1, RO, reset=True)


class ChannelCommand(Word, width=8):
    """CHANCMD: suspend holds for as long as it is set, reset is done at once."""

    suspend = bit(2)
    reset = bit(5, W1S)


class DescriptorCount(Word, width=16):
    """DMACOUNT: how many descriptors there were since CHAINADDR was written, modulo 2**16.

    Writing it is the doorbell.
    """

    count = bits(15, 0)


class ChannelStatus(Word, width=64):
    """CHANSTS: what the channel is doing, and the last descriptor it completed."""

    state = code(2, 0, ChannelState, RO, reset=ChannelState.HALTED)
    unaffiliated_error = bit(3, RO)
    soft_error = bit(4, RO)
    completed = bits(63, 6, RO)


class Address(Word, width=64):
    """An address as this function's DMA has it."""

    iova = bits(63, 0)


class ChainAddress(Address, width=64):
    """CHAINADDR: the first descriptor; writing it arms a channel that is not active."""

    iova = bits(63, 0)


class CompletionAddress(Address, width=64):
    """CHANCMP: where CHANSTS is written to when a descriptor asks for it."""

    iova = bits(63, 3)


class CurrentDescriptor(Address, width=64):
    """CDAR: the descriptor that was read last."""

    iova = bits(63, 0, RO)


class ChannelErrors(Word, width=32):
    """CHANERR: why the channel halted, bits of ChannelError."""

    errors = bits(18, 0, W1C)


class ChannelErrorMask(Word, width=32):
    """CHANERRMSK: errors that halt the channel without interrupt and completion."""

    errors = bits(18, 0)


class CacheControl(Word, width=32):
    """DCACTRL: remembered, and changes nothing."""

    target_cpu = bits(15, 0)
    completion_write = bit(16)


CHANNELS = 0x80
STRIDE = 0x80


class IoatRegs(RegisterMap, size=BAR_SIZE):
    """BAR0."""

    channels = Reg(0x00, ChannelCount)
    transfer_capability = Reg(0x01, TransferCapability)
    general_control = Reg(0x02, GeneralControl)
    interrupt_control = Reg(0x03, InterruptControl)
    attention = Reg(0x04, Attention)
    version = Reg(0x08, Version)
    interrupt_delay = Reg(0x0C, InterruptDelay)
    device_status = Reg(0x0E, DeviceStatus)
    capabilities = Reg(0x10, Capabilities)

    channel_control = Array(CHANNELS + 0x00, ChannelControl, count=MAX_CHANNELS, stride=STRIDE)
    channel_compatibility = Array(
        CHANNELS + 0x02, ChannelCompatibility, count=MAX_CHANNELS, stride=STRIDE
    )
    channel_command = Array(CHANNELS + 0x04, ChannelCommand, count=MAX_CHANNELS, stride=STRIDE)
    channel_descriptors = Array(CHANNELS + 0x06, DescriptorCount, count=MAX_CHANNELS, stride=STRIDE)
    channel_status = Array(CHANNELS + 0x08, ChannelStatus, count=MAX_CHANNELS, stride=STRIDE)
    channel_chain = Array(CHANNELS + 0x10, ChainAddress, count=MAX_CHANNELS, stride=STRIDE)
    channel_completion = Array(
        CHANNELS + 0x18, CompletionAddress, count=MAX_CHANNELS, stride=STRIDE
    )
    channel_current = Array(CHANNELS + 0x20, CurrentDescriptor, count=MAX_CHANNELS, stride=STRIDE)
    channel_errors = Array(CHANNELS + 0x28, ChannelErrors, count=MAX_CHANNELS, stride=STRIDE)
    channel_error_mask = Array(CHANNELS + 0x2C, ChannelErrorMask, count=MAX_CHANNELS, stride=STRIDE)
    channel_cache = Array(CHANNELS + 0x30, CacheControl, count=MAX_CHANNELS, stride=STRIDE)


# Configuration space.


class UncorrectableErrors(Word, width=32):
    """DMAUNCERRSTS: parity errors of the device itself, which has none."""

    errors = bits(16, 0, W1C)


class ErrorStatus(Word, width=32):
    """CHANERR_INT: errors of all channels since software cleared them, bits of ChannelError."""

    errors = bits(18, 0, W1C)


class ErrorMask(Word, width=32):
    """CHANERRMSK_INT: errors that CHANERR_INT does not show."""

    errors = bits(18, 0)


class IoatConfig(RegisterMap, size=0x1000):
    """Registers of its own in configuration space."""

    uncorrectable_errors = Reg(0x148, UncorrectableErrors)
    error_status = Reg(0x180, ErrorStatus)
    error_mask = Reg(0x184, ErrorMask)


# In memory.


class Descriptor(Struct):
    """What a channel does next; 64-byte aligned.

    ``control`` has flags in bits 10 to 0 and the operation in bits 31 to 24; ``next``
    is read anew when a channel goes on after it was idle.
    """

    size: u32
    control: u32
    source: u64
    destination: u64
    next: u64
    reserved0: u64
    reserved1: u64
    user0: u64
    user1: u64
