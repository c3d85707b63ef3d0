"""What is behind a range of physical memory: our own RAM, or a file that a VMM lent.

A VMM keeps its file, so it may shrink it under us.  Touching a mapping beyond
the end of its file kills a process (SIGBUS), so only a file that is sealed
against shrinking is mapped; any other is read and written with a check of its
size each time, and what is no longer there is a ``Miss``.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from typing import Protocol

from mdevemu.errors import RequestError
from mdevemu.fds import Fd

_U64 = struct.Struct("<Q")

# Linux, <linux/fcntl.h> and <asm-generic/fcntl.h>; Python 3.11 does not name them all.
F_GET_SEALS = 1034
F_SEAL_SHRINK = 0x2
F_SEAL_WRITE = 0x8
F_SEAL_FUTURE_WRITE = 0x10
O_PATH = 0o10000000
MAP_NORESERVE = 0x4000


class Miss(Exception):
    """Nothing answers at an address: no range, or the file behind it ends earlier."""


class Backing(Protocol):
    """The bytes behind one range; offsets and lengths are bytes.

    Attributes:
        size: bytes behind the range.
    """

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes; Miss if they are not all there."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data``; Miss, with nothing written, if it does not all fit."""

    def read_u64(self, offset: int) -> int:
        """The little-endian eight bytes at ``offset``; Miss if they are not all there."""

    def view(self, offset: int, length: int, *, write: bool) -> memoryview | None:
        """The bytes themselves, to ``write`` or not; None if only read and write reach them."""

    def present(self, offset: int, length: int, *, write: bool) -> bool:
        """An access to all of these bytes would find them."""

    def close(self) -> None:
        """Give back mapping and descriptor."""


class _Mapped:
    """Bytes in our own address space."""

    def __init__(self, memory: mmap.mmap, size: int, *, writable: bool) -> None:
        self.size = size
        self.writable = writable
        self._memory = memory
        self._view: memoryview | None = None

    def read(self, offset: int, length: int) -> bytes:
        end = offset + length
        if end > self.size or offset < 0:
            raise Miss
        return self._memory[offset:end]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        end = offset + len(data)
        if end > self.size or offset < 0 or not self.writable:
            raise Miss
        self._memory[offset:end] = data

    def read_u64(self, offset: int) -> int:
        if offset + 8 > self.size or offset < 0:
            raise Miss
        value: int = _U64.unpack_from(self._memory, offset)[0]
        return value

    def view(self, offset: int, length: int, *, write: bool) -> memoryview | None:
        if offset + length > self.size or offset < 0:
            raise Miss
        if self._view is None:
            self._view = memoryview(self._memory)
        return self._view[offset : offset + length]

    def present(self, offset: int, length: int, *, write: bool) -> bool:
        return offset >= 0 and offset + length <= self.size and (self.writable or not write)

    def close(self) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None
        # While somebody still holds a view, the mapping stays until the last view is gone.
        with contextlib.suppress(BufferError):
            self._memory.close()


class Ram(_Mapped):
    """Anonymous memory of ours, zero at first; pages cost nothing until they are touched."""

    def __init__(self, size: int) -> None:
        """``size`` bytes."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        super().__init__(mmap.mmap(-1, size, flags=flags), size, writable=True)


class MappedFile(_Mapped):
    """A file that cannot shrink, mapped."""

    def __init__(self, file: Fd, size: int, *, writable: bool) -> None:
        """Map the first ``size`` bytes of ``file``, which stays the caller's.

        Raises:
            RequestError: the kernel refuses the mapping.
        """
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            memory = mmap.mmap(file.fileno(), size, flags=mmap.MAP_SHARED, prot=access)
        except (OSError, OverflowError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.ENOMEM
            why = os.strerror(number)
            raise RequestError(number, f"{size} bytes of a file cannot be mapped: {why}") from error
        super().__init__(memory, size, writable=writable)

    def discard(self, offset: int, length: int) -> None:
        """Make bytes zero, for everybody who has or maps the file, and free their pages.

        ``offset`` and ``length`` are whole pages.  It cannot fail for want of anything, not even
        of a descriptor.
        """
        assert 0 <= offset <= offset + length <= self.size
        self._memory.madvise(mmap.MADV_REMOVE, offset, length)


class FileAccess:
    """A file that may shrink, reached with pread and pwrite and never mapped."""

    def __init__(self, file: Fd, size: int, *, writable: bool) -> None:
        """Owns ``file``; ``size`` is how much of it is lent, in bytes."""
        self.size = size
        self.writable = writable
        self._file = file

    def read(self, offset: int, length: int) -> bytes:
        if not 0 <= offset <= offset + length <= self.size:
            raise Miss
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise Miss from error
        if len(data) != length:
            raise Miss
        return data

    def read_u64(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 8), "little")

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        # Writing past the end would make the file grow, which is not ours to do.
        if not self.present(offset, len(data), write=True):
            raise Miss
        try:
            written = os.pwrite(self._file.fileno(), data, offset)
        except OSError as error:
            raise Miss from error
        if written != len(data):
            raise Miss

    def view(self, offset: int, length: int, *, write: bool) -> memoryview | None:
        return None

    def present(self, offset: int, length: int, *, write: bool) -> bool:
        if not 0 <= offset <= offset + length <= self.size or (write and not self.writable):
            return False
        return offset + length <= os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a lent descriptor stands for.

    Attributes:
        device, inode: which file it is.
        writable: it may be written through this descriptor.
        size: of the file now, in bytes.
        fixed: it cannot become smaller.
    """

    device: int
    inode: int
    writable: bool
    size: int
    fixed: bool


def inspect(file: Fd) -> FileFacts:
    """Look at a descriptor that somebody wants to lend.

    Raises:
        RequestError: it is not a file that can be lent (EBADF, EINVAL, EACCES).
    """
    number = file.fileno()
    try:
        facts = os.fstat(number)
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError as error:
        raise RequestError(error.errno or errno.EBADF, "the descriptor is not open") from error
    if flags & O_PATH:
        raise RequestError(errno.EBADF, "an O_PATH descriptor cannot be read")
    if not stat.S_ISREG(facts.st_mode):
        kind = stat.filemode(facts.st_mode)[0]
        raise RequestError(errno.EINVAL, f"a lent file must be a regular file, not {kind!r}")
    access = flags & os.O_ACCMODE
    if access == os.O_WRONLY:
        raise RequestError(errno.EACCES, "the file is open for writing only")
    try:
        seals = fcntl.fcntl(number, F_GET_SEALS)
    except OSError:
        seals = 0  # a file that cannot have seals
    # pwrite ignores its offset on an O_APPEND descriptor (Linux, pwrite(2), BUGS).
    writable = access == os.O_RDWR and not flags & os.O_APPEND
    return FileFacts(
        device=facts.st_dev,
        inode=facts.st_ino,
        writable=writable and not seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE),
        size=facts.st_size,
        fixed=bool(seals & F_SEAL_SHRINK),
    )


def open_backing(file: Fd, facts: FileFacts) -> Backing:
    """Choose how to reach all of a lent file; ``file`` stays the caller's.

    Raises:
        RequestError: the kernel refuses the mapping.
    """
    if facts.fixed:
        return MappedFile(file, facts.size, writable=facts.writable)
    return FileAccess(file.duplicate(), facts.size, writable=facts.writable)
