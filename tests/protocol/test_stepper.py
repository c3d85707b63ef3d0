"""A device of one's own, driven by hand: no loop, no accelerator, no server."""

import errno
import socket
import threading
import time

import pytest

from mdevemu.trace import Trace
from mdevemu.vfio_user import Client, Function, Region, RegionIndex, Stepper
from tests.support.vfio_user import DMA_MAP, OK, RESET, Space, dma_map, frame, hello, irqs, split

CONFIG = RegionIndex.CONFIG


class Mine(Function):
    """A configuration space and one register that counts its reads."""

    interrupts = (1, 0, 0, 0, 0)
    regions = tuple(
        Region({0: 4096, CONFIG: 256}.get(n, 0), n in (0, CONFIG), n in (0, CONFIG))
        for n in range(9)
    )

    def __init__(self):
        self.config = bytearray(b"\x34\x12\x78\x56" + bytes(252))
        self.reads = 0
        self.later = []

    def read(self, region, offset, length):
        if region == CONFIG:
            return bytes(self.config[offset : offset + length])
        self.reads += 1
        return self.reads.to_bytes(length, "little")

    def write(self, region, offset, data):
        if region == CONFIG:
            self.config[offset : offset + len(data)] = data

    def reset(self):
        self.reads = 0

    def quiesce(self, done):
        self.later.append(done)


@pytest.fixture
def ends():
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other.settimeout(5)
    mine = Mine()
    stepper = Stepper(ours, mine, Space(), Trace(time.monotonic_ns), "mine")
    yield stepper, mine, other, ours
    stepper.close()
    other.close()


def replies(sock):
    return [each[:4] for each in split(sock.recv(1 << 16))]


def test_each_step_is_one_message(ends):
    stepper, mine, other, _ = ends
    other.sendall(hello(1) + frame(2, 9, bytes(12) + b"\4\0\0\0") + frame(3, 9, bytes(16)))
    assert stepper.step()
    assert replies(other) == [(1, 1, OK, 0)]
    assert stepper.step()
    assert (replies(other), mine.reads) == ([(2, 9, OK, 0)], 1)
    assert stepper.step()
    assert replies(other) == [(3, 9, OK, 0)]
    other.close()
    assert not stepper.step()


def test_socket_that_does_not_block_says_that_nothing_is_there(ends):
    stepper, _, other, ours = ends
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        stepper.step()
    other.sendall(hello()[:10])
    with pytest.raises(BlockingIOError):
        stepper.step()
    other.sendall(hello()[10:])
    assert stepper.step()


def test_what_a_simple_device_has_not_is_refused(ends):
    stepper, _, other, _ = ends
    other.sendall(hello(1))
    stepper.step()
    for flags in (0x24, 0x0C, 0x14, 0x21, 0x09, 0x11):
        other.sendall(frame(2, 8, irqs(flags, 0, 0, 1)))
        stepper.step()
    other.sendall(frame(3, 8, irqs(0x21, 0)))
    stepper.step()
    errors = [each[3] for each in split(other.recv(4096))]
    assert errors == [0, errno.ENOTSUP, errno.ENOTSUP, 0, *[errno.EINVAL] * 3, 0]


def test_first_message_that_is_refused_ends_it(ends):
    stepper, _, other, _ = ends
    other.sendall(frame(1, RESET))
    assert not stepper.step()
    assert replies(other) == [(1, RESET, 0x21, 22)]


def test_device_takes_its_time_and_nothing_is_read_meanwhile(ends):
    stepper, mine, other, _ = ends
    other.sendall(hello(1) + frame(2, RESET) + frame(3, DMA_MAP, dma_map(0, 4096)))
    assert stepper.step()
    assert stepper.step()
    assert stepper.waiting
    assert stepper.step()
    assert replies(other) == [(1, 1, OK, 0)]
    mine.reads = 5
    mine.later.pop()(None)
    assert not stepper.waiting
    assert (replies(other), mine.reads) == ([(2, RESET, OK, 0)], 0)
    assert stepper.step()
    assert replies(other) == [(3, DMA_MAP, OK, 0)]


def test_client_speaks_with_a_device_driven_by_hand(ends):
    stepper, mine, other, _ = ends

    def serve():
        while stepper.step():
            while mine.later:
                mine.later.pop()(None)

    thread = threading.Thread(target=serve)
    thread.start()
    with Client(other) as client:
        assert client.region_read(CONFIG, 0, 4) == b"\x34\x12\x78\x56"
        assert [client.read_u32(0, 0) for _ in range(3)] == [1, 2, 3]
        client.reset()
        assert client.read_u32(0, 0) == 1
        client.write_u16(CONFIG, 4, 6)
    thread.join()
    assert mine.config[4] == 6
