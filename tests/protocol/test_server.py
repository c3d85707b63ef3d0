"""The socket's life: who may connect, what a hostile or slow client can do, and to whom."""

import gc
import os
import socket
import stat
import struct
import threading
import time
from contextlib import suppress

import pytest

from mdevemu.errors import ConfigError
from mdevemu.loop import Loop
from mdevemu.trace import Trace
from mdevemu.vfio_user import Client, Server
from mdevemu.vfio_user.connection import BACKLOG
from tests.support.limits import no_descriptors
from tests.support.vfio_user import (
    DMA_MAP,
    NO_REPLY,
    OK,
    READ,
    SET_IRQS,
    WRITE,
    WRITE_MULTI,
    Device,
    Raw,
    Space,
    access,
    connect,
    dma_map,
    eventually,
    frame,
    hello,
    irqs,
    memfd,
    open_fds,
)


@pytest.fixture
def raw(host):
    with Raw(host.path) as raw:
        raw.send(hello())
        assert raw.reply()[2] == OK
        yield raw


@pytest.fixture
def make():
    """A server on a loop that nobody turns, for its life as a file."""
    device, loop = Device(), Loop()
    trace = Trace(time.monotonic_ns)

    def make(path, **wanted):
        server = Server(path, device, Space(), loop, trace, "made", **wanted)
        server.accept, server.trace = accept, trace
        return server

    def accept():
        for _ in range(2):  # who is new lets others go first
            loop.turn(1)

    yield make
    device.close()
    loop.close()


# The file


def test_socket_is_for_its_owner_alone(host):
    mode = os.stat(host.path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_client_of_another_user_is_turned_away_and_named(tmp_path, make):
    server = make(tmp_path / "a.sock", users={os.geteuid() + 1})
    with connect(server.path) as stranger:
        server.accept()
        assert stranger.recv(16) == b""
    assert not server.connected
    [event] = server.trace.events
    assert event.name == "session.refused"
    assert (event.facts["uid"], event.facts["pid"]) == (os.geteuid(), os.getpid())
    server.close()


def test_client_of_a_user_who_may_is_served(tmp_path, make):
    server = make(tmp_path / "a.sock", users={os.geteuid()})
    with connect(server.path) as client:
        client.sendall(hello())
        server.accept()
        assert server.connected
    server.close()


def test_client_of_a_user_who_may_not_any_more_is_sent_away(tmp_path, make):
    server = make(tmp_path / "a.sock", users={os.geteuid() + 1})
    server.admit({os.geteuid(), os.geteuid() + 2})
    with connect(server.path) as client:
        client.sendall(hello())
        server.accept()
        server.admit({os.geteuid()})
        assert server.connected
        server.admit({os.geteuid() + 2})
        assert not server.connected
    assert server.trace.events[-1].facts["reason"] == "this user may not any more"
    server.close()


def test_umask_is_as_before(tmp_path, make):
    before = os.umask(0o022)
    try:
        make(tmp_path / "a.sock").close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_close_removes_the_socket_and_a_second_close_does_nothing(tmp_path, make):
    server = make(tmp_path / "a.sock")
    server.close()
    assert os.listdir(tmp_path) == []
    server.close()


def test_stale_socket_of_a_dead_server_is_replaced(tmp_path, make):
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = make(path)
    with connect(path):
        pass
    server.close()


def test_socket_of_a_living_server_is_left_alone(host, make):
    with pytest.raises(ConfigError, match="already"):
        make(host.path)
    with Client(host.path) as client:
        assert client.info().num_regions == 9


@pytest.mark.parametrize("backlog", [0, 1])
def test_socket_of_a_busy_server_is_left_alone(tmp_path, backlog, make):
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        if backlog:
            waiting.connect(str(path))
        with pytest.raises(ConfigError, match="already"):
            make(path)
    assert path.exists()


def test_file_that_is_no_socket_is_left_alone(tmp_path, make):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="no socket"):
        make(path)
    assert path.read_text() == "data"


def test_path_that_does_not_fit_a_socket_address_is_refused(tmp_path, make):
    with pytest.raises(ConfigError, match="107"):
        make(tmp_path / ("x" * 120))


def test_missing_directory_is_refused(tmp_path, make):
    before = open_fds()
    with pytest.raises(ConfigError, match="listen"):
        make(tmp_path / "nowhere" / "a.sock")
    assert open_fds() == before


# One client at a time


def test_second_client_is_turned_away_at_once_and_the_first_stays(host, raw):
    with Raw(host.path) as second:
        assert second.reply() is None
    assert raw.ask(READ, access(0, 0, 4))[2] == OK
    eventually(lambda: "session.refused" in host.names())


def test_client_may_come_back_at_once_again_and_again(host):
    for number in range(100):
        with Raw(host.path) as raw:
            raw.send(hello())
            assert raw.reply()[2] == OK
            raw.send(frame(0, WRITE, access(0, 0, 4, struct.pack("<I", number)), NO_REPLY) * 100)
    eventually(lambda: not host.server.connected)
    assert host.names().count("session.open") == 100
    assert host.names().count("session.close") == 100
    assert "session.refused" not in host.names()
    assert len(host.device.log) == 100 * 101, "what the last client sent was lost"


def test_client_that_hung_up_is_not_there_though_its_messages_wait(tmp_path, make):
    server = make(tmp_path / "a.sock")
    with connect(server.path) as client:
        client.sendall(hello() + frame(0, WRITE, access(0, 0, 4, bytes(4)), NO_REPLY) * 100)
        server.accept()
        assert server.attached
    assert not server.attached, "nobody had to look at the socket for that"
    assert server.connected
    server.close()


def test_close_of_the_server_ends_the_session(host, raw):
    host.halt()
    host.server.close()
    assert raw.reply() is None
    assert not host.path.exists()
    assert ("disconnect",) in host.device.log
    [closed] = [event for event in host.trace.events if event.name == "session.close"]
    assert closed.facts == {"session": "host", "reason": "server closed"}


def test_half_closed_client_gets_the_replies_that_it_asked_for(host, raw):
    for number in range(10):
        raw.send(frame(number, READ, access(0, 0, 4)))
    raw.sock.shutdown(socket.SHUT_WR)
    assert [raw.reply()[0] for _ in range(10)] == list(range(10))
    assert raw.reply() is None


# Garbage


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(16),
        b"\xff" * 64,
        frame(1, READ, access(0, 0, 4), flags=1),
        struct.pack("<HHIII", 1, WRITE, 2 << 20, 0, 0),
    ],
)
def test_garbage_closes_its_session_and_nothing_else(host, raw, data):
    raw.send(data)
    assert raw.reply() is None
    eventually(lambda: not host.server.connected)
    assert host.names()[-2:] == ["session.error", "session.close"]
    with Client(host.path) as client:
        assert client.read_u32(0, 0) == 0


def test_refused_version_is_answered_and_then_closed(host):
    with Raw(host.path) as raw:
        raw.send(hello(json=b"{\0"))
        assert raw.reply()[2:4] == (0x21, 22)
        assert raw.reply() is None


def test_end_inside_a_message_is_an_error_in_the_trace(host, raw):
    raw.send(frame(1, WRITE, access(0, 0, 4, bytes(4)))[:-1])
    raw.close()
    eventually(lambda: not host.server.connected)
    assert host.names()[-2:] == ["session.error", "session.close"]
    assert host.device.log == [("disconnect",)]


def test_too_many_descriptors_close_the_session_and_leak_nothing(host, raw):
    before = open_fds()
    files = [memfd() for _ in range(30)]
    raw.send(frame(1, SET_IRQS, irqs(0x24, 2, 0, 30)), files)
    assert raw.reply() is None
    for fd in files:
        fd.close()
    eventually(lambda: open_fds() == before - 1)


def test_descriptors_with_garbage_leak_nothing(host, raw):
    with memfd() as file:
        before = open_fds()
        raw.send(b"\xff" * 16, [file] * 5)
        assert raw.reply() is None
        eventually(lambda: open_fds() == before - 1)


def test_half_a_message_keeps_nobody_waiting(host, raw):
    raw.send(frame(1, WRITE, access(0, 0, 4, b"late"))[:20])
    time.sleep(0.05)
    assert host.device.log == []
    raw.send(frame(1, WRITE, access(0, 0, 4, b"late"))[20:])
    assert raw.reply()[2] == OK


# A client that does not read


def test_client_that_never_reads_is_not_listened_to_any_more(host, raw):
    request = frame(1, READ, access(4, 0, 1 << 20))
    raw.sock.settimeout(0.3)
    sent = 0
    with suppress(TimeoutError):
        while sent < 64 << 20:
            raw.send(request * 100)
            sent += len(request) * 100
    assert sent < 8 << 20, "the server read on and on"
    served_reads = len(host.device.log)
    assert served_reads < 20, f"{served_reads} MiB wait for a client that reads nothing"
    assert BACKLOG <= 1 << 20


def test_replies_larger_than_the_socket_takes_arrive_whole_and_in_order(host, raw):
    host.device.bytes[4][:] = os.urandom(1 << 20)
    for number in range(6):
        raw.send(frame(number, READ, access(4, 0, 1 << 20)))
        raw.send(frame(100 + number, READ, access(0, 0, 4)))
    time.sleep(0.1)
    for number in range(6):
        got = raw.reply()
        assert got[0] == number
        assert got[4][16:] == host.device.bytes[4]
        assert raw.reply()[0] == 100 + number


def test_queued_descriptors_arrive_with_their_reply(host, raw):
    big = frame(1, READ, access(4, 0, 1 << 20))
    info = frame(2, 5, struct.pack("<IIIIQQ", 32, 0, 2, 0, 0, 0))
    raw.send(big + info)
    time.sleep(0.1)
    assert raw.reply()[0] == 1
    data, fds, _, _ = socket.recv_fds(raw.sock, 48, 4)
    assert struct.unpack_from("<H", data) == (2,)
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(host.device.memory.fileno()).st_ino]
    for fd in fds:
        os.close(fd)


def test_every_reply_of_many_that_wait_has_its_descriptor(host, raw):
    raw.send(frame(2, 5, struct.pack("<IIIIQQ", 32, 0, 2, 0, 0, 0)) * 400)
    time.sleep(0.1)
    for _ in range(400):
        data, fds, _, _ = socket.recv_fds(raw.sock, 48, 4)
        assert (len(data), len(fds)) == (48, 1)
        os.close(fds[0])


def test_client_that_dies_with_replies_waiting_leaks_nothing(host, raw):
    big = frame(1, READ, access(4, 0, 1 << 20))
    info = frame(2, 5, struct.pack("<IIIIQQ", 32, 0, 2, 0, 0, 0))
    raw.send(big + info * 50)
    time.sleep(0.1)
    raw.close()
    eventually(lambda: not host.server.connected)


def test_many_pipelined_requests_from_a_client_that_reads_later_are_all_answered(host, raw):
    count = 5000
    requests = b"".join(frame(n, DMA_MAP, dma_map(0x1000 * n, 0x1000)) for n in range(count))
    raw.send(requests)
    assert [raw.reply()[0] for _ in range(count)] == list(range(count))


# Neighbours


def test_flooding_client_does_not_starve_its_neighbour(tmp_path):
    loop, trace, done = Loop(), Trace(time.monotonic_ns), []
    devices = [Device(), Device()]
    servers = [
        Server(tmp_path / f"{n}.sock", device, Space(), loop, trace, f"{n}")
        for n, device in enumerate(devices)
    ]

    def run():
        while not done:
            loop.turn(0.05)

    def flood():
        posted = frame(1, WRITE, access(0, 0, 4, bytes(4)), NO_REPLY) * 1000
        with suppress(OSError):
            while not done:
                noisy.sock.sendall(posted)

    threads = [threading.Thread(target=run)]
    threads[0].start()
    noisy = Raw(servers[0].path)
    noisy.send(hello())
    noisy.reply()
    threads.append(threading.Thread(target=flood))
    threads[1].start()
    try:
        with Client(servers[1].path) as quiet:
            slowest = 0.0
            for _ in range(50):
                start = time.monotonic()
                quiet.read_u32(0, 0)
                slowest = max(slowest, time.monotonic() - start)
        assert len(devices[0].log) > 100
        assert slowest < 0.5  # three threads of Python share one interpreter here
    finally:
        done.append(True)
        threads[0].join()
        noisy.sock.shutdown(socket.SHUT_RDWR)
        threads[1].join()
        noisy.close()
        for server in servers:
            server.close()
        for device in devices:
            device.close()
        loop.close()


class Hand:
    """A loop that is turned by hand and remembers who wants what."""

    def __init__(self):
        self.wants = {}

    def watch(self, fileno, readable, writable=None, *, last=False):
        self.wants[fileno] = (readable, writable)

    def forget(self, fileno):
        self.wants.pop(fileno, None)


def test_one_wake_up_answers_a_bounded_number_of_messages_and_asks_for_more(tmp_path):
    hand, device = Hand(), Device()
    server = Server(tmp_path / "a.sock", device, Space(), hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()
    with Raw(server.path) as raw:
        accept()
        [client] = set(hand.wants) - {listener}
        raw.send(hello() + frame(1, WRITE, access(0, 0, 4, bytes(4)), NO_REPLY) * 1000)
        hand.wants[client][0]()
        turns, seen = 1, 0
        while again := set(hand.wants) - {listener, client}:
            assert len(device.log) - seen <= 8
            assert hand.wants[client][0] is None, "it reads on before it has answered"
            seen, turns = len(device.log), turns + 1
            hand.wants[again.pop()][0]()
        assert len(device.log) == 1000
        assert turns >= 1000 // 8
    server.close()
    device.close()
    assert hand.wants == {}


def test_one_wake_up_carries_out_few_large_messages(tmp_path):
    hand, device = Hand(), Device()
    server = Server(tmp_path / "a.sock", device, Space(), hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()
    with Raw(server.path) as raw:
        accept()

        def turn():
            ready = [wants[0] for fileno, wants in hand.wants.items() if fileno != listener]
            next(filter(None, ready))()

        raw.send(hello())
        turn()
        large = frame(1, WRITE, access(4, 0, 1 << 20, bytes(1 << 20)), NO_REPLY)
        while large:  # after which one read takes a lot
            large = large[raw.sock.send(large[:65536]) :]
            turn()
        device.log.clear()
        many = struct.pack("<Q", 1000) + access(0, 0, 4, bytes(8)) * 1000
        raw.send(frame(1, WRITE_MULTI, many, NO_REPLY) * 6)
        most, seen = 0, 0
        while len(device.log) < 6000:
            turn()
            most, seen = max(most, len(device.log) - seen), len(device.log)
        assert most <= 3000
    server.close()
    device.close()


def test_device_that_goes_away_inside_a_request_is_no_error(tmp_path):
    hand, device = Hand(), Device()
    server = Server(tmp_path / "a.sock", device, Space(), hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()
    device.reset = server.close
    with Raw(server.path) as raw:
        accept()
        [client] = set(hand.wants) - {listener}
        raw.send(hello())
        hand.wants[client][0]()
        assert raw.reply()[0] == 0
        raw.send(frame(1, 13) + frame(2, READ, access(0, 0, 4)))
        hand.wants[client][0]()
        assert raw.reply() is None
    assert device.log == [("disconnect",)]
    device.close()


def test_slow_request_has_a_turn_to_itself(tmp_path):
    hand, device = Hand(), Device()
    server = Server(tmp_path / "a.sock", device, Space(), hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()

    def turn():
        ready = [wants[0] for fileno, wants in hand.wants.items() if fileno != listener]
        next(filter(None, ready))()
        return len(device.log)

    with Raw(server.path) as raw:
        accept()
        raw.send(hello())
        turn()
        write = frame(1, WRITE, access(0, 0, 4, bytes(4)))
        raw.send(write + frame(2, 13) + write + write)
        assert [turn(), turn(), turn()] == [1, 2, 4]
        assert [raw.reply()[1:3] for _ in range(5)][1:] == [(WRITE, OK), (13, OK)] + [
            (WRITE, OK)
        ] * 2
    server.close()
    device.close()


def test_what_a_client_lent_is_taken_back_in_a_turn_after_the_one_that_sees_it_gone(tmp_path):
    hand, device, space = Hand(), Device(), Space()
    server = Server(tmp_path / "a.sock", device, space, hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()
    with Raw(server.path) as raw:
        accept()
        [client] = set(hand.wants) - {listener}
        raw.send(hello())
        hand.wants[client][0]()
        assert raw.reply()
        with memfd(0x1000) as memory:
            raw.send(frame(1, DMA_MAP, dma_map(0, 0x1000)), [memory])
        hand.wants[client][0]()
        assert raw.reply()[1:3] == (DMA_MAP, OK)
    hand.wants[client][0]()
    assert client not in hand.wants
    assert (server.connected, server.attached, len(space.windows)) == (True, False, 1)
    [again] = set(hand.wants) - {listener}
    hand.wants[again][0]()
    assert (server.connected, len(space.windows), set(hand.wants)) == (False, 0, {listener})
    server.close()
    device.close()


def test_server_that_closes_takes_back_what_a_client_lent_that_just_left(tmp_path):
    hand, device, space = Hand(), Device(), Space()
    server = Server(tmp_path / "a.sock", device, space, hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()
    with Raw(server.path):
        accept()
        [client] = set(hand.wants) - {listener}
    hand.wants[client][0]()
    assert server.connected
    server.close()
    assert (server.connected, hand.wants) == (False, {})
    assert device.log == [("disconnect",)]
    device.close()


def test_session_leaves_nothing_for_pythons_collector(tmp_path):
    hand, device = Hand(), Device()
    server = Server(tmp_path / "a.sock", device, Space(), hand, Trace(time.monotonic_ns), "a")
    [(listener, (accept, _))] = hand.wants.items()

    def turn():
        for fileno, (readable, _) in list(hand.wants.items()):
            if fileno != listener:
                readable()

    def conversation():
        with Raw(server.path) as raw:
            accept()
            for message in (hello(), frame(1, 13), frame(2, 99), frame(3, READ, access(0, 0, 4))):
                raw.send(message)
                turn()
                assert raw.reply()
        while set(hand.wants) != {listener}:
            turn()

    conversation()  # after which all that is made once is there
    gc.collect()
    gc.disable()
    try:
        conversation()
        assert gc.collect() == 0
    finally:
        gc.enable()
    server.close()
    device.close()


def test_client_is_turned_away_when_descriptors_run_out(host):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        with no_descriptors():
            sock.connect(str(host.path))
            assert sock.recv(1) == b""
    eventually(lambda: "session.refused" in host.names())
    with Client(host.path) as client:
        assert client.read_u32(0, 0) == 0
