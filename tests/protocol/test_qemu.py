"""Whole conversations over a real socket, in QEMU 11.1.3's order and with its flags."""

import os
import struct

import pytest

from mdevemu.fds import Fd
from tests.support.vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    GET_INFO,
    GET_IRQ_INFO,
    GET_REGION_INFO,
    NO_REPLY,
    OK,
    READ,
    RESET,
    SET_IRQS,
    VERSION,
    WRITE,
    WRITE_MULTI,
    Raw,
    access,
    dma_map,
    dma_unmap,
    eventually,
    frame,
    hello,
    irqs,
    memfd,
    open_fds,
)

MIB = 1 << 20


class Qemu(Raw):
    """Sends what QEMU sends, and takes replies no larger than QEMU does."""

    def __init__(self, path):
        super().__init__(path)
        self.number = 0
        self.memory = memfd(64 * MIB, "pc.ram")
        self.vectors = []

    def fd(self):
        """An eventfd to give away; ours stays open."""
        self.vectors.append(Fd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)))
        return self.vectors[-1]

    def call(self, command, payload=b"", fds=(), room=None):
        """Send, wait, and hold the server to QEMU's rule about the size of replies."""
        self.number = (self.number + 1) & 0xFFFF
        self.send(frame(self.number, command, payload), fds)
        number, echoed, flags, error, body = self.reply()
        assert (number, echoed) == (self.number, command)
        assert (flags, error) == (OK, 0)
        assert len(body) <= (len(payload) if room is None else room)
        return body

    def pipeline(self, requests):
        """Send without waiting, then only wait for the last."""
        for command, payload, fds in requests:
            self.number += 1
            self.send(frame(self.number, command, payload), fds)
        for _ in requests:
            number, _, flags, _, body = self.reply()
            assert flags == OK
            assert len(body) <= 40
        assert number == self.number

    def read(self, count, region=None, offset=None):
        if region is None:
            return super().read(count)
        body = self.call(READ, access(region, offset, count), room=16 + count)
        assert len(body) == 16 + count
        return body[16:]

    def write(self, region, offset, data):
        self.call(WRITE, access(region, offset, len(data), data))

    def realize(self):
        self.send(hello(0))
        assert self.reply()[:4] == (0, VERSION, OK, 0)
        ram = [self.memory]
        self.pipeline(
            [
                (DMA_MAP, dma_map(0, 0xC0000), ram),
                (DMA_MAP, dma_map(0xC0000, 0x20000, flags=1), []),
                (DMA_MAP, dma_map(0xE0000, 0x20000, flags=1), []),
                (DMA_MAP, dma_map(0x100000, 63 * MIB, 0x100000), ram),
                (DMA_MAP, dma_map(0xFFFC0000, 0x40000, flags=1), []),
            ]
        )
        info = struct.unpack("<IIII", self.call(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0)))
        assert info == (16, 3, 9, 5)
        for index in (0, 1, 2, 3, 4, 5, 7):
            self.region(index)
        self.call(GET_IRQ_INFO, struct.pack("<IIII", 16, 0, 3, 0))
        self.read(0x1000, 7, 0)
        for data in (b"\0\xf8\xff\xff", b"\0\0\0\0"):
            self.read(4, 7, 0x30)
            self.write(7, 0x30, data)
        for offset in (0x10, 0x18, 0x20):
            self.read(4, 7, offset)
        for size in (2, 4, 4):
            self.read(size, 7, 0x50)
        body = self.call(GET_IRQ_INFO, struct.pack("<IIII", 16, 0, 2, 0))
        assert struct.unpack("<IIII", body)[3] == 40
        self.read(1, 7, 0x3D)
        self.call(SET_IRQS, irqs(0x24, 0, 0, 1), [self.fd()])
        self.call(SET_IRQS, irqs(0x24, 3, 0, 1), [self.fd()])

    def region(self, index):
        argsz = 32
        while True:
            ask = struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0)
            body = self.call(GET_REGION_INFO, ask, room=argsz)
            needed = struct.unpack_from("<I", body)[0]
            if needed <= argsz:
                return body
            argsz = needed

    def machine_reset(self):
        self.call(SET_IRQS, irqs(0x21, 0))
        self.read(2, 7, 4)
        self.write(7, 4, b"\0\0")
        self.call(RESET)
        self.read(1, 7, 0x3D)
        self.call(SET_IRQS, irqs(0x24, 0, 0, 1), [self.fd()])
        for offset in (0x10, 0x14, 0x18, 0x1C, 0x20, 0x24):
            self.write(7, offset, bytes(4))

    def enable_msix(self, vectors):
        self.call(SET_IRQS, irqs(0x21, 0))
        self.call(SET_IRQS, irqs(0x24, 2, 0, 1))
        fds = [self.fd() for _ in range(vectors)]
        for start in range(0, vectors, 16):
            chunk = fds[start : start + 16]
            self.call(SET_IRQS, irqs(0x24, 2, start, len(chunk)), chunk)
        return fds

    def close(self):
        super().close()
        for fd in [*self.vectors, self.memory]:
            fd.close()


@pytest.fixture
def qemu(host):
    qemu = Qemu(host.path)
    yield qemu
    qemu.close()


def test_realize_and_machine_reset_succeed(host, qemu):
    qemu.realize()
    qemu.machine_reset()
    assert len(host.space.windows) == 5
    assert ("reset",) in host.device.log
    assert host.server.connected


def test_guest_memory_is_readable_through_its_window(host, qemu):
    qemu.realize()
    os.pwrite(qemu.memory.fileno(), b"guest", 0x200000)
    assert host.space.read(0x200000, 5) == b"guest"


def test_memory_remapped_by_a_running_guest_stays_consistent(host, qemu):
    qemu.realize()
    for _ in range(5):  # SeaBIOS opens and closes the shadow RAM
        qemu.pipeline(
            [
                (DMA_UNMAP, dma_unmap(0, 0xC0000), []),
                (DMA_UNMAP, dma_unmap(0xC0000, 0x20000), []),
                (DMA_MAP, dma_map(0, 0xE0000), [qemu.memory]),
            ]
        )
        qemu.pipeline(
            [
                (DMA_UNMAP, dma_unmap(0, 0xE0000), []),
                (DMA_MAP, dma_map(0, 0xC0000), [qemu.memory]),
                (DMA_MAP, dma_map(0xC0000, 0x20000, flags=1), []),
            ]
        )
    os.pwrite(qemu.memory.fileno(), b"low", 0x1000)
    assert host.space.read(0x1000, 3) == b"low"
    assert len(host.space.windows) == 5


def test_mapped_bars_come_and_go_as_windows_without_a_file(qemu):
    qemu.realize()
    for _ in range(6):  # Linux sizes the BARs with decoding off
        qemu.pipeline([(DMA_MAP, dma_map(0xFE000000, 0x10000), [])])
        qemu.pipeline([(DMA_UNMAP, dma_unmap(0xFE000000, 0x10000), [])])


def test_thousands_of_pipelined_windows_of_one_file_are_all_mapped(host, qemu):
    qemu.realize()
    for start in range(0, 4096, 128):  # a vIOMMU, page by page
        pages = range(start, start + 128)
        qemu.pipeline(
            [
                (DMA_MAP, dma_map(0x1_0000_0000 + page * 4096, 4096, page * 4096), [qemu.memory])
                for page in pages
            ]
        )
    assert len(host.space.windows) == 5 + 4096
    for page in (0, 1, 4095):
        os.pwrite(qemu.memory.fileno(), b"%4d" % page, page * 4096)
        assert host.space.read(0x1_0000_0000 + page * 4096, 4) == b"%4d" % page
    qemu.pipeline(
        [(DMA_UNMAP, dma_unmap(0x1_0000_0000 + page * 4096, 4096), []) for page in range(128)]
    )
    assert len(host.space.windows) == 5 + 4096 - 128


def test_msix_in_chunks_reaches_every_vector(host, qemu):
    qemu.realize()
    fds = qemu.enable_msix(40)
    qemu.call(SET_IRQS, irqs(0x21, 2, 0, 40))
    assert [os.eventfd_read(fd.fileno()) for fd in fds] == [1] * 40
    qemu.call(SET_IRQS, irqs(0x21, 2))
    qemu.call(SET_IRQS, irqs(0x24, 0, 0, 1), [qemu.fd()])
    assert list(host.device.eventfds) == [(3, 0), (0, 0)]


def test_posted_writes_get_no_reply_and_happen_before_the_next_read(host, qemu):
    qemu.realize()
    for number in range(300):
        qemu.send(frame(number, WRITE, access(0, 8, 4, struct.pack("<I", number)), NO_REPLY))
    one = access(0, 16, 8, b"multiple")
    qemu.send(frame(0, WRITE_MULTI, struct.pack("<Q", 200) + one * 200, NO_REPLY))
    assert qemu.read(4, 0, 8) == struct.pack("<I", 299)
    assert qemu.read(8, 0, 16) == b"multiple"
    writes = [entry for entry in host.device.log if entry[:2] == ("write", 0)]
    assert len(writes) == 500


def test_intx_is_unmasked_at_end_of_interrupt(host, qemu):
    qemu.realize()
    qemu.call(SET_IRQS, irqs(0x11, 0, 0, 1))
    assert host.device.log[-1] == ("unmask", 0, 0, 1)


def test_quit_without_goodbye_gives_everything_back(host, qemu):
    eventually(lambda: host.server.connected)
    before = open_fds()
    qemu.realize()
    qemu.enable_msix(4)
    for fd in qemu.vectors:
        fd.close()
    Raw.close(qemu)
    eventually(lambda: not host.server.connected)
    assert host.space.windows == {}
    assert host.device.eventfds == {}
    assert open_fds() == before - 2  # both ends of the connection


def test_unplug_takes_everything_apart_before_it_closes(host, qemu):
    qemu.realize()
    qemu.call(SET_IRQS, irqs(0x24, 3, 0, 1))
    qemu.call(SET_IRQS, irqs(0x21, 0))
    windows = [(iova, window[0]) for iova, window in host.space.windows.items()]
    qemu.pipeline([(DMA_UNMAP, dma_unmap(iova, size), []) for iova, size in windows])
    assert host.space.windows == {}
    assert host.device.eventfds == {}


def test_next_client_finds_the_devices_state_and_no_windows(host, qemu):
    qemu.realize()
    qemu.write(0, 0x40, b"kept")
    Raw.close(qemu)
    eventually(lambda: not host.server.connected)
    with Qemu(host.path) as again:
        again.realize()
        assert again.read(4, 0, 0x40) == b"kept"
        assert len(host.space.windows) == 5
