"""What a server says about its regions, as a client reads it; the server is not trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd
from mdevemu.layout import Struct, sizeof, unpack
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.iofds_wire import IoFd, IoFdType, RegionIoFds
from mdevemu.vfio_user.wire import RegionFlags

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """What the server says about a region.

    Attributes:
        index: its number.
        size: bytes; 0 if it is not there.
        flags: what may be done with it.
        file: what to map instead of asking, or None; owned by the client object.
        offset: where in that file the region begins, in bytes.
        areas: the mappable (offset, size) pairs, in bytes of the region.
    """

    index: int
    size: int
    flags: RegionFlags
    file: Fd | None
    offset: int
    areas: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class IoSpan:
    """Bytes of a region that are reached by a descriptor.

    Attributes:
        offset: where they begin, in bytes of the region.
        size: how many they are.
        kind: how ``file`` is to be used.
        flags: of KVM_IOEVENTFD or KVM_SET_IOREGION.
        value: of an ioeventfd the value whose write rings; of an ioregionfd what each
            access is to carry.
        file: an eventfd or socket, owned by the caller; spans may share one.
    """

    offset: int
    size: int
    kind: IoFdType
    flags: int
    value: int
    file: Fd


def io_spans(payload: bytes, fds: Sequence[Fd]) -> list[IoSpan]:
    """The spans that a reply to GET_REGION_IO_FDS lists.

    Raises:
        ProtocolError: it makes no sense.
    """
    head = reply_struct(RegionIoFds, payload)
    first, count = sizeof(RegionIoFds), head.count
    if not count:
        return []
    # The specification wants no one to rely on the size of an entry.
    step = (len(payload) - first) // count
    if step < sizeof(IoFd) or len(payload) != first + count * step:
        raise ProtocolError(f"{count} descriptors described in {len(payload)} bytes")
    found = []
    for number in range(count):
        entry = unpack(IoFd, payload, first + number * step)
        if entry.fd_index >= len(fds) or entry.type not in set(IoFdType):
            raise ProtocolError(f"descriptor {entry.fd_index} of type {entry.type}")
        found.append(
            IoSpan(
                entry.offset,
                entry.size,
                IoFdType(entry.type),
                entry.flags,
                entry.value,
                fds[entry.fd_index],
            )
        )
    return found


def reply_struct(kind: type[S], payload: bytes) -> S:
    """The struct that a reply begins with.

    Raises:
        ProtocolError: the reply is too short.
    """
    if len(payload) < sizeof(kind):
        raise ProtocolError(f"{kind.__name__} of {len(payload)} bytes, not {sizeof(kind)}")
    return unpack(kind, payload)


def areas_of(info: wire.RegionInfo, payload: bytes) -> list[tuple[int, int]]:
    """The mappable areas that a description of a region lists.

    Raises:
        ProtocolError: its list of capabilities leaves the payload, or never ends.
    """
    at = info.cap_offset if RegionFlags.CAPS in info.flags else 0
    while at:
        if at + sizeof(wire.SparseMmap) > len(payload):
            raise ProtocolError(f"capability of a region at {at}, outside of its description")
        head = unpack(wire.SparseMmap, payload, at)
        if head.id == wire.SPARSE_MMAP:
            first = at + sizeof(wire.SparseMmap)
            if first + head.nr_areas * sizeof(wire.Area) > len(payload):
                raise ProtocolError(f"{head.nr_areas} areas in {len(payload)} bytes")
            step = sizeof(wire.Area)
            areas = (unpack(wire.Area, payload, first + n * step) for n in range(head.nr_areas))
            return [(area.offset, area.size) for area in areas]
        if head.next and head.next <= at:
            raise ProtocolError("capabilities of a region in a circle")
        at = head.next
    return []
