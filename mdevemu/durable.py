"""Files that are old or new and never half of one, whatever ends us, and whenever.

A file is written beside its place, flushed to the disk, and put in its place by one rename;
then the folder is flushed, so that the name is as durable as the bytes.
"""

import os
from pathlib import Path


class Draft:
    """A file that is being written, and appears when it is whole.

    One writer at a time.  What a killed writer left beside it is overwritten.

    Raises:
        OSError: it cannot be written, also from ``write`` and ``publish``; what was there
            before still is, and nothing is left of the draft.
    """

    def __init__(self, path: Path, mode: int = 0o644, scratch: Path | None = None) -> None:
        """``scratch`` is where it is made, in the same file system; beside its place if None."""
        self._path = path
        self._fresh = scratch or path.with_name(f".{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._handle = os.open(self._fresh, flags, mode)
        self._open = True

    def write(self, data: bytes) -> None:
        """Append."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        except OSError:
            self.discard()
            raise

    def publish(self) -> None:
        """Make it durable, and put it in the place of what was there before."""
        try:
            os.fsync(self._handle)
            os.rename(self._fresh, self._path)
        except OSError:
            self.discard()
            raise
        self._close()
        flush_folder(self._path.parent)

    def discard(self) -> None:
        """Leave nothing of it; again does nothing."""
        if self._open:
            self._close()
            self._fresh.unlink(missing_ok=True)

    def _close(self) -> None:
        self._open = False
        os.close(self._handle)


def write(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Make ``data`` the content of a file, with mode 0644; see ``Draft``.

    Raises:
        OSError: the file is as it was.
    """
    draft = Draft(path, scratch=scratch)
    draft.write(data)
    draft.publish()


def remove(path: Path) -> None:
    """Remove a file.

    Raises:
        OSError: it is not there, or still there.
    """
    os.unlink(path)
    flush_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
