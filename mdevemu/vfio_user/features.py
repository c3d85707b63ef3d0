"""DEVICE_FEATURE and the migration stream: get, set and probe, by tables."""

import errno
from collections.abc import Callable
from typing import ClassVar, TypeAlias

from mdevemu.errors import RequestError
from mdevemu.layout import pack, sizeof, unpack
from mdevemu.vfio_user.dirty import Logging
from mdevemu.vfio_user.features_wire import (
    FEATURE,
    FEATURE_MASK,
    MAX_RANGES,
    MIG_DATA,
    DeviceState,
    Feature,
    LoggingRange,
    LoggingReport,
    LoggingStart,
    MigrationFlags,
    MigrationInfo,
    Operation,
)
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.migration import Mover
from mdevemu.vfio_user.pending import Pending, Reply

# Plain ints: what is left of a flag enum's complement is only what it knows.
GET, SET, PROBE = int(Operation.GET), int(Operation.SET), int(Operation.PROBE)

METHODS = {
    Feature.MIGRATION: GET,
    Feature.MIG_DEVICE_STATE: GET | SET,
    Feature.DMA_LOGGING_START: SET,
    Feature.DMA_LOGGING_STOP: SET,
    Feature.DMA_LOGGING_REPORT: GET,
}
"""What can be done about each feature, beyond probing."""

_Get: TypeAlias = Callable[["Features", bytes], tuple[int, Callable[[], bytes]]]
_Set: TypeAlias = Callable[["Features", bytes], bytes]


class Features:
    """The features of the device behind one session."""

    def __init__(self, mover: Mover | None, logging: Logging) -> None:
        """Without a ``mover`` the device has no state to move."""
        self._mover = mover
        self._logging = logging

    def answer(self, message: Message, pending: Pending) -> None:
        """Do what a DEVICE_FEATURE says.

        Raises:
            RequestError: ENOTSUP, the device has no such feature; EINVAL, it cannot be used
                in this way, or not now; what the feature says itself.
        """
        payload = message.payload
        if len(payload) < FEATURE.size:
            raise RequestError(errno.EINVAL, f"DEVICE_FEATURE of {len(payload)} bytes")
        room, flags = FEATURE.unpack_from(payload)
        feature, wanted = self._check(flags, room)
        data = payload[FEATURE.size :]
        if wanted & PROBE:
            self._fits(room, payload)
            pending.reply = payload
            pending.settle()
        elif wanted == GET:
            size, make = self._GET[feature](self, data)
            enough = FEATURE.size + size <= room
            data = make() if enough else b""
            pending.reply = FEATURE.pack(FEATURE.size + size, flags) + data
            pending.settle()
        elif feature is Feature.MIG_DEVICE_STATE:
            self._fits(room, payload)
            pending.reply = payload
            self._move(data, pending)
        else:
            self._fits(room, payload)
            pending.reply = payload[: FEATURE.size] + self._SET[feature](self, data)
            pending.settle()

    def _check(self, flags: int, room: int) -> tuple[Feature, int]:
        """Which feature, and what to do about it."""
        number, wanted = flags & FEATURE_MASK, flags & ~FEATURE_MASK
        what = f"DEVICE_FEATURE {number} with flags {flags:#x}"
        if wanted & ~(GET | SET | PROBE) or wanted in (0, GET | SET):
            raise RequestError(errno.EINVAL, what)
        if room < FEATURE.size:
            raise RequestError(errno.EINVAL, f"{what} and argsz {room}")
        if number not in set(Feature):
            raise RequestError(errno.ENOTSUP, f"{what}: unknown")
        feature = Feature(number)
        if feature in (Feature.MIGRATION, Feature.MIG_DEVICE_STATE):
            there = self._mover is not None
        else:
            there = self._logging.offered
        if not there:
            raise RequestError(errno.ENOTSUP, f"{feature.name} is not offered")
        if wanted & ~PROBE & ~METHODS[feature]:
            raise RequestError(errno.EINVAL, f"{what}: {feature.name} has no such method")
        return feature, wanted

    def _fits(self, room: int, payload: bytes) -> None:
        if room < len(payload):
            raise RequestError(errno.EINVAL, f"argsz {room} for a reply of {len(payload)} bytes")

    # Migration.

    def _migration(self, data: bytes) -> tuple[int, Callable[[], bytes]]:
        known = MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY
        return sizeof(MigrationInfo), lambda: pack(MigrationInfo(known))

    def _state(self, data: bytes) -> tuple[int, Callable[[], bytes]]:
        return sizeof(DeviceState), lambda: pack(DeviceState(self._machine().state, 0))

    def _move(self, data: bytes, pending: Pending) -> None:
        if len(data) != sizeof(DeviceState):
            raise RequestError(errno.EINVAL, f"MIG_DEVICE_STATE of {len(data)} bytes")
        self._machine().move(unpack(DeviceState, data).device_state, pending)

    def read(self, message: Message, most: int) -> Reply:
        """Answer a MIG_DATA_READ; ``most`` is how many bytes a client takes at once.

        Raises:
            RequestError: EINVAL; nothing was read.
        """
        if len(message.payload) != MIG_DATA.size:
            raise RequestError(errno.EINVAL, f"MIG_DATA_READ of {len(message.payload)} bytes")
        room, size = MIG_DATA.unpack(message.payload)
        if size > most or room < MIG_DATA.size + size:
            raise RequestError(errno.EINVAL, f"MIG_DATA_READ of {size} bytes, argsz {room}")
        data = self._machine().read(size)
        assert len(data) <= size
        return MIG_DATA.pack(MIG_DATA.size + len(data), len(data)) + data, ()

    def write(self, message: Message, most: int) -> Reply:
        """Answer a MIG_DATA_WRITE of at most so many bytes.

        Raises:
            RequestError: EINVAL; the message is not what it says, or the data makes no sense.
        """
        payload = message.payload
        if len(payload) < MIG_DATA.size:
            raise RequestError(errno.EINVAL, f"MIG_DATA_WRITE of {len(payload)} bytes")
        _, size = MIG_DATA.unpack_from(payload)
        if size > most or len(payload) != MIG_DATA.size + size:
            given = len(payload) - MIG_DATA.size
            raise RequestError(errno.EINVAL, f"MIG_DATA_WRITE of {size} bytes, with {given}")
        self._machine().write(payload[MIG_DATA.size :])
        return b"", ()

    def _machine(self) -> Mover:
        if self._mover is None:
            raise RequestError(errno.ENOTSUP, "the device has no state to move")
        return self._mover

    # Logging.

    def _start(self, data: bytes) -> bytes:
        head, step = sizeof(LoggingStart), sizeof(LoggingRange)
        if len(data) < head:
            raise RequestError(errno.EINVAL, f"DMA_LOGGING_START of {len(data)} bytes")
        asked = unpack(LoggingStart, data)
        if asked.num_ranges > MAX_RANGES:
            raise RequestError(errno.E2BIG, f"DMA_LOGGING_START of {asked.num_ranges} ranges")
        if len(data) != head + asked.num_ranges * step:
            reason = f"DMA_LOGGING_START of {asked.num_ranges} ranges in {len(data)} bytes"
            raise RequestError(errno.EINVAL, reason)
        places = range(head, len(data), step)
        given = [unpack(LoggingRange, data, at) for at in places]
        chosen = self._logging.start(asked.page_size, [(each.iova, each.length) for each in given])
        return pack(LoggingStart(chosen, asked.num_ranges, asked.reserved)) + data[head:]

    def _stop(self, data: bytes) -> bytes:
        self._logging.stop()
        return data

    def _report(self, data: bytes) -> tuple[int, Callable[[], bytes]]:
        head = sizeof(LoggingReport)
        if len(data) < head:
            raise RequestError(errno.EINVAL, f"DMA_LOGGING_REPORT of {len(data)} bytes")
        asked = unpack(LoggingReport, data)
        where = asked.iova, asked.length, asked.page_size
        size = self._logging.check_report("DMA_LOGGING_REPORT", *where)
        return head + size, lambda: data[:head] + self._logging.report(*where)

    _GET: ClassVar[dict[Feature, _Get]] = {
        Feature.MIGRATION: _migration,
        Feature.MIG_DEVICE_STATE: _state,
        Feature.DMA_LOGGING_REPORT: _report,
    }
    _SET: ClassVar[dict[Feature, _Set]] = {
        Feature.DMA_LOGGING_START: _start,
        Feature.DMA_LOGGING_STOP: _stop,
    }
