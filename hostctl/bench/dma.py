"""What it costs that a VMM lends memory, takes it back, and answers for memory without a file."""

from collections.abc import Iterator

from guest import native
from hostctl.bench.kinds import Kind, compare
from hostctl.bench.rows import Row, row
from hostctl.bench.script import (
    Steps,
    asked,
    copied,
    count,
    lend,
    request,
    take_back,
    write,
)
from hostctl.bench.stage import CLIENTS, Stage
from mdevemu.units import KIB, MIB
from mdevemu.vfio_user.wire import Command, RegionIndex

_COMMAND = 0x04  # config space: command register
_MEMORY_AND_MASTER = b"\x06\x00"

# What is lent where: the rings' halves, and the operands of commands.
_DESCRIPTORS, _COMPLETIONS = 0x10_0000, 0x20_0000
_WITHOUT_FILE, _SOURCE, _DESTINATION = 0x40_0000, 0x80_0000, 0xC0_0000
_LOG2_ENTRIES = 6


def _register(offset: int, value: int, size: int = 4) -> Steps:
    return write(native.REGISTERS_BAR, offset, value.to_bytes(size, "little"))


def _queue(log2_entries: int) -> Steps:
    """Have queue 0 run.  Its descriptors are asked for: they are in memory without a file."""
    block = native.QUEUE_BASE
    return (
        *request(Command.DEVICE_RESET, b"", 0),
        *write(RegionIndex.CONFIG, _COMMAND, _MEMORY_AND_MASTER),
        *lend(_DESCRIPTORS, MIB, file=False),
        *lend(_COMPLETIONS, MIB, file=True),
        *_register(native.CONTROL, 1),
        *_register(block + native.QUEUE_SQ_BASE, _DESCRIPTORS, 8),
        *_register(block + native.QUEUE_CQ_BASE, _COMPLETIONS, 8),
        *_register(block + native.QUEUE_SIZE, log2_entries),
        *_register(block + native.QUEUE_CONTROL, 1),
    )


def _command(descriptor: bytes) -> Steps:
    """Submit one command, and answer when the device asks for its descriptor.

    It asks once the command before is completed, so that this says when that was; what
    was completed before that one is taken.
    """
    bar = native.DOORBELLS_BAR
    return (
        *count(bar, native.DOORBELL_CQ_HEAD, 2),
        *count(bar, native.DOORBELL_SQ_TAIL, 0),
        *asked(native.DESCRIPTOR.size, descriptor),
    )


def _copy(source: int, length: int) -> bytes:
    """A descriptor that copies to ``_DESTINATION``."""
    operation = native.Operation.COPY
    return native.DESCRIPTOR.pack(operation, 0, 0, length, source, _DESTINATION, *(0,) * 6)


_PIECE = 64 * KIB  # what the device asks for at once
_SETUP = _queue(_LOG2_ENTRIES) + lend(_DESTINATION, MIB, file=True)
_KINDS = (
    Kind(
        "map and unmap 1 MiB",
        lend(_SOURCE, MIB, file=True) + take_back(_SOURCE, MIB),
        weight=8,
    ),
    Kind("DMA_READ of 64 bytes, a command's", _command(b""), setup=_SETUP, weight=4),
    Kind(
        "copy of 64 KiB by DMA_READ",
        _command(_copy(_WITHOUT_FILE, _PIECE)) + asked(_PIECE),
        setup=_SETUP + lend(_WITHOUT_FILE, MIB, file=False),
        weight=20,
    ),
    Kind(
        "copy of 1 MiB in lent memory",
        _command(_copy(_SOURCE, MIB)) + copied(MIB),
        setup=_SETUP + lend(_SOURCE, MIB, file=True),
        weight=50,
    ),
)


def measure(stage: Stage, rounds: int, count: int) -> Iterator[Row]:
    """Every row; each number comes from ``rounds`` rounds, as long as ``count`` accesses."""
    for clients in (1, CLIENTS):
        for kind in _KINDS:
            yield row(kind.name, clients, *compare(stage, kind, rounds, count, clients))
