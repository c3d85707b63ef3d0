"""Conversations in pcapng files, one message per packet.

Spec: draft-ietf-opsawg-pcapng.  The link type is USER0; the direction of a packet
is in its flags (inbound is to the server), its descriptors are in its comment.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mdevemu.errors import ConfigError
from mdevemu.units import MIB
from mdevemu.vfio_user.wire import HEADER, HEADER_SIZE

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER = 0x1A2B3C4D
USER0 = 147
COMMENT, FLAGS, NAME, RESOLUTION, APPLICATION = 1, 2, 2, 9, 4
INBOUND, OUTBOUND = 1, 2
NANOSECONDS = 9
LARGEST_BLOCK = 128 * MIB
FDS = "fds="


@dataclass(frozen=True, slots=True)
class Captured:
    """One message on its way.

    Attributes:
        time: nanoseconds since the epoch.
        to_server: the client sent it.
        data: all of it, header first.
        fds: what its descriptors were: ``eventfd``, ``memory:1`` and the like.
    """

    time: int
    to_server: bool
    data: bytes
    fds: tuple[str, ...] = ()


class Writer:
    """A new file; each message is in it as soon as it was added."""

    def __init__(self, file: BinaryIO) -> None:
        """``file`` stays the caller's."""
        self._file = file
        head = struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1)
        self._block(SECTION, head, [(APPLICATION, b"mdevemu")])
        options = [(NAME, b"vfio-user"), (RESOLUTION, bytes([NANOSECONDS]))]
        self._block(INTERFACE, struct.pack("<HHI", USER0, 0, 0), options)

    def add(self, each: Captured) -> None:
        """Write one message.

        Raises:
            OSError: the file does not take it.
        """
        high, low = divmod(each.time, 1 << 32)
        size = len(each.data)
        body = struct.pack("<IIIII", 0, high, low, size, size) + _padded(each.data)
        flags = struct.pack("<I", INBOUND if each.to_server else OUTBOUND)
        options = [(FLAGS, flags)]
        if each.fds:
            options.append((COMMENT, (FDS + ",".join(each.fds)).encode()))
        self._block(PACKET, body, options)

    def _block(self, kind: int, body: bytes, options: Sequence[tuple[int, bytes]]) -> None:
        packed = b"".join(
            struct.pack("<HH", code, len(text)) + _padded(text) for code, text in options
        )
        whole = body + packed + bytes(4)
        size = struct.pack("<I", 12 + len(whole))
        self._file.write(struct.pack("<I", kind) + size + whole + size)
        self._file.flush()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def read(path: Path) -> Iterator[Captured]:
    """The messages of a file, as far as one asks for them.

    Raises:
        ConfigError: it cannot be read, is no pcapng file, or none of vfio-user.
    """
    try:
        with path.open("rb") as file:
            yield from _Reader(str(path), file).packets()
    except OSError as wrong:
        raise ConfigError(str(path), wrong.strerror or str(wrong)) from None


@dataclass(slots=True)
class _Interface:
    """Where packets come from: of which kind, and what a unit of time is."""

    link: int
    ticks: Callable[[int], int]


class _Reader:
    """One file, block by block; the byte order may change with every section."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file
        self._order = "<"
        self._interfaces: list[_Interface] = []

    def packets(self) -> Iterator[Captured]:
        """Every message.

        Raises:
            ConfigError: the file is damaged, or has something else in it.
        """
        first = True
        while head := self._file.read(8):
            kind, body = self._body(head, first)
            first = False
            if kind == SECTION:
                self._interfaces.clear()
            elif kind == INTERFACE:
                self._interfaces.append(self._interface(body))
            elif kind == PACKET:
                yield self._packet(body)

    def _body(self, head: bytes, first: bool) -> tuple[int, bytes]:
        """Kind and content of the block that begins with ``head``."""
        start = b""
        if head[:4] == struct.pack("<I", SECTION):
            start = self._file.read(4)
            order = {struct.pack(o + "I", BYTE_ORDER): o for o in "<>"}.get(start)
            if order is None:
                raise self._wrong("a section of no byte order")
            self._order = order
        elif first:
            raise self._wrong("no pcapng file")
        if len(head) < 8:
            raise self._wrong("cut off in a block")
        kind, size = self._unpack("II", head)
        if not 12 + len(start) <= size <= LARGEST_BLOCK or size % 4:
            raise self._wrong(f"a block of {size} bytes")
        rest = start + self._file.read(size - 8 - len(start))
        if len(rest) != size - 8:
            raise self._wrong("cut off in a block")
        if self._unpack("I", rest[-4:])[0] != size:
            raise self._wrong("a block whose two sizes differ")
        return kind, rest[:-4]

    def _interface(self, body: bytes) -> _Interface:
        self._room(body, 8)
        link = self._unpack("H", body[:2])[0]
        told = dict(self._options(body[8:])).get(RESOLUTION, b"\x06")
        code = told[0] if told else 6
        power = code & 0x7F
        if code & 0x80:
            return _Interface(link, lambda ticks: ticks * 10**9 >> power)
        return _Interface(link, lambda ticks: ticks * 10**9 // 10**power)

    def _packet(self, body: bytes) -> Captured:
        self._room(body, 20)
        number, high, low, size, whole = self._unpack("IIIII", body[:20])
        if number >= len(self._interfaces):
            raise self._wrong(f"a packet of interface {number}, which there is not")
        interface = self._interfaces[number]
        if interface.link != USER0:
            raise self._wrong(f"packets of link type {interface.link}, not vfio-user's {USER0}")
        data, options = body[20 : 20 + size], dict(self._options(body[20 + size + -size % 4 :]))
        if len(data) != size or size != whole:
            raise self._wrong("a message that is not whole")
        if size < HEADER_SIZE or HEADER.unpack_from(data)[2] != size:
            raise self._wrong("a packet that is no vfio-user message")
        flags = options.get(FLAGS, b"")
        direction = self._unpack("I", flags)[0] & 3 if len(flags) == 4 else 0
        if direction not in (INBOUND, OUTBOUND):
            raise self._wrong("a message without a direction")
        comment = options.get(COMMENT, b"").decode(errors="replace")
        fds = comment.removeprefix(FDS).split(",") if comment.startswith(FDS) else []
        time = interface.ticks(high << 32 | low)
        return Captured(time, direction == INBOUND, data, tuple(fds))

    def _options(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        while len(data) >= 4:
            code, size = self._unpack("HH", data[:4])
            if code == 0:
                return
            if 4 + size > len(data):
                raise self._wrong("an option that is cut off")
            yield code, data[4 : 4 + size]
            data = data[4 + size + -size % 4 :]

    def _room(self, body: bytes, size: int) -> None:
        if len(body) < size:
            raise self._wrong(f"a block with {len(body)} bytes of content, not {size}")

    def _unpack(self, form: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack(self._order + form, data)

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(self._name, f"{what} (accepted: what hostctl trace record writes)")
