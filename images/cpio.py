"""An initramfs as bytes: the ``newc`` form of cpio, the same bytes for the same contents.

Spec: Linux, Documentation/driver-api/early-userspace/buffer-format.rst
"""

import stat
from dataclasses import dataclass
from typing import IO

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
ALIGNMENT = 4
"""Bytes to which every header with its name, and every content, is padded."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive.

    Attributes:
        mode: type and permission bits, as in ``st_mode``.
        content: a file's bytes or a link's target, as bytes.
        device: (major, minor) of a device node.
    """

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(content: bytes, mode: int = 0o644) -> Entry:
    """A regular file with permission bits ``mode``."""
    return Entry(stat.S_IFREG | mode, content)


def folder(mode: int = 0o755) -> Entry:
    """A folder with permission bits ``mode``."""
    return Entry(stat.S_IFDIR | mode)


def link(target: str) -> Entry:
    """A symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character(major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node with permission bits ``mode``."""
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


class Tree:
    """A file system to be: paths without a leading slash, each with one entry.

    The folders above a path exist as soon as the path does.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def add(self, path: str, entry: Entry) -> None:
        """Put ``entry`` at ``path``; the last one put there wins."""
        path = path.strip("/")
        assert path, "the root of the file system is not an entry"
        above = path
        while (above := above.rpartition("/")[0]) and above not in self.entries:
            self.entries[above] = folder()
        self.entries[path] = entry

    def write(self, output: IO[bytes]) -> None:
        """Write the archive: sorted by path, so that a folder comes before what is in it."""
        for number, (path, entry) in enumerate(sorted(self.entries.items()), 1):
            _record(output, number, path, entry)
        _record(output, 0, TRAILER, Entry(0))


def _record(output: IO[bytes], inode: int, path: str, entry: Entry) -> None:
    """Append one entry; times and owners are zero."""
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (
        *(inode, entry.mode, 0, 0, links, 0, len(entry.content)),  # uid 0, gid 0, mtime 0
        *(0, 0, major, minor, len(name), 0),  # device of the archive 0:0, no checksum
    )
    header = MAGIC + b"".join(b"%08x" % field for field in fields)
    output.write(_padded(header + name))
    output.write(_padded(entry.content))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
