"""What is behind a range: memory of ours, and files that VMMs own."""

import fcntl
import os
import socket
import stat

import pytest

from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.memory import Backing, FileAccess, MappedFile, Miss, Ram, inspect, open_backing
from tests.support.host import F_ADD_SEALS, lent


def backing_of(file: Fd) -> Backing:
    return open_backing(file, inspect(file))


def test_ram_is_zero_and_keeps_what_is_written():
    ram = Ram(8192)
    assert ram.read(0, 8192) == bytes(8192)
    ram.write(4090, b"across a page")
    assert ram.read(4090, 13) == b"across a page"
    ram.close()


def test_ram_u64_is_little_endian():
    ram = Ram(4096)
    ram.write(8, bytes(range(8)))
    assert ram.read_u64(8) == 0x0706050403020100
    ram.close()


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(("offset", "length"), [(4090, 8), (4096, 1), (-1, 1), (0, 4097)])
def test_access_past_the_end_misses(sealed, offset, length):
    backing = backing_of(lent(4096, sealed=sealed))
    with pytest.raises(Miss):
        backing.read(offset, length)
    with pytest.raises(Miss):
        backing.write(offset, bytes(length))
    assert not backing.present(offset, length, write=False)
    backing.close()


def test_sealed_file_is_mapped():
    file = lent(8192)
    backing = backing_of(file)
    assert isinstance(backing, MappedFile)
    view = backing.view(4096, 4, write=False)
    assert view is not None
    view[:] = b"seen"
    assert os.pread(file.fileno(), 4, 4096) == b"seen"
    view.release()
    backing.close()


def test_unsealed_file_is_never_mapped():
    backing = backing_of(lent(8192, sealed=False))
    assert isinstance(backing, FileAccess)
    assert backing.view(0, 16, write=False) is None
    backing.write(100, b"bytes")
    assert backing.read(100, 5) == b"bytes"
    backing.close()


def test_file_that_shrinks_misses_and_does_not_grow_again():
    file = lent(8192, sealed=False)
    backing = backing_of(file)
    backing.write(4096, b"there")
    os.ftruncate(file.fileno(), 4096)
    assert not backing.present(4096, 5, write=False)
    with pytest.raises(Miss):
        backing.read(4096, 5)
    with pytest.raises(Miss):
        backing.read(4094, 4)
    with pytest.raises(Miss):
        backing.write(4094, b"four")
    assert os.fstat(file.fileno()).st_size == 4096
    assert backing.read(4092, 4) == bytes(4)
    backing.close()


def test_file_may_shrink_only_without_the_seal():
    file = lent(8192)
    with pytest.raises(PermissionError):
        os.ftruncate(file.fileno(), 4096)
    assert inspect(file).fixed


def test_closing_keeps_a_view_that_is_still_held():
    backing = backing_of(lent(4096))
    view = backing.view(0, 4, write=False)
    assert view is not None
    backing.close()
    view[:] = b"held"
    assert bytes(view) == b"held"


def test_descriptor_stays_the_callers():
    file = lent(4096)
    backing_of(file).close()
    assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def test_one_file_through_two_descriptors_is_one_file():
    file = lent(4096)
    one, other = inspect(file), inspect(file.duplicate())
    assert (one.device, one.inode) == (other.device, other.inode)
    different = inspect(lent(4096))
    assert (one.device, one.inode) != (different.device, different.inode)


def refused(file: Fd) -> str:
    with pytest.raises(RequestError) as caught:
        inspect(file)
    return {9: "EBADF", 13: "EACCES", 22: "EINVAL"}[caught.value.number]


def test_wrong_kinds_of_file_are_refused(tmp_path):
    assert refused(Fd(os.open(tmp_path, os.O_RDONLY))) == "EINVAL"
    reading, writing = os.pipe()
    assert refused(Fd(reading)) == "EINVAL"
    assert refused(Fd(writing)) == "EINVAL"
    near, far = socket.socketpair()
    assert refused(Fd(near.detach())) == "EINVAL"
    far.close()
    assert refused(Fd(os.open("/dev/zero", os.O_RDWR))) == "EINVAL"
    plain = tmp_path / "plain"
    plain.write_bytes(bytes(4096))
    assert refused(Fd(os.open(plain, os.O_WRONLY))) == "EACCES"
    assert refused(Fd(os.open(plain, os.O_PATH))) == "EBADF"
    gone = os.open(plain, os.O_RDONLY)
    os.close(gone)
    assert refused(Fd(gone)) == "EBADF"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_APPEND])
def test_file_that_cannot_be_written_anywhere_is_not_writable(tmp_path, flags):
    plain = tmp_path / "plain"
    plain.write_bytes(bytes(4096))
    file = Fd(os.open(plain, flags))
    assert not inspect(file).writable
    backing = backing_of(file)
    assert backing.read(0, 4) == bytes(4)
    assert not backing.present(0, 4, write=True)
    with pytest.raises(Miss):
        backing.write(0, b"four")


@pytest.mark.parametrize("seal", [0x8, 0x10])
def test_file_sealed_against_writing_is_mapped_for_reading(seal):
    file = lent(4096)
    fcntl.fcntl(file.fileno(), F_ADD_SEALS, seal)
    assert not inspect(file).writable
    backing = backing_of(file)
    assert isinstance(backing, MappedFile)
    with pytest.raises(Miss):
        backing.write(0, b"no")
    view = backing.view(0, 4, write=False)
    assert view is not None
    assert view.readonly


def test_file_too_large_to_map_is_refused():
    file = lent(1 << 62)
    with pytest.raises(RequestError):
        backing_of(file)
