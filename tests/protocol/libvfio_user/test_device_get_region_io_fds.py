"""DEVICE_GET_REGION_IO_FDS, in the specification's layout of an entry."""

import errno
import os
import socket
import struct
from contextlib import closing

import pytest

from mdevemu.vfio_user.device import Doorbell
from tests.support.vfio_user import OK, Device, Host, Raw, eventually, frame, hello, refused, split

GET_REGION_IO_FDS = 6
ENTRY = struct.Struct("<QQIIIIQ")
"""offset, size, fd_index, type, flags, padding, datamatch."""
IOEVENTFD, IOREGIONFD, DATAMATCH = 0, 1, 1
BELLS = [Doorbell(0, 8 * number, 8, number + 1) for number in range(6)]
SHARED = [Doorbell(4, 0x100, 16), Doorbell(4, 0x200, 16)]
EVERYTHING = 16 + len(BELLS) * ENTRY.size


class Belled(Device):
    doorbells = BELLS + SHARED


def request(index=0, argsz=4096, flags=0, count=0):
    return struct.pack("<IIII", argsz, flags, index, count)


def reply(count, index=0, argsz=16):
    return struct.pack("<IIII", argsz, 0, index, count)


@pytest.fixture
def host(tmp_path):
    """One whose region 0 has six doorbells of a value each, and region 4 two of any."""
    with closing(Host(tmp_path / "mdev.sock", Belled())) as host:
        yield host


@pytest.fixture
def raw(host):
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        yield raw


def ask(raw, payload):
    """(payload, descriptors) of the reply."""
    raw.send(frame(1, GET_REGION_IO_FDS, payload))
    data, fds, _, _ = socket.recv_fds(raw.sock, 4096, 16)
    [(_, _, flags, error, found)] = split(data)
    assert (flags, error) == (OK, 0)
    return found, fds


def entries(payload):
    return list(ENTRY.iter_unpack(payload[16:]))


def close(fds):
    for fd in fds:
        os.close(fd)


def test_device_get_region_io_fds_bad_flags(desk):
    assert desk.ask(GET_REGION_IO_FDS, request(flags=1)) == refused(errno.EINVAL)


def test_device_get_region_io_fds_bad_count(desk):
    assert desk.ask(GET_REGION_IO_FDS, request(count=1)) == refused(errno.EINVAL)


def test_device_get_region_io_fds_buffer_too_small(desk):
    """There must be room for a reply without entries."""
    assert desk.ask(GET_REGION_IO_FDS, request(argsz=15)) == refused(errno.EINVAL)


def test_device_get_region_io_fds_no_fds(desk):
    """A region may have none, and a mappable one too."""
    assert desk.ask(GET_REGION_IO_FDS, request(2, argsz=512)) == (OK, 0, reply(0, 2))


def test_device_get_region_io_fds_no_regions_setup(desk):
    assert desk.ask(GET_REGION_IO_FDS, request(3, argsz=512)) == refused(errno.EINVAL)


def test_device_get_region_io_fds_region_no_mmap(desk):
    assert desk.ask(GET_REGION_IO_FDS, request(6, argsz=512)) == (OK, 0, reply(0, 6))


def test_device_get_region_io_fds_region_out_of_range(desk):
    assert desk.ask(GET_REGION_IO_FDS, request(512)) == refused(errno.EINVAL)


def test_device_get_region_io_fds_fds_read_write(host, raw):
    """Each descriptor rings its doorbell, which is a write of the value that it matches."""
    payload, fds = ask(raw, request())
    for offset, size, index, kind, flags, _, value in entries(payload):
        assert (kind, flags) == (IOEVENTFD, DATAMATCH)
        os.eventfd_write(fds[index], 10)
        rung = ("write", 0, offset, value.to_bytes(size, "little"))
        eventually(lambda rung=rung: rung in host.device.log)
    assert len(host.device.log) == len(BELLS)
    close(fds)


def test_device_get_region_io_fds_full(raw):
    """With just enough room everything is there, in the declared order, a descriptor each."""
    payload, fds = ask(raw, request(argsz=EVERYTHING))
    assert payload[:16] == reply(6, argsz=EVERYTHING)
    assert entries(payload) == [
        (bell.offset, bell.size, number, IOEVENTFD, DATAMATCH, 0, bell.data)
        for number, bell in enumerate(BELLS)
    ]
    assert len(fds) == 6
    close(fds)


@pytest.mark.parametrize("argsz", [16, EVERYTHING - 1])
def test_device_get_region_io_fds_fds_read_write_nothing(raw, argsz):
    """Without room the reply says how much is needed, and brings no descriptor."""
    assert ask(raw, request(argsz=argsz)) == (reply(6, argsz=EVERYTHING), [])


def test_device_get_region_io_fds_fds_read_write_dupe_fd(host, raw):
    """Parts of a region may share a descriptor: each access then says which part it is for."""
    payload, [fd] = ask(raw, request(4))
    assert [entry[:4] for entry in entries(payload)] == [
        (bell.offset, bell.size, 0, IOREGIONFD) for bell in SHARED
    ]
    with socket.socket(fileno=fd) as kernel:
        for bell, entry in zip(SHARED, entries(payload), strict=True):
            four_bytes = 2 << 4
            kernel.send(struct.pack("<IIQQQ", 1 | four_bytes, 0, entry[-1], 4, 0xABCD))
            written = ("write", 4, bell.offset + 4, b"\xcd\xab\0\0")
            eventually(lambda written=written: written in host.device.log)
