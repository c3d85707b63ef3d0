"""Conversations for the player: what it sends and receives, step by step."""

from collections.abc import Sequence

from mdevemu.layout import pack, sizeof
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.messages import encode
from mdevemu.vfio_user.version import OURS, encode_version
from mdevemu.vfio_user.wire import (
    ACCESS,
    DMA,
    HEADER,
    HEADER_SIZE,
    Command,
    MapFlags,
    UnmapFlags,
)

Steps = tuple[str, ...]
"""Lines as player.c reads them."""


def script(setup: Steps, turn: Steps) -> str:
    """A whole script: ``setup`` once, then ``turn`` over and over."""
    return "\n".join([*setup, "loop", *turn, "end", ""])


def request(command: Command, payload: bytes, answer: int, *, file: int = 0) -> Steps:
    """A command with its reply of ``answer`` bytes behind the header, maybe with a file."""
    message = encode(1, command, payload).hex()
    return f"send {message} 0 {file}", f"receive {HEADER_SIZE + answer}"


def hello() -> Steps:
    """Agree about the version; the first thing that a server hears."""
    return f"send {encode(1, Command.VERSION, encode_version(wire.MINOR, OURS)).hex()} 0", "take"


def read(region: int, offset: int, length: int) -> Steps:
    """Read ``length`` bytes of a region."""
    return request(Command.REGION_READ, ACCESS.pack(offset, region, length), ACCESS.size + length)


def write(region: int, offset: int, data: bytes) -> Steps:
    """Write to a region, and hear that it was done."""
    payload = ACCESS.pack(offset, region, len(data)) + data
    return request(Command.REGION_WRITE, payload, ACCESS.size)


def posted(region: int, offset: int, data: bytes) -> Steps:
    """Write to a region without a reply."""
    payload = ACCESS.pack(offset, region, len(data)) + data
    message = encode(1, Command.REGION_WRITE, payload, flags=wire.NO_REPLY)
    return (f"send {message.hex()} 0",)


def write_multi(writes: Sequence[tuple[int, int, bytes]]) -> Steps:
    """Each (region, offset, data of at most 8 bytes) in one message without a reply."""
    payload = wire.COUNT.pack(len(writes)) + b"".join(
        wire.MULTI.pack(offset, region, len(data), data) for region, offset, data in writes
    )
    message = encode(1, Command.REGION_WRITE_MULTI, payload, flags=wire.NO_REPLY)
    return (f"send {message.hex()} 0",)


def count(region: int, offset: int, lag: int) -> Steps:
    """Write the number of the turn, less ``lag``, to a 4-byte register, without a reply."""
    (line,) = posted(region, offset, bytes(4))
    return (f"count {line.split()[1]} {lag}",)


def lend(iova: int, size: int, *, file: bool) -> Steps:
    """Map ``size`` bytes for the device, of a new file or of none."""
    flags = MapFlags.READ | MapFlags.WRITE
    ask = wire.DmaMap(sizeof(wire.DmaMap), flags, 0, iova, size)
    return request(Command.DMA_MAP, pack(ask), 0, file=size if file else 0)


def take_back(iova: int, size: int) -> Steps:
    """Unmap what was lent there."""
    ask = wire.DmaUnmap(sizeof(wire.DmaUnmap), UnmapFlags(0), iova, size)
    return request(Command.DMA_UNMAP, pack(ask), sizeof(wire.DmaUnmap))


def asked(length: int, data: bytes = b"") -> Steps:
    """Be asked for ``length`` bytes of memory, and answer with ``data`` and zeros behind it."""
    size = HEADER_SIZE + DMA.size
    head = HEADER.pack(0, Command.DMA_READ, size + length, wire.REPLY, 0) + bytes(DMA.size)
    return f"receive {size}", f"answer {(head + data).hex()} {length - len(data)}"


def copied(length: int) -> Steps:
    """The device copies so many bytes meanwhile."""
    return (f"copy {length}",)
