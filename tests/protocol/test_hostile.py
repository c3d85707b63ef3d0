"""Thousands of malformed messages, and a server that lies; ``tox -e hostile`` sends a million."""

import random
import socket

import pytest

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.vfio_user import Client
from tests.hostile.files import Files
from tests.hostile.messages import Generator
from tests.hostile.replies import Liar
from tests.hostile.site import site
from tests.support.vfio_user import open_fds

pytestmark = pytest.mark.timeout(120)

SEED = 20
CONVERSATIONS = 150
"""With servers and with clients; about fifty messages each."""


def test_conversation_of_a_seed_is_always_the_same():
    once, again = list(Generator(5).conversation(7)), Generator(5)
    assert list(again.conversation(6)) != once
    assert list(again.conversation(7)) == once
    assert list(Generator(6).conversation(7)) != once


def test_malformed_messages_break_nothing_and_leave_nothing_behind():
    with site(SEED) as place:
        for batch in range(0, CONVERSATIONS, 50):
            place.attack(place.make(range(batch, batch + 50)))
            place.check()
    assert place.messages > 20 * CONVERSATIONS


# A server that lies


def calls(client):
    """What a client may be asked to do: command, what a reply repeats, and how."""
    access = (0).to_bytes(8, "little") + (0).to_bytes(4, "little") + (8).to_bytes(4, "little")
    return [
        (4, b"", client.info),
        (5, b"", lambda: client.region(2)),
        (5, b"", lambda: client.region_mmap(2).close()),
        (7, b"", lambda: client.irq_info(2)),
        (9, access + bytes(8), lambda: client.read_u64(0, 0)),
        (10, access, lambda: client.write_u64(0, 0, 1)),
        (15, bytes(8), lambda: client.region_write_multi([(0, 0, b"x")])),
        (2, b"", lambda: client.map_dma(0, 4096, None)),
        (2, b"", lambda: client.keep_dma(1 << 20, bytearray(4096))),
        (3, bytes(24), lambda: client.unmap_dma(0, 4096)),
        (8, b"", lambda: client.interrupt(2, 0).close()),
        (13, b"", client.reset),
    ]


def lied_to(pick, liar, files):
    """A client's whole life; how many of its calls came back."""
    ours, theirs = socket.socketpair()
    with theirs:
        number, done = 1, 0

        def say(command, echoed=b""):
            data, kinds = liar.reply(number, command, echoed)
            socket.send_fds(theirs, [data], files.numbers(kinds))

        say(1)
        try:
            with Client(ours, timeout=0.01) as client:
                for _ in range(pick.randrange(20)):
                    command, echoed, call = pick.choice(calls(client))
                    number += 1
                    say(command, echoed)
                    try:
                        call()
                    except (RequestError, ValueError):
                        continue
                    done += 1
        except (ProtocolError, ConnectionError, TimeoutError):
            pass
    return done


def test_server_that_lies_gets_typed_errors_and_no_descriptors():
    pick = random.Random(SEED)
    random.seed(SEED)  # which scapy draws from
    liar, files = Liar(pick), Files()
    before, done = open_fds(), 0
    for number in range(10 * CONVERSATIONS):
        done += lied_to(pick, liar, files)
        assert open_fds() == before, f"conversation {number} left a descriptor"
    files.close()
    assert done > 3 * CONVERSATIONS, "the lies were too plain to come far"
