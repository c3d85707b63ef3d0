"""Bytes and descriptors become the same messages, however the socket cuts them up."""

import os
import socket
import struct
from contextlib import closing, suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.errors import ProtocolError
from mdevemu.vfio_user.framing import Framer
from mdevemu.vfio_user.transport import Transport
from mdevemu.vfio_user.wire import MAX_FDS, MAX_MESSAGE
from tests.support.movable import Movable, Noting
from tests.support.vfio_user import (
    DMA_MAP,
    GET_REGION_INFO,
    NO_REPLY,
    READ,
    RESET,
    SET_IRQS,
    WRITE,
    WRITE_MULTI,
    Desk,
    Device,
    access,
    dma_map,
    dma_unmap,
    frame,
    hello,
    irqs,
    memfd,
    open_fds,
)

CONVERSATION = b"".join(
    [
        hello(0),
        frame(1, DMA_MAP, dma_map(0, 0x10000)),
        frame(2, DMA_MAP, dma_map(0x8000, 0x10000)),
        frame(3, 3, dma_unmap(0, 0x10000)),
        frame(4, GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 0, 0, 0, 0)),
        frame(5, WRITE, access(0, 0x10, 4, b"abcd"), NO_REPLY),
        frame(6, WRITE_MULTI, struct.pack("<Q", 1) + access(0, 0x18, 4, bytes(8)), NO_REPLY),
        frame(7, READ, access(0, 0x10, 8)),
        frame(8, READ, access(9, 0, 8)),
        frame(9, SET_IRQS, irqs(0x21, 0)),
        frame(10, 99, b"what"),
        frame(11, RESET),
    ]
)


def talk(pieces):
    desk = Desk()
    replies = b"".join(desk.tell(piece)[0] for piece in pieces)
    log = desk.device.log
    desk.close()
    return replies, log


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_split_anywhere_gives_the_same_replies(cuts):
    cuts = [0, *sorted(cuts), len(CONVERSATION)]
    pieces = [CONVERSATION[a:b] for a, b in pairwise(cuts)]
    assert talk(pieces) == talk([CONVERSATION])


def test_byte_by_byte_gives_the_same_replies():
    assert talk(bytes([byte]) for byte in CONVERSATION) == talk([CONVERSATION])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_after_version_never_raises_anything_else(data):
    desk = Desk()
    desk.tell(hello())
    with suppress(ProtocolError):
        desk.tell(data)
    desk.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_from_the_start_never_raises_anything_else(data):
    desk = Desk()
    with suppress(ProtocolError):
        desk.tell(data)
    desk.close()


@settings(max_examples=400, deadline=None)
@given(
    device=st.sampled_from([Device, Movable]),
    command=st.integers(0, 20),
    flags=st.integers(0, 0x3F),
    words=st.lists(
        st.integers(0, 0x40) | st.sampled_from([0x1000, 0xFFFFFFFF, 1 << 31]), max_size=16
    ),
    fds=st.integers(0, 2),
)
def test_any_well_framed_request_is_answered_once_and_leaks_nothing(
    device, command, flags, words, fds
):
    before = open_fds()
    desk = Desk(device(), Noting())
    desk.tell(hello())
    payload = struct.pack(f"<{len(words)}I", *words)
    with suppress(ProtocolError):
        answer = desk.ask(command, payload, [memfd() for _ in range(fds)], flags)
        if flags & NO_REPLY:
            assert answer is None
        else:
            reply_flags, error, body = answer
            assert reply_flags in (0x01, 0x21)
            assert (reply_flags == 0x21) == (error != 0)
            assert not error or body == b""
            if command not in (READ, GET_REGION_INFO):
                assert len(body) <= len(payload)
    desk.close()
    assert open_fds() == before


@pytest.mark.parametrize("size", [0, 15, MAX_MESSAGE + 1, 2**32 - 1])
def test_impossible_size_is_an_error_as_soon_as_the_header_is_there(size):
    framer = Framer()
    framer.space()[:16] = struct.pack("<HHIII", 0, READ, size, 0, 0)
    framer.received(15, [])
    assert framer.next() is None
    framer.received(1, [])
    with pytest.raises(ProtocolError):
        framer.next()


def test_largest_message_fits():
    framer, data = Framer(), os.urandom(MAX_MESSAGE - 16)
    stream = frame(1, WRITE, b"small") + frame(2, WRITE, data) + frame(3, RESET)
    found = []
    while stream:
        space = framer.space()
        count = min(len(space), len(stream))
        space[:count] = stream[:count]
        stream = stream[count:]
        framer.received(count, [])
        while message := framer.next():
            found.append((message.id, message.payload))
    assert found == [(1, b"small"), (2, data), (3, b"")]


def test_descriptors_stay_with_a_message_that_is_moved_in_the_buffer():
    framer = Framer()
    plain, tail = frame(1, WRITE, bytes(1000)), frame(2, DMA_MAP, bytes(8000))
    count = (len(framer.space()) - 100) // len(plain)
    stream = plain * count + tail[:100]
    framer.space()[: len(stream)] = stream
    with memfd() as file:
        framer.received(len(stream), [file])
        assert sum(len(framer.next().fds) for _ in range(count)) == 0
        assert framer.next() is None
        stream = tail[100:] + frame(3, RESET)
        framer.space()[: len(stream)] = stream
        framer.received(len(stream), [])
        assert framer.next().fds == [file]
        assert framer.next().fds == []


# Descriptors, over a real socket: which message gets them is the kernel's doing and ours.


class Pair:
    """A sender that is a plain socket, and a transport that receives."""

    def __init__(self):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.setblocking(False)
        self.transport = Transport(theirs)

    def send(self, data, *fds):
        socket.send_fds(self.ours, [data], [fd.fileno() for fd in fds])

    def receive(self):
        """(id, inodes of its descriptors) of every message that has arrived."""
        found = []
        while True:
            while message := self.transport.next():
                found.append((message.id, [os.fstat(fd.fileno()).st_ino for fd in message.fds]))
                message.close()
            try:
                if not self.transport.receive():
                    return found
            except BlockingIOError:
                return found

    def close(self):
        self.ours.close()
        self.transport.close()


@pytest.fixture
def pair():
    before = open_fds()
    pair = Pair()
    yield pair
    pair.close()
    assert open_fds() == before


@pytest.fixture
def files():
    made = [memfd() for _ in range(20)]
    yield made
    for fd in made:
        fd.close()


def inode(fd):
    return os.fstat(fd.fileno()).st_ino


def test_descriptors_stay_with_their_message_among_others(pair, files):
    pair.send(frame(1, RESET))
    pair.send(frame(2, DMA_MAP, dma_map(0, 0x1000)))
    pair.send(frame(3, DMA_MAP, dma_map(0x1000, 0x1000)), files[0])
    pair.send(frame(4, DMA_MAP, dma_map(0x2000, 0x1000)), files[1])
    pair.send(frame(5, RESET))
    pair.send(frame(6, SET_IRQS, irqs(0x24, 2, 0, 2)), files[2], files[3])
    assert pair.receive() == [
        (1, []),
        (2, []),
        (3, [inode(files[0])]),
        (4, [inode(files[1])]),
        (5, []),
        (6, [inode(files[2]), inode(files[3])]),
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 3), st.booleans(), st.floats(0, 1, allow_nan=False)
        ),
        max_size=30,
    )
)
def test_any_mix_of_messages_keeps_its_descriptors(messages):
    with closing(Pair()) as pair, memfd() as a, memfd() as b, memfd() as c:
        expected, received = [], []
        for number, (count, pages, pause, share) in enumerate(messages):
            whole = frame(number, DMA_MAP, bytes(pages * 3000))
            # Header and descriptors first, and the body together with them or later.
            cut = 16 + int(share * (len(whole) - 16))
            pair.send(whole[:cut], *(a, b, c)[:count])
            if pause:
                received += pair.receive()
            if cut < len(whole):
                pair.send(whole[cut:])
            expected.append((number, [inode(fd) for fd in (a, b, c)[:count]]))
        assert received + pair.receive() == expected


def test_descriptors_of_a_large_message_stay_with_it(pair, files):
    body = bytes(300_000)
    pair.ours.setblocking(False)
    whole = frame(1, WRITE, body)
    sent = socket.send_fds(pair.ours, [whole], [files[0].fileno()])
    found = pair.receive()
    while sent < len(whole):
        with suppress(BlockingIOError):
            sent += pair.ours.send(whole[sent:])
        found += pair.receive()
    pair.send(frame(2, RESET))
    assert found + pair.receive() == [(1, [inode(files[0])]), (2, [])]


def test_as_many_descriptors_as_allowed_arrive(pair, files):
    pair.send(frame(1, SET_IRQS, irqs(0x24, 2, 0, MAX_FDS)), *files[:MAX_FDS])
    assert pair.receive() == [(1, [inode(fd) for fd in files[:MAX_FDS]])]


def test_more_descriptors_than_allowed_end_the_session_and_leak_nothing(pair, files):
    pair.send(frame(1, SET_IRQS, irqs(0x24, 2, 0, 17)), *files[:17])
    with pytest.raises(ProtocolError):
        pair.receive()


def test_descriptors_in_two_pieces_of_one_message_are_counted_together(pair, files):
    whole = frame(1, SET_IRQS, irqs(0x24, 2, 0, 17))
    pair.send(whole[:20], *files[:10])
    assert pair.receive() == []
    pair.send(whole[20:], *files[10:])
    with pytest.raises(ProtocolError):
        pair.receive()


def test_descriptors_dripped_into_a_message_without_end_end_the_session(pair, files):
    before = open_fds()
    pair.send(frame(1, WRITE, bytes(1000))[:16])
    with pytest.raises(ProtocolError):  # noqa: PT012 - which of them is one too many does not matter
        for _ in range(40):
            pair.send(b"x", *files[:8])
            pair.receive()
    assert open_fds() < before + 150


def test_descriptors_of_a_half_message_are_closed_with_the_session(pair, files):
    pair.send(frame(1, DMA_MAP, dma_map(0, 0x1000))[:30], files[0])
    assert pair.receive() == []


def test_received_descriptors_are_not_inherited(pair, files):
    pair.send(frame(1, DMA_MAP, dma_map(0, 0x1000)), files[0])
    pair.transport.receive()
    message = pair.transport.next()
    assert not os.get_inheritable(message.fds[0].fileno())
    message.close()
