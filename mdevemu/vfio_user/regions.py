"""Hop 3, for regions: what a client asks about them, reads and writes."""

import errno

from mdevemu.errors import RequestError
from mdevemu.vfio_user import messages, wire
from mdevemu.vfio_user.device import Function, region_info
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.pending import Reply
from mdevemu.vfio_user.wire import ACCESS, ACCESS_SIZE, MAX_TRANSFER, REGIONS


class Regions:
    """The regions of one function; their shapes do not change."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._shapes = tuple(function.regions)
        assert len(self._shapes) == REGIONS
        # How many bytes of each region can be read, and written.
        self._readable = [shape.size if shape.readable else 0 for shape in self._shapes]
        self._writable = [shape.size if shape.writable else 0 for shape in self._shapes]

    def info(self, message: Message, *, mappable: bool) -> Reply:
        """Answer a DEVICE_GET_REGION_INFO; ``mappable``: the client can receive a descriptor.

        Raises:
            RequestError: EINVAL, no such region.
        """
        request = messages.roomy(wire.RegionInfo, message)
        if request.index >= REGIONS:
            raise RequestError(errno.EINVAL, f"region {request.index}")
        shape = self._shapes[request.index]
        return region_info(shape, request.index, request.argsz, mappable=mappable)

    def read(self, message: Message) -> Reply:
        """Answer a REGION_READ.

        Raises:
            RequestError: EINVAL, it leaves its region; or what the device says.
        """
        payload = message.payload
        if len(payload) != ACCESS_SIZE:
            raise RequestError(errno.EINVAL, f"REGION_READ of {len(payload)} bytes")
        offset, region, count = ACCESS.unpack(payload)
        self._check(self._readable, region, offset, count)
        if not count:
            return payload, ()
        data = self._function.read(region, offset, count)
        assert len(data) == count, f"{len(data)} bytes of region {region}, not {count}"
        return payload + data, ()

    def write(self, message: Message) -> Reply:
        """Answer a REGION_WRITE; raises like ``read``."""
        payload = message.payload
        if len(payload) < ACCESS_SIZE:
            raise RequestError(errno.EINVAL, f"REGION_WRITE of {len(payload)} bytes")
        offset, region, count = ACCESS.unpack_from(payload)
        if len(payload) != ACCESS_SIZE + count:
            given = len(payload) - ACCESS_SIZE
            raise RequestError(errno.EINVAL, f"REGION_WRITE of {count} bytes, with {given}")
        self._check(self._writable, region, offset, count)
        if count:
            self._function.write(region, offset, payload[ACCESS_SIZE:])
        return payload[:ACCESS_SIZE], ()

    def write_multi(self, message: Message) -> Reply:
        """Answer a REGION_WRITE_MULTI; raises like ``read``.

        Nothing was written, unless it is the device that refused one of them.
        """
        writes = messages.write_multi(message)
        for offset, region, data in writes:
            self._check(self._writable, region, offset, len(data))
        for offset, region, data in writes:
            if data:
                self._function.write(region, offset, data)
        return wire.COUNT.pack(len(writes)), ()

    def _check(self, limits: list[int], region: int, offset: int, count: int) -> None:
        """Whether an access of ``count`` bytes stays inside what a region allows.

        Raises:
            RequestError: EINVAL; it does not.
        """
        if region >= REGIONS:
            raise RequestError(errno.EINVAL, f"region {region}")
        if offset + count > limits[region] or count > MAX_TRANSFER:
            raise RequestError(errno.EINVAL, f"{count} bytes at {offset:#x} of region {region}")
