"""VERSION: what both ends can do, as bounded JSON."""

import errno
import json
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from mdevemu.errors import RequestError
from mdevemu.units import PAGE
from mdevemu.vfio_user import wire

LARGEST = 4096
"""Most bytes of JSON that we look at; QEMU sends 194."""

BRACKETS = 64
"""Most objects and arrays in it, so that nesting needs no stack to speak of; QEMU sends 3."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one end says it can do; the defaults hold for what it does not mention.

    Attributes:
        max_msg_fds: descriptors it can receive in one message.
        max_data_xfer_size: most data bytes of one read or write.
        max_dma_maps: most DMA windows at a time.
        pgsizes: page sizes of DMA windows in bytes, or'ed together.
        write_multiple: it knows REGION_WRITE_MULTI.
        migration: page size of its dirty bitmaps in bytes; 0, it moves no devices.
        twin_socket: commands of the server can go over a socket of their own.

    Spec: VFIO_USER_VERSION.
    """

    max_msg_fds: int = 1
    max_data_xfer_size: int = 1 << 20
    max_dma_maps: int = 65535
    pgsizes: int = 4096
    write_multiple: bool = False
    migration: int = 0
    twin_socket: bool = False


OURS = Capabilities(
    wire.MAX_FDS,
    wire.MAX_TRANSFER,
    wire.MAX_MAPS,
    wire.PAGE_SIZES,
    write_multiple=True,
    migration=PAGE,
)


def agree(peer: Capabilities, *, movable: bool, twin: bool) -> Capabilities:
    """What we tell a peer: our limits, and of our extras those that it has as well.

    QEMU 10.1 and 10.2 send everything through a queue once they hear of
    write_multiple, which costs them a thread switch and nothing else.
    """
    return replace(
        OURS,
        write_multiple=peer.write_multiple,
        migration=OURS.migration if peer.migration and movable else 0,
        twin_socket=twin,
    )


# QEMU and libvfio-user stay within these; outside them is a peer that we misunderstand.
_RANGES = {
    "max_msg_fds": range(1025),
    "max_data_xfer_size": range(1, 1 << 32),
    "max_dma_maps": range(1, 1 << 32),
    "pgsizes": range(1, 1 << 64),
}

_BITMAP_PAGES = range(PAGE, 1 << 32, PAGE)


def encode_version(minor: int, capabilities: Capabilities, *, fd_index: int | None = None) -> bytes:
    """Payload of a VERSION message; ``fd_index`` says in a reply which descriptor the twin is.

    Ours is 155 bytes, which matters: QEMU takes 198 and no more.  (One that offered
    twin_socket would take as much more.)  What is false is left out, so that nobody is
    told of a capability unasked.
    """
    told = {name: getattr(capabilities, name) for name in _RANGES}
    if capabilities.write_multiple:
        told["write_multiple"] = True
    if capabilities.migration:
        told["migration"] = {"pgsize": capabilities.migration}
    if capabilities.twin_socket:
        index = {} if fd_index is None else {"fd_index": fd_index}
        told["twin_socket"] = {"supported": True, **index}
    text = json.dumps({"capabilities": told}, separators=(",", ":"))
    return wire.VERSION.pack(wire.MAJOR, minor) + text.encode() + b"\0"


def decode_version(payload: bytes) -> tuple[int, int, Capabilities]:
    """Major, minor and capabilities of the other end.

    Keys that we do not know are somebody else's; ones that we know must be sane.

    Raises:
        RequestError: EINVAL; the payload is short, or its JSON is not what it must be.
    """
    if len(payload) < wire.VERSION.size:
        raise RequestError(errno.EINVAL, f"VERSION of {len(payload)} bytes")
    major, minor = wire.VERSION.unpack_from(payload)
    return major, minor, _capabilities(payload[wire.VERSION.size :])


def offered(payload: bytes) -> dict[str, Any]:
    """What a VERSION that can be decoded says it can do, whatever the keys."""
    text = payload[wire.VERSION.size : -1]
    told: dict[str, Any] = json.loads(text).get("capabilities", {}) if text else {}
    return told


def _capabilities(text: bytes) -> Capabilities:
    if not text:
        return Capabilities()
    if len(text) > LARGEST:
        raise RequestError(errno.EINVAL, f"VERSION with {len(text)} bytes of JSON")
    if text.count(b"{") + text.count(b"[") > BRACKETS:
        raise RequestError(errno.EINVAL, "VERSION with a thicket of JSON")
    if text.find(b"\0") != len(text) - 1:
        raise RequestError(errno.EINVAL, "VERSION whose JSON does not end at its one NUL")
    try:
        data = json.loads(text[:-1].decode(), object_pairs_hook=_distinct, parse_constant=_not_json)
    except ValueError as wrong:
        raise RequestError(errno.EINVAL, f"VERSION with bad JSON: {wrong}") from None
    offered = _object(_object(data, "version data").get("capabilities", {}), "capabilities")
    told: dict[str, Any] = {
        name: _number(name, offered[name], accepted)
        for name, accepted in _RANGES.items()
        if name in offered
    }
    told["write_multiple"] = _switch("write_multiple", offered)
    if "migration" in offered:
        migration = _object(offered["migration"], "migration")
        told["migration"] = _number("pgsize", migration.get("pgsize", PAGE), _BITMAP_PAGES)
        _number("max_bitmap_size", migration.get("max_bitmap_size", 1), _RANGES["pgsizes"])
    twin = _object(offered.get("twin_socket", {}), "twin_socket")
    told["twin_socket"] = _switch("supported", twin)
    if "fd_index" in twin:
        _number("fd_index", twin["fd_index"], range(wire.MAX_FDS))
    return Capabilities(**told)


def _number(name: str, value: object, accepted: range) -> int:
    if type(value) is not int or value not in accepted:
        raise RequestError(errno.EINVAL, f"VERSION with {name} {value!r:.40}")
    return value


def _switch(name: str, given: dict[str, Any]) -> bool:
    value = given.get(name, False)
    if type(value) is not bool:
        raise RequestError(errno.EINVAL, f"VERSION with {name} {value!r:.40}")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(errno.EINVAL, f"VERSION whose {what} is no JSON object")
    return value


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key twice in one object")
    return made


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
