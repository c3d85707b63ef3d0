"""Which commands, capabilities and limits a vfio-user server has.

Every question is one that changes nothing that stays: ranges that are mapped are
unmapped again, writes have no bytes.  What could reset or break the device is not
asked (DEVICE_RESET, eventfds, migration states).
"""

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from hostctl.device.server import opened
from mdevemu.errors import ProtocolError, RequestError
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.wire import ACCESS, Command, DeviceFlags, IrqFlags, RegionFlags, RegionIndex

ADDRESS, SIZE = 1 << 40, 4096
"""Where ranges are mapped for a moment, and how many bytes of them."""

MOST_REGIONS, MOST_IRQS = 32, 16
"""How many are looked at, whatever a server says it has."""

NOBODY_KNOWS = 0x7F
"""A command that does not exist."""

DONE, CLOSED, SILENT, NONSENSE = "ok", "closes the connection", "no answer", "nonsense"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says to one kind of request.

    Attributes:
        command: its name.
        request: what was asked for.
        outcome: ``ok``, the name of an errno, or what else became of it.
    """

    command: str
    request: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Probed:
    """What is known of a server.

    Attributes:
        version: of the protocol, as negotiated.
        capabilities: what its VERSION says, whatever the keys.
        limits: those that hold, whether it said so or they are defaults.
        flags: of the device.
        regions: index, size, flags, mappable areas.
        irqs: index, count, flags.
        answers: to requests that a server may or may not have.
    """

    version: str
    capabilities: Mapping[str, object]
    limits: Mapping[str, object]
    flags: Sequence[str]
    regions: Sequence[Mapping[str, object]]
    irqs: Sequence[Mapping[str, object]]
    answers: Sequence[Answer]


def probe(path: str, timeout: float) -> Probed:
    """Ask the server behind a socket for everything that can be asked without harm.

    Raises:
        ConfigError, HostError, TimedOut, ProtocolError, RequestError: see ``opened``;
            a server that breaks off at a question that it need not know is not one.
    """
    with opened(path, timeout, twin=True) as client:
        info = client.info()
        flags = [flag.name or "" for flag in DeviceFlags if flag in info.flags]
        regions = [_region(client, index) for index in range(min(info.num_regions, MOST_REGIONS))]
        irqs = [_irq(client, index) for index in range(min(info.num_irqs, MOST_IRQS))]
        version, offered = f"{wire.MAJOR}.{client.minor}", client.offered
        limits = asdict(client.server)
    answers = list(_answers(path, timeout))
    return Probed(version, offered, limits, flags, regions, irqs, answers)


def _region(client: Client, index: int) -> Mapping[str, object]:
    region = client.region(index)
    name = RegionIndex(index).name if index in set(RegionIndex) else str(index)
    return {
        "index": index,
        "name": name,
        "size": region.size,
        "flags": [flag.name for flag in RegionFlags if flag in region.flags],
        "areas": [{"offset": offset, "size": size} for offset, size in region.areas],
        "file": region.file is not None,
    }


def _irq(client: Client, index: int) -> Mapping[str, object]:
    name = wire.Irq(index).name if index in set(wire.Irq) else str(index)
    found: dict[str, object] = {"index": index, "name": name, "count": 0, "flags": []}
    try:
        info = client.irq_info(index)
    except RequestError as refusal:
        return found | {"refused": errno.errorcode[refusal.number]}
    flags = [flag.name for flag in IrqFlags if flag in info.flags]
    return found | {"count": info.count, "flags": flags}


_U32, _MULTI = struct.Struct("<IIII"), wire.COUNT
_PROBE, _GET, _SET = 1 << 18, 1 << 16, 1 << 17


def _map(flags: int, file: bool) -> Callable[[Client], None]:
    def ask(client: Client) -> None:
        payload = struct.pack("<IIQQQ", 32, flags, 0, ADDRESS, SIZE)
        memory = os.memfd_create("probe")
        try:
            os.ftruncate(memory, SIZE)
            client.ask(Command.DMA_MAP, payload, [memory] if file else [])
            client.unmap_dma(ADDRESS, SIZE)
        finally:
            os.close(memory)

    return ask


def _dirty(client: Client) -> None:
    client.map_dma(ADDRESS, SIZE, None)
    try:
        payload = struct.pack("<IIQQQQ", 24 + 16 + 8, 1, ADDRESS, SIZE, SIZE, 8)
        client.ask(Command.DMA_UNMAP, payload)
    except RequestError:
        client.unmap_dma(ADDRESS, SIZE)
        raise


def _unmap_all(client: Client) -> None:
    client.map_dma(ADDRESS, SIZE, None)
    try:
        client.unmap_all_dma()
    except RequestError:
        client.unmap_dma(ADDRESS, SIZE)
        raise


def _feature(number: int, how: int) -> Callable[[Client], None]:
    return lambda client: _ask(
        client, Command.DEVICE_FEATURE, struct.pack("<II", 8, number | how | _PROBE)
    )


def _get(number: int) -> Callable[[Client], None]:
    return lambda client: _ask(
        client, Command.DEVICE_FEATURE, struct.pack("<II", 16, number | _GET)
    )


def _ask(client: Client, command: int, payload: bytes = b"") -> None:
    client.ask(command, payload)


def _plain(command: int, payload: bytes) -> Callable[[Client], None]:
    return lambda client: _ask(client, command, payload)


QUESTIONS: Sequence[tuple[str, str, Callable[[Client], None]]] = (
    ("DMA_MAP", "with a descriptor", _map(3, True)),
    ("DMA_MAP", "without a descriptor", _map(3, False)),
    ("DMA_MAP", "write-only", _map(2, False)),
    ("DMA_UNMAP", "all", _unmap_all),
    ("DMA_UNMAP", "with a dirty bitmap", _dirty),
    ("REGION_READ", "no bytes", _plain(Command.REGION_READ, ACCESS.pack(0, 7, 0))),
    ("REGION_READ", "outside of a region", _plain(Command.REGION_READ, ACCESS.pack(1 << 40, 7, 4))),
    ("REGION_WRITE", "no bytes", _plain(Command.REGION_WRITE, ACCESS.pack(0, 7, 0))),
    ("REGION_WRITE_MULTI", "no writes", _plain(Command.REGION_WRITE_MULTI, _MULTI.pack(0))),
    (
        "DEVICE_GET_REGION_IO_FDS",
        "of BAR 0",
        _plain(Command.DEVICE_GET_REGION_IO_FDS, _U32.pack(16, 0, 0, 0)),
    ),
    ("DEVICE_FEATURE", "is there MIGRATION", _feature(1, _GET)),
    ("DEVICE_FEATURE", "is there MIG_DEVICE_STATE", _feature(2, _SET)),
    ("DEVICE_FEATURE", "is there DMA_LOGGING_START", _feature(6, _SET)),
    ("DEVICE_FEATURE", "is there DMA_LOGGING_STOP", _feature(7, _SET)),
    ("DEVICE_FEATURE", "is there DMA_LOGGING_REPORT", _feature(8, _GET)),
    ("DEVICE_FEATURE", "which migration states", _get(1)),
    ("DEVICE_FEATURE", "the migration state", _get(2)),
    ("MIG_DATA_READ", "while running", _plain(Command.MIG_DATA_READ, struct.pack("<II", 16, 8))),
    ("MIG_DATA_WRITE", "while running", _plain(Command.MIG_DATA_WRITE, struct.pack("<II", 8, 0))),
    ("VERSION", "a second time", _plain(Command.VERSION, struct.pack("<HH", 0, 0))),
    (f"command {NOBODY_KNOWS}", "that nobody knows", _plain(NOBODY_KNOWS, bytes(16))),
)
"""Command, what is asked for, and how."""


def _answers(path: str, timeout: float) -> Iterator[Answer]:
    """Put every question, over a new connection once one is lost."""
    with contextlib.ExitStack() as held:
        client: Client | None = None
        for command, request, ask in QUESTIONS:
            if client is None:
                client = held.enter_context(opened(path, timeout))
            outcome = _outcome(client, path, timeout, ask)
            yield Answer(command, request, outcome)
            if outcome in (CLOSED, SILENT, NONSENSE):
                held.pop_all().close()
                client = None


def _outcome(client: Client, path: str, timeout: float, ask: Callable[[Client], None]) -> str:
    try:
        ask(client)
    except RequestError as refusal:
        return errno.errorcode[refusal.number]
    except TimeoutError:
        return SILENT
    except ConnectionError:
        return CLOSED
    except ProtocolError:
        return NONSENSE
    return DONE
