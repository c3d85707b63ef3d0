"""The blocking client: against our server, and against servers that misbehave."""

import errno
import os
import socket
import struct
import threading
import time

import pytest

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.vfio_user import Client, Irq
from mdevemu.vfio_user.client import Vector
from mdevemu.vfio_user.wire import MapFlags, RegionFlags, SetFlags
from tests.support.vfio_user import (
    GET_REGION_INFO,
    OK,
    READ,
    REFUSED,
    VERSION,
    Raw,
    access,
    eventually,
    frame,
    memfd,
    open_fds,
)


@pytest.fixture
def client(host):
    with Client(host.path) as client:
        yield client


# Against our server


def test_negotiation_tells_what_the_server_can_do(client):
    assert client.minor == 1
    assert client.server.max_msg_fds == 16
    assert client.server.write_multiple


def test_info_and_regions_are_what_the_device_has(client):
    info = client.info()
    assert (info.num_regions, info.num_irqs) == (9, 5)
    regions = client.regions()
    assert [region.size for region in regions] == [4096, 0, 65536, 0, 1 << 20, 0, 4096, 4096, 0]
    assert regions[0].flags == RegionFlags.READ | RegionFlags.WRITE
    assert regions[0].file is None
    assert regions[4].areas == [(0, 8192), (65536, 4096)]
    assert client.irq_info(Irq.MSIX).count == 40


@pytest.mark.parametrize(("bits", "value"), [(8, 0x12), (16, 0x1234), (32, 2**32 - 2), (64, 2**63)])
def test_values_of_every_width_go_there_and_back(client, bits, value):
    getattr(client, f"write_u{bits}")(0, 0x100, value)
    assert getattr(client, f"read_u{bits}")(0, 0x100) == value
    assert client.region_read(0, 0x100, bits // 8) == value.to_bytes(bits // 8, "little")


def test_bytes_of_any_length_go_there_and_back(host, client):
    data = os.urandom(1 << 20)
    client.region_write(4, 0, data)
    assert client.region_read(4, 0, 1 << 20) == data


def test_posted_and_multiple_writes_happen_in_order(client):
    for number in range(500):
        client.write_u32(0, 0, number, posted=True)
    client.region_write_multi([(0, 8, b"one"), (0, 11, b"two"), (0, 0, b"\7")], posted=True)
    assert client.read_u32(0, 0) == 499 & ~0xFF | 7
    client.region_write_multi([(0, 8, b"ONE")])
    assert client.region_read(0, 8, 6) == b"ONEtwo"


def test_refusal_names_the_errno_and_the_session_goes_on(client):
    with pytest.raises(RequestError) as refusal:
        client.write_u32(0, 0xF00, 0)
    assert refusal.value.number == errno.EIO
    with pytest.raises(RequestError):
        client.region_read(0, 4096, 1)
    assert client.read_u8(0, 0) == 0


def test_memory_is_lent_and_taken_back(host, client):
    with memfd() as memory:
        client.map_dma(0x10000, 0x4000, memory, 0x1000)
        client.map_dma(0x20000, 0x1000, memory.fileno(), 0, MapFlags.READ)
        client.map_dma(0x30000, 0x1000, None)
        os.pwrite(memory.fileno(), b"hello", 0x1010)
        assert host.space.read(0x10010, 5) == b"hello"
        assert host.space.windows[0x20000][3:] == (True, False)
        with pytest.raises(RequestError):
            client.map_dma(0x10000, 0x1000, memory)
        client.unmap_dma(0x10000, 0x4000)
        assert set(host.space.windows) == {0x20000, 0x30000}
        client.unmap_all_dma()
        assert host.space.windows == {}
        with pytest.raises(RequestError):
            client.unmap_dma(0x10000, 0x4000)


def test_interrupts_are_counted_until_they_are_disabled(client):
    with client.interrupt(Irq.MSIX, 3) as vector:
        assert vector.wait(0) == 0
        for _ in range(3):
            client.set_irqs(Irq.MSIX, SetFlags.NONE | SetFlags.TRIGGER, 3, 1)
        assert vector.wait(5) == 3
        client.disable_interrupts(Irq.MSIX)
        client.set_irqs(Irq.MSIX, SetFlags.NONE | SetFlags.TRIGGER, 3, 1)
        assert vector.wait(0.01) == 0


def test_more_vectors_than_fit_a_message_are_assigned_in_chunks(host, client):
    vectors = [Vector() for _ in range(40)]
    client.assign_interrupts(Irq.MSIX, 0, vectors)
    assert len(host.device.eventfds) == 40
    client.set_irqs(Irq.MSIX, SetFlags.BOOL | SetFlags.TRIGGER, 0, 40, switches=b"\0\1" * 20)
    assert [vector.wait(0) for vector in vectors] == [0, 1] * 20
    for vector in vectors:
        vector.close()


def test_refused_interrupt_leaks_no_eventfd(client):
    before = open_fds()
    with pytest.raises(RequestError):
        client.interrupt(Irq.MSIX, 40)
    assert open_fds() == before


def test_intx_is_unmasked(host, client):
    client.unmask_intx()
    assert host.device.log[-1] == ("unmask", 0, 0, 1)


def test_reset_reaches_the_device(host, client):
    client.reset()
    assert host.device.log == [("reset",)]


def test_mapped_region_is_the_devices_memory(host, client):
    with client.region_mmap(2) as mapped:
        assert len(mapped) == 65536
        mapped[10:15] = b"there"
        assert os.pread(host.device.memory.fileno(), 5, 4096 + 10) == b"there"


@pytest.mark.parametrize("region", [0, 1, 4])
def test_region_that_is_no_single_piece_of_memory_cannot_be_mapped(client, region):
    with pytest.raises(ValueError, match="cannot be mapped"):
        client.region_mmap(region)


def test_close_gives_everything_back_and_a_second_close_does_nothing(host):
    client = Client(host.path)
    client.regions()
    with memfd() as memory:
        client.map_dma(0, 0x1000, memory)
    client.close()
    client.close()
    eventually(lambda: not host.server.connected)
    assert host.space.windows == {}
    with pytest.raises(ConnectionError):
        client.reset()


def test_second_client_is_told_by_a_connection_error(host, client):
    with pytest.raises(ConnectionError):
        Client(host.path)
    assert client.read_u8(0, 0) == 0


def test_no_server_is_an_oserror_and_leaks_nothing(tmp_path):
    before = open_fds()
    with pytest.raises(OSError, match="No such file"):
        Client(tmp_path / "nobody.sock")
    assert open_fds() == before


# Against servers that misbehave


class Script(Raw):
    """A server that says what a test wants it to say."""

    def __init__(self):
        self.sock, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(5)

    def client(self, timeout=5.0, json=b"{}\0", minor=0):
        """A client that has agreed with us, or whatever that gives."""
        self.send(frame(1, VERSION, struct.pack("<HH", 0, minor) + json, OK))
        return Client(self.theirs, timeout=timeout)


@pytest.fixture
def script():
    before = open_fds()
    script = Script()
    yield script
    script.close()
    script.theirs.close()
    assert open_fds() == before


@pytest.mark.parametrize(
    "reply",
    [
        frame(1, VERSION, struct.pack("<HH", 1, 0), OK),
        frame(1, VERSION, struct.pack("<HH", 0, 2), OK),
        frame(1, VERSION, struct.pack("<HH", 0, 0) + b"{\0", OK),
        frame(1, VERSION, b"", OK),
        frame(1, VERSION, b"", REFUSED),
        frame(2, VERSION, struct.pack("<HH", 0, 0), OK),
        frame(1, READ, struct.pack("<HH", 0, 0), OK),
        b"\xff" * 16,
    ],
)
def test_bad_agreement_is_a_protocol_error(script, reply):
    script.send(reply)
    with pytest.raises(ProtocolError):
        Client(script.theirs)


def test_silent_server_is_a_timeout(script):
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        Client(script.theirs, timeout=0.1)
    assert time.monotonic() - start < 2


def test_dripping_server_is_a_timeout_all_the_same(script):
    client = script.client(timeout=0.2)
    reply = frame(2, READ, access(0, 0, 400, bytes(400)), OK)

    def drip():
        for byte in reply:
            try:
                script.send(bytes([byte]))
            except OSError:
                return
            time.sleep(0.02)

    thread = threading.Thread(target=drip)
    thread.start()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        client.region_read(0, 0, 400)
    assert time.monotonic() - start < 1
    thread.join()


def test_server_that_does_not_read_is_a_timeout(script):
    client = script.client(timeout=0.1)
    writes = [(0, 0, bytes(8))] * 40_000  # more than any socket holds
    with pytest.raises(TimeoutError):
        client.region_write_multi(writes, posted=True)


def test_server_that_dies_is_a_connection_error(script):
    client = script.client()
    script.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionError):
        client.reset()


def test_reply_of_another_length_is_a_protocol_error(script):
    client = script.client()
    script.send(frame(2, READ, access(0, 0, 4, bytes(3)), OK))
    with pytest.raises(ProtocolError):
        client.read_u32(0, 0)
    with pytest.raises(ConnectionError):
        client.reset()


@pytest.mark.parametrize("error", [0, 5000, 2**32 - 1])
def test_error_reply_without_a_known_errno_is_einval(script, error):
    client = script.client()
    script.send(struct.pack("<HHIII", 2, 13, 16, REFUSED, error))
    with pytest.raises(RequestError) as refusal:
        client.reset()
    assert refusal.value.number == errno.EINVAL
    client.close()


def test_commands_of_the_server_are_refused_and_the_reply_still_found(script):
    client = script.client()
    script.reply()
    with memfd() as stray:
        script.send(frame(77, 11, struct.pack("<QQ", 0, 4)), [stray])
    script.send(frame(78, 12, struct.pack("<QQ", 0, 0), 0x10))
    script.send(frame(79, 99))
    script.send(frame(2, 13, b"", OK))
    client.reset()
    assert script.reply()[:2] == (2, 13)
    assert script.reply() == (77, 11, REFUSED, errno.EINVAL, b"")
    assert script.reply() == (79, 99, REFUSED, errno.ENOSYS, b"")
    client.close()
    assert script.reply() is None


def region(argsz, flags, cap_offset=0, caps=b""):
    return struct.pack("<IIIIQQ", argsz, flags, 0, cap_offset, 65536, 0) + caps


@pytest.mark.parametrize(
    "replies",
    [
        [region(32, 3)[:31]],
        [region(2**31, 3)],
        [region(64, 15), region(64, 15, 100, bytes(32))],
        [region(64, 15), region(64, 15, 32, struct.pack("<HHIIIQQ", 1, 1, 0, 2, 0, 0, 0))],
        [region(64, 15), region(64, 15, 32, struct.pack("<HHIIIQQ", 9, 1, 32, 0, 0, 0, 0))],
    ],
)
def test_nonsense_about_a_region_is_a_protocol_error_and_leaks_nothing(script, replies):
    client = script.client()
    with memfd() as stray:
        for number, reply in enumerate(replies, 2):
            script.send(frame(number, GET_REGION_INFO, reply, OK), [stray])
        with pytest.raises(ProtocolError):
            client.region(0)


def test_other_capabilities_of_a_region_are_skipped(script):
    client = script.client()
    caps = struct.pack("<HHIII", 2, 1, 48, 7, 7) + struct.pack(
        "<HHIIIQQ", 1, 1, 0, 1, 0, 4096, 8192
    )
    script.send(frame(2, GET_REGION_INFO, region(80, 15), OK))
    script.send(frame(3, GET_REGION_INFO, region(80, 15, 32, caps), OK))
    assert client.region(0).areas == [(4096, 8192)]
    client.close()
