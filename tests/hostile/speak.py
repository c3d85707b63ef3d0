"""Says a conversation to a server, as fast as it listens."""

import random
import select
import socket
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from tests.hostile.files import Files
from tests.hostile.messages import Hostile

PATIENCE = 10.0
"""Seconds in which a server must do something; the specification's clients give up after 5."""

LOOK = 4
"""Messages between two looks at the neighbours."""

ROOM = 1 << 18


class Stuck(AssertionError):
    """The server neither reads, nor answers, nor hangs up."""


def speak(
    path: Path | str,
    messages: Sequence[Hostile],
    files: Files,
    pick: random.Random,
    look: Callable[[], None],
) -> int:
    """Connect and send; how many messages the server took before it hung up.

    ``look`` is called every now and then, while it is busy with us.

    Most clients read replies, and go once all of them came; some never read, some
    just go, some in the middle of a message.

    Raises:
        Stuck: the server stopped serving.
    """
    reads, waits = pick.random() > 0.05, pick.random() > 0.1
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.setblocking(False)
        try:
            for message in messages:
                if pick.random() < 0.02:
                    files.shrink()
                if not _send(sock, message, files, reads):
                    return sent
                sent += 1
                if sent % LOOK == 0:
                    look()
            if not waits:
                sock.send(messages[-1].data[: pick.randrange(1, 16)] if messages else b"")
            elif reads:
                sock.shutdown(socket.SHUT_WR)
                while _drain(sock):
                    _ready(sock, select.POLLIN)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            pass  # it does not want to hear more
    return sent


def _send(sock: socket.socket, message: Hostile, files: Files, reads: bool) -> bool:
    """Send one message; False if the server listens no more to one who does not read."""
    numbers = files.numbers(message.fds)
    for start, end in pairwise((0, *message.cuts, len(message.data))):
        rest = memoryview(message.data)[start:end]
        while rest:
            try:
                count = socket.send_fds(sock, [rest], numbers) if numbers else sock.send(rest)
            except BlockingIOError:
                if not reads:
                    return False
                _ready(sock, select.POLLIN | select.POLLOUT)
                _drain(sock)
                continue
            rest, numbers = rest[count:], []
    return True


def _drain(sock: socket.socket) -> bool:
    """Read what is there, descriptors dropped; False at the end."""
    try:
        while sock.recv(ROOM):
            pass
    except BlockingIOError:
        return True
    return False


def _ready(sock: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(sock, events)
    if not poll.poll(PATIENCE * 1000):
        raise Stuck(f"nothing happened for {PATIENCE} s at {time.ctime()}")
