"""File descriptors that somebody owns, and sockets that only their owner may use by default."""

import contextlib
import os
import socket
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Self

from mdevemu import acl
from mdevemu.errors import ConfigError


class Fd:
    """A descriptor that is closed exactly once, by its owner.

    Whoever is handed an ``Fd`` owns it and closes it; ``with`` does that at the
    end of a block.  Closing again does nothing.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number; an error once it is closed."""
        assert self._number >= 0, "use of a closed descriptor"
        return self._number

    def close(self) -> None:
        """Give the descriptor back to the kernel."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def release(self) -> int:
        """Hand the descriptor over; it is not ours to close any more."""
        number, self._number = self.fileno(), -1
        return number

    def duplicate(self) -> "Fd":
        """Another descriptor for the same open file."""
        return Fd(os.dup(self.fileno()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fd({self._number})"


def close_all(fds: Iterable[Fd | None]) -> None:
    """Close each descriptor; None stands for a place without one."""
    for fd in fds:
        if fd is not None:
            fd.close()


def is_eventfd(fd: Fd) -> bool:
    """Whether a descriptor is an eventfd, as far as this machine can tell; True if it cannot."""
    try:
        return os.readlink(f"/proc/self/fd/{fd.fileno()}") == "anon_inode:[eventfd]"
    except OSError:
        return True


def drain_eventfd(fd: Fd) -> int:
    """Take an eventfd's count, 0 if there is none, without ever waiting.

    Another process may hold it too, take the count first, and make its reads wait.
    """
    count = bytearray(8)
    try:
        os.preadv(fd.fileno(), [count], -1, os.RWF_NOWAIT)
    except OSError:
        return 0
    return int.from_bytes(count, "little")


MAX_SOCKET_PATH = 107
"""Most bytes of a Unix socket's path.  Spec: unix(7), sun_path."""

BACKLOG = 8
"""Connections that may wait for ``accept``; each is taken or refused at once."""


def listen_privately(path: Path) -> socket.socket:
    """A listening, non-blocking Unix socket with mode 0600; a dead socket in its place is removed.

    Raises:
        ConfigError: the path is too long, taken, or in no folder of ours; nothing was changed.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(str(path), f"a socket's path has at most {MAX_SOCKET_PATH} bytes")
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as wrong:
        raise _cannot_listen(path, wrong) from None
    try:
        _remove_stale(path)
        # The file gets its mode when it appears: there is no moment for a chmod to miss.
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as wrong:
        listener.close()
        raise _cannot_listen(path, wrong) from None
    except ConfigError:
        listener.close()
        raise
    return listener


def _cannot_listen(path: Path, wrong: OSError) -> ConfigError:
    return ConfigError(str(path), f"cannot listen: {wrong.strerror}")


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that is no more.

    Raises:
        ConfigError: something else is there, or somebody listens.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ConfigError(str(path), "exists, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # somebody listens, and has a full backlog
            pass
    raise ConfigError(str(path), "somebody listens there already")


class Listener:
    """A private listening socket whose clients never wait: each is taken, or turned away."""

    def __init__(self, path: Path) -> None:
        """Listen on ``path``, which only this user can connect to.

        Raises:
            ConfigError: as ``listen_privately``, or no descriptor is left; nothing was changed.
        """
        self.path = path
        try:
            # Given up for a moment when descriptors run out, to turn a client away.
            self._reserve = _reserve()
        except OSError as wrong:
            raise _cannot_listen(path, wrong) from None
        try:
            self._socket = listen_privately(path)
        except ConfigError:
            self._reserve.close()
            raise

    def fileno(self) -> int:
        """The listening socket's descriptor."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """A client's socket, non-blocking; None if the client went away again.

        Raises:
            OSError: there is no descriptor for it; it was turned away.
        """
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError:
            self._turn_away()
            raise
        client.setblocking(False)
        return client

    def admit(self, users: Collection[int]) -> None:
        """Let these users connect, too, where its folder lets them through; nobody else.

        Raises:
            ConfigError: the file system knows no users to admit; nothing was changed.
        """
        try:
            acl.admit(self.path, users, acl.READ | acl.WRITE)
        except OSError as wrong:
            raise ConfigError("users", f"{self.path}: {wrong.strerror}") from None

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._socket.close()
        self._reserve.close()
        self.path.unlink(missing_ok=True)

    def _turn_away(self) -> None:
        """Take the next client by way of the reserve and close it: left waiting, it wakes us on."""
        self._reserve.close()
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
        with contextlib.suppress(OSError):  # another process may have been quicker
            self._reserve = _reserve()


def _reserve() -> Fd:
    return Fd(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
