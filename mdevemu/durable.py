"""Files that are old or new and never half of one, whatever ends us, and whenever.

A file is written beside its place, flushed to the disk, and put in its place by one rename;
then the folder is flushed, so that the name is as durable as the bytes.
"""

import os
from pathlib import Path


def write(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Make ``data`` the content of a file, with mode 0644.

    One writer at a time; ``scratch`` is where the new file is made, in the same file system:
    beside its place if not given.  What a killed writer left there is overwritten.

    Raises:
        OSError: the file is as it was.
    """
    fresh = scratch or path.with_name(f".{path.name}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(fresh, path)
    flush_folder(path.parent)


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
