"""What a descriptor is, in a word that a file can keep, and stand-ins made from such words."""

import contextlib
import os
import socket
import stat

from mdevemu.fds import Fd

EVENTFD, MEMORY, SOCKET, OTHER = "eventfd", "memory", "socket", "other"


class Labels:
    """Words for descriptors: the same file gets the same number."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], int] = {}

    def of(self, fd: Fd) -> str:
        """What one is."""
        number = fd.fileno()
        facts = os.fstat(number)
        if stat.S_ISREG(facts.st_mode):
            known = self._files.setdefault((facts.st_dev, facts.st_ino), len(self._files) + 1)
            return f"{MEMORY}:{known}"
        if stat.S_ISSOCK(facts.st_mode):
            return SOCKET
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventfd]":
                return EVENTFD
        return OTHER


class StandIns:
    """Descriptors of our own in place of recorded ones; memory begins as zeros."""

    def __init__(self) -> None:
        self._files: dict[str, Fd] = {}

    def of(self, label: str, size: int) -> Fd:
        """One like that; memory has at least ``size`` bytes.  It is the caller's.

        Raises:
            OSError: there is none to be had.
        """
        if label == EVENTFD:
            return Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        if label == SOCKET:
            ours, theirs = socket.socketpair()
            ours.close()
            return Fd(theirs.detach())
        if not label.startswith(MEMORY):
            return Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        if label not in self._files:
            self._files[label] = Fd(os.memfd_create(label))
        file = self._files[label]
        if os.fstat(file.fileno()).st_size < size:
            os.ftruncate(file.fileno(), size)
        return file.duplicate()

    def close(self) -> None:
        """Give the memory back."""
        for file in self._files.values():
            file.close()
        self._files.clear()
