"""The mdev tree as a file system: FUSE's calls, answered from the tree.

One call at a time, and nothing is remembered between two: what is read is what is.
"""

import contextlib
import ctypes.util
import errno
import os
import platform
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hostctl.control import Control
from hostctl.errors import HostError
from hostctl.sysfs.tree import File, Link, Node, Tree
from images.progress import Progress
from images.recipe import of_release
from images.sysroot import LIBRARIES, Sysroot
from mdevemu.errors import ConfigError

DEVICE = Path("/dev/fuse")
HELPER = "fusermount3"
"""Mounts for those who may not."""

LAST_OF_START = 6
"""The highest status of fuse_main that tells of a failure before files are served."""

PAGE = 4096
"""What sysfs calls the size of every file, in bytes."""


def check(device: Path = DEVICE) -> None:
    """See that this user may serve files.

    Raises:
        HostError: the machine has no FUSE, or it is not for this user.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise HostError(f"there is no {device}", "modprobe fuse (as root)") from None
    except PermissionError:
        fix = f"chmod 666 {device} (as root; udev does so on an installed Debian)"
        raise HostError(f"{device} is not for this user", fix) from None
    except OSError as error:
        raise HostError(f"{device}: {error.strerror}", "modprobe fuse (as root)") from None
    if os.geteuid() != 0 and not shutil.which(HELPER):
        fix = "apt-get install fuse3, or run it in a namespace: unshare -Urm"
        raise HostError(f"there is no {HELPER}, which mounts for users who are not root", fix)


def load_binding(progress: Progress) -> ModuleType:
    """The binding to libfuse: the machine's library, or the one of its Debian release, fetched.

    Raises:
        HostError: there is no binding or no library.
    """
    if "FUSE_LIBRARY_PATH" not in os.environ and not ctypes.util.find_library("fuse3"):
        os.environ["FUSE_LIBRARY_PATH"] = str(_fetched(progress))
    try:
        import mfusepy
    except ImportError:
        raise HostError("the Python package mfusepy is missing", "pip install mfusepy") from None
    except OSError as error:
        raise HostError(f"libfuse does not load: {error}", "apt-get install fuse3") from None
    found: ModuleType = mfusepy
    return found


def _fetched(progress: Progress) -> Path:
    """libfuse of this machine's release, from a private root."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    package = "libfuse3-3" if codename == "bookworm" else "libfuse3-4"
    root = Sysroot.ensure(progress, of_release(codename, package))
    for folder in (LIBRARIES, LIBRARIES.removeprefix("usr/")):  # of bookworm, below lib
        for library in sorted((root.path / folder).glob("libfuse3.so.*")):
            return library
    raise HostError(f"{package} has no library", "apt-get install fuse3")


class Files:
    """What FUSE asks of a file system, each method by the name of its call.

    Every error is an OSError with its errno: the emulator's own for what it refuses, EIO when
    it does not answer.
    """

    use_ns = True

    def __init__(self, connect: Callable[[], Control], ready: Callable[[], None]) -> None:
        """``connect`` is called for each call, so that an emulator may come and go."""
        self._connect = connect
        self._ready = ready
        self._since = time.time_ns()
        self._folder = Path.cwd()

    def init(self, path: str) -> None:
        """The tree is mounted."""
        os.chdir(self._folder)  # which libfuse has left, and where paths lead from
        self._ready()

    @contextlib.contextmanager
    def _tree(self) -> Iterator[Tree]:
        try:
            with contextlib.closing(self._connect()) as control:
                yield Tree(control)
        except ConfigError as refused:
            raise OSError(refused.number, str(refused)) from None
        except HostError as gone:
            raise OSError(errno.EIO, str(gone)) from None

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """What stat tells."""
        with self._tree() as tree:
            node = tree.look(path)
        times = dict.fromkeys(("st_atime", "st_ctime", "st_mtime"), self._since)
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        return {"st_mode": _mode(node), "st_size": _size(node), "st_nlink": 1} | owner | times

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names in a folder."""
        with self._tree() as tree:
            node = tree.look(path)
            if isinstance(node, File | Link):
                raise OSError(errno.ENOTDIR, path)
            return [".", "..", *node]

    def readlink(self, path: str) -> str:
        """Where a link goes."""
        with self._tree() as tree:
            node = tree.look(path)
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, path)
        return node.target

    def open(self, path: str, flags: int) -> int:
        """Whether a file can be opened so; root, too, is held to its mode."""
        with self._tree() as tree:
            file = _file(tree, path)
        wanted = flags & os.O_ACCMODE
        if (wanted != os.O_WRONLY and not file.read) or (wanted != os.O_RDONLY and not file.write):
            raise OSError(errno.EACCES, path)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Nothing: shells and others truncate what they are about to write."""
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """What a file holds now."""
        with self._tree() as tree:
            file = _file(tree, path)
            if file.read is None:
                raise OSError(errno.EACCES, path)
            return file.read().encode()[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Do what writing to a file does."""
        if offset or len(data) > PAGE:
            raise OSError(errno.EINVAL, path)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise OSError(errno.EINVAL, path) from None
        with self._tree() as tree:
            file = _file(tree, path)
            if file.write is None:
                raise OSError(errno.EACCES, path)
            file.write(text)
        return len(data)


def serve(
    binding: ModuleType, connect: Callable[[], Control], folder: Path, ready: Callable[[], None]
) -> None:
    """Serve the tree at ``folder`` until somebody unmounts it, or ends us by a signal.

    ``ready`` is called once it is mounted.

    Raises:
        HostError: it cannot be mounted.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # libfuse takes those that nobody has
    live = {"direct_io": True, "attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    files = Files(connect, ready)
    try:
        binding.FUSE(files, str(folder), foreground=True, nothreads=True, fsname="mdevemu", **live)
    except RuntimeError as error:
        if error.args[0] > LAST_OF_START:
            return  # a signal ended it
        fix = "libfuse has said above why; " + (
            f"root without the right to mount needs {HELPER}, too"
            if os.geteuid() == 0
            else "a namespace of your own needs no helper: unshare -Urm"
        )
        raise HostError(f"{folder} cannot be mounted", fix) from None


def _file(tree: Tree, path: str) -> File:
    node = tree.look(path)
    if not isinstance(node, File):
        raise OSError(errno.EISDIR, path)
    return node


def _mode(node: Node) -> int:
    match node:
        case File():
            return stat.S_IFREG | node.mode
        case Link():
            return stat.S_IFLNK | 0o777
        case _:
            return stat.S_IFDIR | 0o755


def _size(node: Node) -> int:
    match node:
        case File():
            return PAGE
        case Link(target):
            return len(target)
        case _:
            return 0
