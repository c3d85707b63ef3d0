"""A server that lies: replies to a client's requests, with something wrong in some of them."""

import random

from scapy.packet import fuzz

from mdevemu.capture.layers import (
    BOTH,
    Area,
    DeviceInfo,
    IrqInfo,
    RegionInfo,
    SparseMmap,
    VersionData,
)
from tests.hostile.files import KINDS
from tests.hostile.messages import JSONS, NUMBERS, fixed_fields, little
from tests.support.vfio_user import QEMU_JSON

REPLY, REFUSED = 0x01, 0x21


class Liar:
    """Makes replies, drawing from one random source."""

    def __init__(self, pick: random.Random) -> None:
        self._pick = pick
        areas = SparseMmap(areas=[Area(offset=0, size=4096)])
        region = RegionInfo(argsz=56, flags=0xF, cap_offset=32, size=8192, capabilities=[areas])
        self._honest = {
            1: VersionData(major=0, minor=1, json=QEMU_JSON),
            4: DeviceInfo(argsz=16, flags=3, num_regions=9, num_irqs=5),
            5: region,
            7: IrqInfo(argsz=16, flags=1, index=2, count=4),
        }
        self._bytes = {command: bytes(packet) for command, packet in self._honest.items()}
        self._fields = {
            command: list(fixed_fields(packet)) for command, packet in self._honest.items()
        }
        self._wild = {command: fuzz(layer()) for command, layer in BOTH.items()}

    def reply(self, number: int, command: int, echoed: bytes = b"") -> tuple[bytes, list[str]]:
        """To one request: bytes, and kinds of descriptors.

        ``echoed`` is what an honest reply would repeat, if that is not in a layer.
        """
        pick = self._pick
        payload = bytearray(self._bytes.get(command, echoed))
        way = pick.random()
        if way < 0.15 and command in self._wild:
            payload = bytearray(bytes(self._wild[command]))
        elif way < 0.3:
            for at, width in self._fields.get(command, ()):
                if pick.random() < 0.3:
                    payload[at : at + width] = little(pick.choice(NUMBERS), width)
        elif way < 0.35:
            payload = payload[: pick.randrange(len(payload) + 1)]
        elif way < 0.4:
            payload += pick.randbytes(pick.choice((1, 8, 5000)))
        elif way < 0.45 and command == 1:
            payload = bytearray(b"\0\0\1\0" + pick.choice(JSONS))
        head = self._head(number, command, len(payload))
        kinds = [pick.choice(KINDS) for _ in range(pick.choice((1, 1, 2, 16)))]
        return head + payload, kinds if pick.random() < 0.2 else []

    def _head(self, number: int, command: int, length: int) -> bytes:
        pick = self._pick
        flags, error, size = REPLY, 0, 16 + length
        way = pick.random()
        if way < 0.05:
            flags, error = REFUSED, pick.choice((0, 5, 22, 95, 4096, 0xFFFF_FFFF))
        elif way < 0.07:
            number = pick.randrange(1 << 16)
        elif way < 0.09:
            command = pick.randrange(20)
        elif way < 0.11:
            size = pick.choice((0, 15, 16, size - 1, size + 1, 1 << 20, 0xFFFF_FFFF))
        elif way < 0.16:  # a command of its own
            command, flags = pick.choice((11, 12, 11, 12, 9, 99)), pick.choice((0, 0x10))
        elif way < 0.18:
            flags = pick.choice((2, 0xF, 0x31, 0xFFFF_FFFF))
        return b"".join(
            (
                little(number, 2),
                little(command, 2),
                little(size, 4),
                little(flags, 4),
                little(error, 4),
            )
        )
