"""A client's side of device features: the state of a device as a stream, and what it wrote to."""

from collections.abc import Iterator, Sequence

from mdevemu.layout import pack, sizeof, unpack
from mdevemu.units import KIB, PAGE
from mdevemu.vfio_user.caller import Caller
from mdevemu.vfio_user.features_wire import (
    FEATURE,
    MIG_DATA,
    BitmapRequest,
    DeviceState,
    Feature,
    LoggingRange,
    LoggingReport,
    LoggingStart,
    MigrationFlags,
    MigrationInfo,
    MigState,
    Operation,
    bitmap_size,
)
from mdevemu.vfio_user.wire import Command, DmaUnmap, UnmapFlags

PIECE = 256 * KIB
"""Bytes of a stream that are asked for at once, if both ends take as many."""


class Features:
    """DEVICE_FEATURE over one connection.

    Every method raises as every request does: RequestError if the server refuses, which
    ENOTSUP or EINVAL means for a device that has no such feature.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def probe(self, feature: int, operations: Operation) -> None:
        """Whether a feature has these operations; it is refused if not."""
        self._ask(feature, Operation.PROBE | operations, b"", 0)

    def get(self, feature: int, data: bytes = b"", room: int = 0) -> bytes:
        """A feature's data, for which there is ``room`` bytes; what is short is an error."""
        return self._ask(feature, Operation.GET, data, max(room, len(data)))

    def set(self, feature: int, data: bytes = b"") -> bytes:
        """Set a feature; its data as the server has it then."""
        return self._ask(feature, Operation.SET, data, len(data))

    def _ask(self, feature: int, operation: Operation, data: bytes, room: int) -> bytes:
        payload = FEATURE.pack(FEATURE.size + room, feature | operation) + data
        reply = self._caller.request(Command.DEVICE_FEATURE, payload)
        if len(reply) < FEATURE.size:
            raise self._caller.broken(f"DEVICE_FEATURE answered with {len(reply)} bytes")
        return reply[FEATURE.size :]


class DeviceMigration:
    """Moves a device's state out of a server, or into one.

    source.set_state(MigState.STOP_COPY)
    target.set_state(MigState.RESUMING)
    for piece in source.stream():
        target.write(piece)
    target.set_state(MigState.RUNNING)
    """

    def __init__(self, caller: Caller, features: Features, largest: int) -> None:
        """``largest`` is how many bytes of a stream one message may carry."""
        self._caller = caller
        self._features = features
        self.largest = largest

    def flags(self) -> MigrationFlags:
        """Which states there are."""
        data = self._exactly(self._features.get(Feature.MIGRATION, room=8), sizeof(MigrationInfo))
        return MigrationFlags(unpack(MigrationInfo, data).flags)

    def state(self) -> MigState:
        """Where the device is."""
        data = self._features.get(Feature.MIG_DEVICE_STATE, room=8)
        number = unpack(DeviceState, self._exactly(data, sizeof(DeviceState))).device_state
        if number not in set(MigState):
            raise self._caller.broken(f"migration state {number}")
        return MigState(number)

    def set_state(self, state: MigState) -> None:
        """Go there; the device has arrived when this returns."""
        self._features.set(Feature.MIG_DEVICE_STATE, pack(DeviceState(state, 0)))

    def read(self, size: int) -> bytes:
        """The next bytes of the stream; fewer than ``size`` are all there is now."""
        payload = MIG_DATA.pack(MIG_DATA.size + size, size)
        reply = self._caller.request(Command.MIG_DATA_READ, payload)
        if len(reply) < MIG_DATA.size or len(reply) - MIG_DATA.size > size:
            raise self._caller.broken(f"MIG_DATA_READ of {size} answered with {len(reply)} bytes")
        _, given = MIG_DATA.unpack_from(reply)
        if given != len(reply) - MIG_DATA.size:
            raise self._caller.broken(f"MIG_DATA_READ of {given} bytes, in {len(reply)}")
        return reply[MIG_DATA.size :]

    def stream(self) -> Iterator[bytes]:
        """What there is to read now, in pieces."""
        size = min(PIECE, self.largest)
        while piece := self.read(size):
            yield piece
            if len(piece) < size:
                return

    def write(self, data: bytes) -> None:
        """The next bytes of the stream, however many."""
        step = min(PIECE, self.largest)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            payload = MIG_DATA.pack(MIG_DATA.size + len(piece), len(piece)) + piece
            self._caller.request(Command.MIG_DATA_WRITE, payload)

    def _exactly(self, data: bytes, size: int) -> bytes:
        if len(data) < size:
            raise self._caller.broken(f"feature of {len(data)} bytes, not {size}")
        return data


class DirtyPages:
    """Which pages of its windows a device wrote to.  Bitmaps have page n in bit n."""

    def __init__(self, caller: Caller, features: Features) -> None:
        self._caller = caller
        self._features = features

    def start(self, page_size: int = PAGE, ranges: Sequence[tuple[int, int]] = ()) -> int:
        """Log writes to these (address, bytes), or all; the page size that the server uses."""
        data = pack(LoggingStart(page_size, len(ranges), 0))
        data += b"".join(pack(LoggingRange(iova, length)) for iova, length in ranges)
        reply = self._features.set(Feature.DMA_LOGGING_START, data)
        if len(reply) < sizeof(LoggingStart):
            raise self._caller.broken(f"DMA_LOGGING_START answered with {len(reply)} bytes")
        return unpack(LoggingStart, reply).page_size

    def stop(self) -> None:
        """Log nothing more."""
        self._features.set(Feature.DMA_LOGGING_STOP)

    def report(self, iova: int, length: int, page_size: int = PAGE) -> bytes:
        """The bitmap of a range, whose pages are clean from then on."""
        data = pack(LoggingReport(iova, length, page_size))
        size = bitmap_size(length, page_size)
        reply = self._features.get(Feature.DMA_LOGGING_REPORT, data, len(data) + size)
        if len(reply) != len(data) + size:
            raise self._caller.broken(f"bitmap of {len(reply) - len(data)} bytes, not {size}")
        return reply[len(data) :]

    def pages(self, iova: int, length: int, page_size: int = PAGE) -> list[int]:
        """The addresses of the dirty pages of a range, which are clean from then on."""
        return list(addresses(self.report(iova, length, page_size), iova, page_size))

    def unmap(self, iova: int, size: int, page_size: int = PAGE) -> bytes:
        """Take back what one ``map_dma`` lent, and the bitmap of its last writes."""
        room = bitmap_size(size, page_size)
        head = sizeof(DmaUnmap) + sizeof(BitmapRequest)
        ask = pack(DmaUnmap(head + room, UnmapFlags.GET_DIRTY_BITMAP, iova, size))
        reply = self._caller.request(Command.DMA_UNMAP, ask + pack(BitmapRequest(page_size, room)))
        if len(reply) != head + room:
            raise self._caller.broken(f"bitmap of {len(reply) - head} bytes, not {room}")
        self._caller.kept.remove(iova)
        return reply[head:]


def addresses(bitmap: bytes, iova: int, page_size: int) -> Iterator[int]:
    """The addresses of the pages whose bits are set."""
    for at, byte in enumerate(bitmap):
        for bit in range(8):
            if byte >> bit & 1:
                yield iova + (8 * at + bit) * page_size
