"""The cache folder: things that are whole or absent, and made by one process at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images.errors import HostError


def folder() -> Path:
    """Where everything that can be made again is kept.

    Spec: XDG Base Directory Specification 0.8, XDG_CACHE_HOME (a relative path is ignored)
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return base / "mdevemu"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` (a file beside it); wait while another process holds it.

    Raises:
        HostError: the folder cannot be written; nothing is held.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            f"cannot write the cache folder {path.parent}: {error.strerror}",
            "make it writable, or point XDG_CACHE_HOME to a folder that is",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder and all in it, also what a package made read-only; absent is fine."""

    def unlock(_function: object, failed: str, _why: object) -> None:
        os.chmod(os.path.dirname(failed), 0o700)
        if os.path.isdir(failed) and not os.path.islink(failed):
            os.chmod(failed, 0o700)
            shutil.rmtree(failed, onerror=unlock)
        elif os.path.lexists(failed):
            os.unlink(failed)

    if path.exists():
        shutil.rmtree(path, onerror=unlock)
