"""Malformed messages: scapy's fuzz() of every layer, and plausible ones with something wrong.

A conversation is a function of a seed and its number, so that whatever it breaks
breaks again.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from scapy.fields import ConditionalField, PacketListField
from scapy.packet import Packet, Raw, fuzz

from mdevemu.capture.layers import COMMANDS, REQUESTS, VfioUser
from tests.hostile.files import KINDS, SHRINK
from tests.support.vfio_user import QEMU_JSON

LENGTH = 120
"""Most messages of a conversation."""

NUMBERS = sorted(
    {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 20, 24, 32, 0xFFF, 0x1000, 0x1001, 0x2000, 0x1_0000}
    | {(1 << power) + delta for power in (20, 24, 31, 32, 43, 48, 63, 64) for delta in (-1, 0, 1)}
    | {(1 << 64) - 0x1000, (1 << 63) - 0x1000}
)
WIDTHS = (1, 2, 4, 4, 8, 8)
LARGE = (0x1000, 0xFFFF, 1 << 20, (1 << 20) + 16)
MAX_FDS = 20
"""A few more than a message may have."""

JSONS = (
    b"",
    b"\0",
    b"{}\0",
    QEMU_JSON,
    QEMU_JSON[:-1],
    b"[" * 5000 + b"\0",
    b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"\0",
    b'{"capabilities": {"max_msg_fds": ' + b"9" * 5000 + b"}}\0",
    b'{"capabilities": {"max_msg_fds": -1}}\0',
    b'{"capabilities": {"max_data_xfer_size": 1e999}}\0',
    b'{"capabilities": {"pgsizes": 1, "pgsizes": true}, "capabilities": []}\0',
    b'{"capabilities": {"migration": {"pgsize": 3}, "twin_socket": {"supported": true}}}\0',
    b'{"capabilities": "\\ud800"}\0',
    b"\xff\xfe{}\0",
    b'{"' + b"x" * 60_000 + b'": 0}\0',
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """One message.

    Attributes:
        data: its bytes, header and all.
        fds: kinds of the descriptors that go along; see ``files``.
        cuts: where it is cut into pieces that are sent one by one.
    """

    data: bytes
    fds: tuple[str, ...] = ()
    cuts: tuple[int, ...] = ()


class Generator:
    """Makes conversations of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._wild = {command: fuzz(layer()) for command, layer in REQUESTS.items()}
        # Where the numbers of a payload are: offset and width of each fixed field.
        self._fields = {command: list(fixed_fields(layer())) for command, layer in REQUESTS.items()}
        self._tame = {command: bytes(layer()) for command, layer in REQUESTS.items()}
        self._commands = [*COMMANDS, *REQUESTS, *(2, 3, 8, 9, 10, 10, 10, 15)]
        self._random = random.Random()

    def conversation(self, number: int) -> Iterator[Hostile]:
        """The messages of one connection, VERSION first in most; one conversation at a time."""
        self._random = pick = random.Random(self.seed << 64 | number)
        random.seed(self.seed << 64 | number)  # which scapy draws from
        way = pick.random()
        if way < 0.9:
            yield Hostile(self._message(1, b"\0\0\0\0" + QEMU_JSON))
        elif way < 0.99:
            yield self._version()
        for _ in range(pick.randint(1, LENGTH)):
            yield self._any()

    def _any(self) -> Hostile:
        """One of the ways to be wrong; seldom none."""
        pick = self._random
        command = pick.choice(self._commands)
        way = pick.random()
        if way < 0.25 and command in self._wild:
            payload = bytes(self._wild[command])
        else:
            payload = self._plausible(command)
        fds = self._fds(command)
        flags = pick.choice((0, 0, 0, 0, 0x10))
        if way > 0.99:
            return self._broken(command, payload, flags, fds)
        if way > 0.95:
            payload = payload[: pick.randrange(len(payload) + 1)]
        elif way > 0.92:
            payload += pick.randbytes(pick.choice((1, 4, 8, 16, 100)))
        data = self._message(command, payload, flags)
        return Hostile(data, fds, self._cuts(data))

    def _plausible(self, command: int) -> bytes:
        """What the layer says, with numbers of ours in some of its fields."""
        pick = self._random
        if command == 9:
            return self._access()
        if command == 10:
            size = pick.choice(WIDTHS) if pick.random() < 0.995 else pick.choice(LARGE)
            return self._access(size) + pick.randbytes(size)
        if command == 15:
            return self._writes()
        payload = bytearray(self._tame.get(command, b""))
        for at, width in self._fields.get(command, ()):
            if pick.random() < 0.4:
                payload[at : at + width] = self._number(width)
        if command == 8 and pick.random() < 0.7:  # one data kind, one action
            flags = pick.choice((1, 2, 4)) | pick.choice((8, 0x10, 0x20))
            words = (20, flags, pick.randrange(6), pick.choice((0, 0, 1, 3)), pick.randrange(6))
            payload = bytearray(b"".join(word.to_bytes(4, "little") for word in words))
            payload += pick.randbytes(words[4] if flags & 2 else 0)
        if command in (2, 3) and pick.random() < 0.7:  # pages, among those that others may be in
            place = pick.randrange(64) << 12 | pick.choice((0, 0, 0, 1 << 40, 1 << 63))
            payload[-16:-8] = place.to_bytes(8, "little")
            payload[-8:] = (pick.randrange(1, 32) << 12).to_bytes(8, "little")
        return bytes(payload)

    def _access(self, size: int | None = None) -> bytes:
        """Where, and how much of it."""
        pick = self._random
        offset = pick.choice((pick.randrange(0x100), pick.randrange(0x1_0000)))
        if pick.random() < 0.05:
            offset = int.from_bytes(self._number(8), "little")
        region = pick.choice((0, 0, 0, 1, 2, 4, 7, 7, pick.randrange(12)))
        if size is None:
            size = pick.choice(WIDTHS) if pick.random() < 0.98 else pick.choice(LARGE)
        if pick.random() < 0.03:
            size = int.from_bytes(self._number(4), "little")
        return little(offset, 8) + little(region, 4) + little(size, 4)

    def _writes(self) -> bytes:
        pick = self._random
        count = pick.choice((0, 1, 2, 5, 5, 40)) if pick.random() < 0.99 else 1024
        writes = b"".join(
            self._access(pick.choice((1, 2, 4, 8, 8, 9))) + pick.randbytes(8) for _ in range(count)
        )
        told = count if pick.random() < 0.9 else int.from_bytes(self._number(8), "little")
        return little(told, 8) + writes

    def _version(self) -> Hostile:
        """VERSION as nobody sends it."""
        pick = self._random
        head = pick.choice((b"\0\0\0\0", b"\0\0\1\0", b"\1\0\0\0", b"\0", b""))
        return Hostile(self._message(1, head + pick.choice(JSONS)), self._fds(1))

    def _broken(self, command: int, payload: bytes, flags: int, fds: tuple[str, ...]) -> Hostile:
        """A header that is wrong itself, which mostly ends the connection."""
        pick = self._random
        size = pick.choice((None, 0, 15, 16, 17, 0xFFFF_FFFF, 1 << 20, len(payload)))
        packet = VfioUser(
            id=pick.randrange(1 << 16),
            cmd=pick.choice((command, 0, 14, 19, 0xFFFF)),
            size=size,
            flags=pick.choice((flags, 1, 0x21, 2, 0xF, 0x20, 0xFFFF_FFFF)),
            error=pick.choice((0, 22, 0xFFFF_FFFF)),
        )
        data = bytes(packet / Raw(payload)) if pick.random() < 0.8 else pick.randbytes(64)
        return Hostile(data, fds, self._cuts(data))

    def _fds(self, command: int) -> tuple[str, ...]:
        """What goes along: mostly what fits, sometimes anything, seldom too much."""
        pick = self._random
        way = pick.random()
        if command == 2 and way < 0.6:
            return (pick.choice(("memory", "memory", SHRINK, "file")),)
        if command == 8 and way < 0.6:
            return ("eventfd",) * pick.randrange(6)
        if way < 0.93 or (way > 0.935 and command not in (2, 8)):
            return ()
        return tuple(pick.choice(KINDS) for _ in range(pick.choice((1, 1, 1, 2, 8, MAX_FDS))))

    def _cuts(self, data: bytes) -> tuple[int, ...]:
        pick = self._random
        if pick.random() > 0.03:
            return ()
        return tuple(sorted({pick.randrange(1, len(data)) for _ in range(pick.choice((1, 1, 4)))}))

    def _number(self, width: int) -> bytes:
        pick = self._random
        if pick.random() < 0.2:
            return pick.randbytes(width)
        return little(pick.choice(NUMBERS), width)

    def _message(self, command: int, payload: bytes, flags: int = 0) -> bytes:
        head = little(self._random.randrange(1 << 16), 2) + little(command, 2)
        return head + little(16 + len(payload), 4) + little(flags, 4) + bytes(4) + payload


def little(number: int, width: int) -> bytes:
    """Its lowest ``width`` bytes."""
    return (number & (1 << 8 * width) - 1).to_bytes(width, "little")


def fixed_fields(packet: Packet) -> Iterator[tuple[int, int]]:
    """Offset and width of each number that a packet begins with."""
    at = 0
    for field in packet.fields_desc:
        if not field.sz or isinstance(field, PacketListField | ConditionalField):
            return
        yield at, int(field.sz)
        at += int(field.sz)
