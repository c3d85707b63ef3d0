"""Negotiation: JSON from a stranger, and an answer that fits every client."""

import errno
import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdevemu.errors import RequestError
from mdevemu.vfio_user.session import State
from mdevemu.vfio_user.version import Capabilities, decode_version
from tests.support.vfio_user import OK, QEMU_JSON, REFUSED, VERSION, Desk, memfd, open_fds


def offer(json=b"", major=0, minor=0):
    return struct.pack("<HH", major, minor) + json


def capabilities(text):
    return b'{"capabilities":' + text + b"}\0"


def agreed(payload):
    desk = Desk()
    flags, error, reply = desk.ask(VERSION, payload)
    state = desk.session.state
    desk.close()
    return flags, error, reply, state


@pytest.mark.parametrize(("minor", "answer"), [(0, 0), (1, 1), (2, 1), (0xFFFF, 1)])
def test_minor_version_is_never_more_than_proposed(minor, answer):
    flags, _, reply, state = agreed(offer(QEMU_JSON, minor=minor))
    assert flags == OK
    assert struct.unpack_from("<HH", reply) == (0, answer)
    assert state is State.READY


@pytest.mark.parametrize("text", [QEMU_JSON, b"", b"{}\0", capabilities(b"{}")])
def test_reply_is_json_that_qemu_takes_whatever_was_offered(text):
    _, _, reply, _ = agreed(offer(text))
    assert len(reply) + 16 <= 214
    assert reply.endswith(b"\0")
    ours = json.loads(reply[4:-1])["capabilities"]
    assert 1 <= ours["max_msg_fds"] <= 16
    assert 4096 <= ours["max_data_xfer_size"] <= 64 << 20
    assert ours["pgsizes"] > 0
    assert ours["pgsizes"] % 4096 == 0
    assert ours["max_dma_maps"] <= 65535
    known = {"max_msg_fds", "max_data_xfer_size", "pgsizes", "max_dma_maps", "write_multiple"}
    assert set(ours) <= known


@pytest.mark.parametrize(
    ("text", "multiple"),
    [(QEMU_JSON, True), (b"", False), (capabilities(b'{"write_multiple":false}'), False)],
)
def test_write_multiple_is_told_only_to_those_who_have_it(text, multiple):
    _, _, reply, _ = agreed(offer(text))
    assert ("write_multiple" in json.loads(reply[4:-1])["capabilities"]) == multiple


def test_qemus_offer_is_understood():
    assert decode_version(offer(QEMU_JSON)) == (
        0,
        0,
        Capabilities(16, 1 << 20, 65535, 4096, write_multiple=True, migration=4096),
    )


@pytest.mark.parametrize(
    "text",
    [
        b"{}\0",
        b'{"other":[1,2]}\0',
        capabilities(b"{}"),
        capabilities(b'{"unknown":{"deep":[1]},"twin_socket":{"supported":true}}'),
        capabilities(b'{"migration":{"pgsize":4096}}'),
        b' {"capabilities" : { } } \0',
        capabilities('{"ключ":1}'.encode()),
    ],
)
def test_unknown_and_missing_keys_are_fine(text):
    assert agreed(offer(text))[0] == OK


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        offer(QEMU_JSON, major=1),
        offer(QEMU_JSON[:-1]),
        offer(QEMU_JSON + b"\0"),
        offer(b"{}\0{}\0"),
        offer(b"\0"),
        offer(b"{\0"),
        offer(b"[]\0"),
        offer(b"null\0"),
        offer(b"\xff\xfe{}\0"),
        offer(b'{"capabilities":{"\xc3":1}}\0'),
        offer(b'{"capabilities":[]}\0'),
        offer(b'{"capabilities":null}\0'),
        offer(b'{"capabilities":{},"capabilities":{}}\0'),
        offer(capabilities(b'{"max_msg_fds":1,"max_msg_fds":1}')),
        offer(capabilities(b'{"max_msg_fds":"16"}')),
        offer(capabilities(b'{"max_msg_fds":16.0}')),
        offer(capabilities(b'{"max_msg_fds":true}')),
        offer(capabilities(b'{"max_msg_fds":null}')),
        offer(capabilities(b'{"max_msg_fds":-1}')),
        offer(capabilities(b'{"max_msg_fds":1025}')),
        offer(capabilities(b'{"max_data_xfer_size":0}')),
        offer(capabilities(b'{"max_data_xfer_size":1e400}')),
        offer(capabilities(b'{"max_dma_maps":' + b"9" * 3000 + b"}")),
        offer(capabilities(b'{"pgsizes":0}')),
        offer(capabilities(b'{"pgsizes":NaN}')),
        offer(capabilities(b'{"x":Infinity}')),
        offer(capabilities(b'{"write_multiple":1}')),
        offer(capabilities(b'{"migration":4096}')),
        offer(capabilities(b'{"twin_socket":true}')),
        offer(capabilities(b'{"x":' + b"[" * 1900 + b"]" * 1900 + b"}")),
        offer(b'{"a":' * 600 + b"1" + b"}" * 600 + b"\0"),
        offer(b"[" * 4095 + b"\0"),
        offer(b'{"x":"' + b"y" * 4096 + b'"}\0'),
        offer(b"{}" + b" " * 1_000_000 + b"\0"),
    ],
)
def test_bad_offer_is_refused_and_ends_the_session(payload):
    flags, error, reply, state = agreed(payload)
    assert (flags, error, reply) == (REFUSED, errno.EINVAL, b"")
    assert state is State.OVER


def test_version_with_descriptors_is_refused_and_they_are_closed():
    desk = Desk()
    before = open_fds()
    assert desk.ask(VERSION, offer(QEMU_JSON), [memfd()]) == (REFUSED, errno.EINVAL, b"")
    assert open_fds() == before
    assert desk.session.state is State.OVER
    desk.close()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_understood(payload):
    with suppress(RequestError):
        decode_version(payload)
