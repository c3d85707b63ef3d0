"""scapy layers of vfio-user: every message, in both directions.

    VfioUser(id=1, cmd="DMA_MAP") / DmaMap(flags="read+write", size=4096)

Spec: QEMU docs/interop/vfio-user.rst.  A payload has one layout for request and
reply, with what only one of them has at its end; a refusal is a header alone.
These layers are written from the specification and share nothing with the server's
own decoders, which they test.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

from scapy.fields import (
    ConditionalField,
    FieldLenField,
    FlagsField,
    LEIntEnumField,
    LEIntField,
    LELongField,
    LEShortEnumField,
    LEShortField,
    PacketListField,
    StrField,
    StrFixedLenField,
)
from scapy.packet import NoPayload, Packet, Raw

COMMANDS = {
    1: "VERSION",
    2: "DMA_MAP",
    3: "DMA_UNMAP",
    4: "DEVICE_GET_INFO",
    5: "DEVICE_GET_REGION_INFO",
    6: "DEVICE_GET_REGION_IO_FDS",
    7: "DEVICE_GET_IRQ_INFO",
    8: "DEVICE_SET_IRQS",
    9: "REGION_READ",
    10: "REGION_WRITE",
    11: "DMA_READ",
    12: "DMA_WRITE",
    13: "DEVICE_RESET",
    15: "REGION_WRITE_MULTI",
    16: "DEVICE_FEATURE",
    17: "MIG_DATA_READ",
    18: "MIG_DATA_WRITE",
}
REGIONS = dict(enumerate(["BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5", "ROM", "CONFIG", "VGA"]))
IRQS = dict(enumerate(["INTX", "MSI", "MSIX", "ERR", "REQ"]))

MIGRATION_STATES = {
    0: "ERROR",
    1: "STOP",
    2: "RUNNING",
    3: "STOP_COPY",
    4: "RESUMING",
    5: "RUNNING_P2P",
    6: "PRE_COPY",
    7: "PRE_COPY_P2P",
}

HEADER_SIZE = 16
ERROR = 0x20


def _flags(name: str, default: int, names: list[str]) -> FlagsField:
    """32 bits, little-endian."""
    return FlagsField(name, default, -32, names)


class _Part(Packet):
    """What comes one after another: the rest belongs to the next."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """See ``scapy.packet.Packet``."""
        return b"", s


class VersionData(Packet):
    """Both directions; ``json`` ends in a NUL, or is not there."""

    name = "VERSION"
    fields_desc = [LEShortField("major", 0), LEShortField("minor", 1), StrField("json", b"")]  # noqa: RUF012 - scapy's way


class DmaMap(Packet):
    """A request; its reply has no payload."""

    name = "DMA_MAP"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 32),
        _flags("flags", 3, ["read", "write"]),
        LELongField("offset", 0),
        LELongField("address", 0),
        LELongField("size", 4096),
    ]


class DmaUnmap(Packet):
    """Both directions; a bitmap only in replies."""

    name = "DMA_UNMAP"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 24),
        _flags("flags", 0, ["dirty_bitmap", "all"]),
        LELongField("address", 0),
        LELongField("size", 4096),
        ConditionalField(LELongField("page_size", 4096), lambda p: p.flags & 1),
        ConditionalField(LELongField("bitmap_size", 8), lambda p: p.flags & 1),
        StrField("bitmap", b""),
    ]


class DeviceInfo(Packet):
    """Both directions."""

    name = "DEVICE_GET_INFO"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 16),
        _flags("flags", 0, ["reset", "pci"]),
        LEIntField("num_regions", 0),
        LEIntField("num_irqs", 0),
    ]


class Area(_Part):
    """A mappable part of a region."""

    name = "area"
    fields_desc = [LELongField("offset", 0), LELongField("size", 0)]  # noqa: RUF012


class SparseMmap(_Part):
    """The one capability of regions that the specification has."""

    name = "sparse mmap"
    fields_desc = [  # noqa: RUF012
        LEShortField("id", 1),
        LEShortField("version", 1),
        LEIntField("next", 0),
        FieldLenField("nr_areas", None, fmt="<I", count_of="areas"),
        LEIntField("reserved", 0),
        PacketListField("areas", [], Area, count_from=lambda p: p.nr_areas),
    ]


class RegionInfo(Packet):
    """Both directions; capabilities only in replies."""

    name = "DEVICE_GET_REGION_INFO"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 32),
        _flags("flags", 0, ["read", "write", "mmap", "caps"]),
        LEIntEnumField("index", 0, REGIONS),
        LEIntField("cap_offset", 0),
        LELongField("size", 0),
        LELongField("offset", 0),
        ConditionalField(PacketListField("capabilities", [], SparseMmap), lambda p: p.flags & 8),
    ]


class IoFd(_Part):
    """One sub-region that is served by a descriptor."""

    name = "region I/O fd"
    fields_desc = [  # noqa: RUF012
        LELongField("offset", 0),
        LELongField("size", 0),
        LEIntField("fd_index", 0),
        LEIntEnumField("type", 0, {0: "ioeventfd", 1: "ioregionfd"}),
        LEIntField("flags", 0),
        LEIntField("padding", 0),
        LELongField("datamatch", 0),
    ]


class RegionIoFds(Packet):
    """Both directions; the list only in replies."""

    name = "DEVICE_GET_REGION_IO_FDS"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 16),
        LEIntField("flags", 0),
        LEIntEnumField("index", 0, REGIONS),
        LEIntField("count", 0),
        PacketListField("fds", [], IoFd),
    ]


class IrqInfo(Packet):
    """Both directions."""

    name = "DEVICE_GET_IRQ_INFO"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 16),
        _flags("flags", 0, ["eventfd", "maskable", "automasked", "noresize"]),
        LEIntEnumField("index", 0, IRQS),
        LEIntField("count", 0),
    ]


class SetIrqs(Packet):
    """A request; its reply has no payload.  ``switches`` only with ``bool``."""

    name = "DEVICE_SET_IRQS"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 20),
        _flags("flags", 0x21, ["none", "bool", "eventfd", "mask", "unmask", "trigger"]),
        LEIntEnumField("index", 0, IRQS),
        LEIntField("start", 0),
        LEIntField("count", 0),
        StrField("switches", b""),
    ]


class RegionAccess(Packet):
    """REGION_READ and REGION_WRITE, both directions; the data only in one of them."""

    name = "REGION_READ/WRITE"
    fields_desc = [  # noqa: RUF012
        LELongField("offset", 0),
        LEIntEnumField("region", 0, REGIONS),
        LEIntField("count", 0),
        StrField("data", b""),
    ]


class DmaAccess(Packet):
    """DMA_READ and DMA_WRITE, both directions; the data only in one of them."""

    name = "DMA_READ/WRITE"
    fields_desc = [LELongField("address", 0), LELongField("count", 0), StrField("data", b"")]  # noqa: RUF012


class OneWrite(_Part):
    """One of several writes."""

    name = "write"
    fields_desc = [  # noqa: RUF012
        LELongField("offset", 0),
        LEIntEnumField("region", 0, REGIONS),
        LEIntField("count", 0),
        StrFixedLenField("data", b"", 8),
    ]


class WriteMulti(Packet):
    """Both directions; the writes only in requests."""

    name = "REGION_WRITE_MULTI"
    fields_desc = [LELongField("count", 0), PacketListField("writes", [], OneWrite)]  # noqa: RUF012


class MigrationInfo(Packet):
    """Of MIGRATION: a reply to ``get``."""

    name = "MIGRATION"
    fields_desc = [FlagsField("states", 0, -64, ["stop_copy", "p2p", "pre_copy"])]  # noqa: RUF012


class DeviceState(Packet):
    """Of MIG_DEVICE_STATE: a request to ``set``, and every reply."""

    name = "MIG_DEVICE_STATE"
    fields_desc = [  # noqa: RUF012
        LEIntEnumField("state", 2, MIGRATION_STATES),
        LEIntField("data_fd", 0),
    ]


class LoggingRange(_Part):
    """What is to be logged."""

    name = "range"
    fields_desc = [LELongField("iova", 0), LELongField("length", 0)]  # noqa: RUF012


class LoggingStart(Packet):
    """Of DMA_LOGGING_START, both directions."""

    name = "DMA_LOGGING_START"
    fields_desc = [  # noqa: RUF012
        LELongField("page_size", 4096),
        FieldLenField("num_ranges", None, fmt="<I", count_of="ranges"),
        LEIntField("reserved", 0),
        PacketListField("ranges", [], LoggingRange, count_from=lambda p: p.num_ranges),
    ]


class LoggingReport(Packet):
    """Of DMA_LOGGING_REPORT, both directions; a bitmap only in replies."""

    name = "DMA_LOGGING_REPORT"
    fields_desc = [  # noqa: RUF012
        LELongField("iova", 0),
        LELongField("length", 4096),
        LELongField("page_size", 4096),
        StrField("bitmap", b""),
    ]


FEATURES: dict[int, type[Packet]] = {
    1: MigrationInfo,
    2: DeviceState,
    6: LoggingStart,
    8: LoggingReport,
}
"""Data layouts by feature; DMA_LOGGING_STOP has none."""


class DeviceFeature(Packet):
    """Both directions; what a feature is, or is to be, comes after it."""

    name = "DEVICE_FEATURE"
    fields_desc = [  # noqa: RUF012
        LEIntField("argsz", 8),
        LEShortEnumField(
            "feature",
            1,
            {
                1: "MIGRATION",
                2: "MIG_DEVICE_STATE",
                6: "DMA_LOGGING_START",
                7: "DMA_LOGGING_STOP",
                8: "DMA_LOGGING_REPORT",
            },
        ),
        FlagsField("flags", 0, -16, ["get", "set", "probe"]),
    ]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """See ``scapy.packet.Packet``."""
        return FEATURES.get(self.feature, Raw)


class MigrationData(Packet):
    """MIG_DATA_READ and MIG_DATA_WRITE, both directions; the data only in one of them."""

    name = "MIG_DATA"
    fields_desc = [LEIntField("argsz", 8), LEIntField("size", 0), StrField("data", b"")]  # noqa: RUF012


BOTH: dict[int, type[Packet]] = {
    1: VersionData,
    3: DmaUnmap,
    4: DeviceInfo,
    5: RegionInfo,
    6: RegionIoFds,
    7: IrqInfo,
    9: RegionAccess,
    10: RegionAccess,
    11: DmaAccess,
    12: DmaAccess,
    15: WriteMulti,
    16: DeviceFeature,
    17: MigrationData,
    18: MigrationData,
}
REQUESTS: dict[int, type[Packet]] = BOTH | {2: DmaMap, 8: SetIrqs}
"""Payload layouts by command; DEVICE_RESET has none."""


class VfioUser(Packet):
    """The header; ``size`` counts itself and is filled in when it is not given."""

    name = "vfio-user"
    fields_desc = [  # noqa: RUF012
        LEShortField("id", 0),
        LEShortEnumField("cmd", 1, COMMANDS),  # scapy has a method "command"
        LEIntField("size", None),
        _flags("flags", 0, ["reply", "type1", "type2", "type3", "no_reply", "error"]),
        LEIntField("error", 0),
    ]

    def post_build(self, p: bytes, pay: bytes) -> bytes:
        """See ``scapy.packet.Packet``."""
        if self.size is None:
            p = p[:4] + (len(p) + len(pay)).to_bytes(4, "little") + p[8:]
        return p + pay

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """See ``scapy.packet.Packet``."""
        if int(self.flags) & ERROR:
            return Raw
        table = BOTH if int(self.flags) & 0xF else REQUESTS
        return table.get(self.getfieldval("cmd"), Raw)


Plain: TypeAlias = int | str | list[Any] | dict[str, Any] | None
"""What JSON can hold."""


def dissect(data: bytes) -> VfioUser:
    """A whole message, whatever its bytes are: what cannot be understood stays raw."""
    return VfioUser(data)


def facts(packet: Packet) -> dict[str, Any]:
    """The fields of one layer as plain data; bytes as hex digits, JSON as its text."""
    return dict(_fields(packet))


def payload(packet: VfioUser) -> dict[str, Any]:
    """The fields of what a message carries; the data of a device feature is one of them."""
    inner = packet.payload
    if isinstance(inner, NoPayload):
        return {}
    within = inner.payload
    return facts(inner) | ({} if isinstance(within, NoPayload) else {"data": facts(within)})


def _fields(packet: Packet) -> Iterator[tuple[str, Any]]:
    for field in packet.fields_desc:
        if isinstance(field, ConditionalField) and not field._evalcond(packet):
            continue
        value = packet.getfieldval(field.name)
        if field.name == "json":
            value = value.decode(errors="replace").rstrip("\0")
        yield field.name, _plain(value)


def _plain(value: object) -> Plain:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Packet):
        return facts(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if value is not None and not isinstance(value, str) else value  # type: ignore[call-overload]
