"""A vfio-user server on a Unix socket: one client at a time, the next one any time after."""

import contextlib
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from mdevemu.errors import ConfigError
from mdevemu.fds import Fd, Listener
from mdevemu.trace import Trace
from mdevemu.vfio_user.connection import Connection
from mdevemu.vfio_user.migration import Mover
from mdevemu.vfio_user.session import Function, Session, Windows
from mdevemu.vfio_user.transport import Transport
from mdevemu.vfio_user.watcher import Watcher

__all__ = ["Server", "Watcher"]

_PEER = struct.Struct("=iII")
"""pid, uid, gid.  Source: unix(7), SO_PEERCRED."""


class Server:
    """Listens for the client of one function.

    A second client is accepted and closed at once, so that it does not sit in
    the backlog until it loses patience.  When a client is gone, its windows and
    eventfds are given back, the device keeps its state, and the next may come.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        function: Function,
        windows: Windows,
        loop: Watcher,
        trace: Trace,
        name: str,
        users: Collection[int] | None = None,
    ) -> None:
        """Listen on ``path``, which only this user can connect to.

        ``name`` says in the trace which server it is.  ``users`` are the ids that clients'
        users may have, whoever passed them the socket: ours and root's if not given.

        Raises:
            ConfigError: nobody can listen there; nothing was changed.
        """
        self.name = name
        self._function = function
        self._windows = windows
        self._loop = loop
        self._trace = trace
        self._connection: Connection | None = None
        # It outlives clients: a device that one of them stopped stays so.
        self._mover = Mover(function.migration) if function.migration else None
        self._users = frozenset({os.geteuid(), 0}) if users is None else frozenset(users)
        self._admitted: frozenset[int] = frozenset()
        self._peer = 0  # the client's user
        with contextlib.ExitStack() as undo:
            try:
                # Always ready: how a connection asks for another turn.
                self._again = undo.enter_context(_always_ready())
            except OSError as wrong:
                raise ConfigError(str(path), f"cannot listen: {wrong.strerror}") from None
            self._listener = Listener(Path(path))
            undo.pop_all()
        self._open = True
        loop.watch(self._listener.fileno(), self._accept, last=True)

    @property
    def path(self) -> Path:
        """Where it listens."""
        return self._listener.path

    @property
    def connected(self) -> bool:
        """We have a connection."""
        return self._connection is not None

    @property
    def attached(self) -> bool:
        """A client is there: one that hung up is not, though we may still answer it."""
        return self._connection is not None and not self._connection.hung_up

    def admit(self, users: Collection[int]) -> None:
        """Let these users connect as well; a client who may not be here any more is sent away.

        Raises:
            ConfigError: the socket cannot be opened to them; nothing was changed.
        """
        self._listener.admit(users)
        self._admitted = frozenset(users)
        if not self._may(self._peer):
            self.disconnect("this user may not any more")

    def _may(self, user: int) -> bool:
        return user in self._users or user in self._admitted

    def disconnect(self, reason: str) -> None:
        """Send the client away, if there is one."""
        if self._connection is not None:
            self._connection.close(reason)

    def close(self) -> None:
        """Send the client away, stop listening and remove the socket; again does nothing."""
        if not self._open:
            return
        self._open = False
        self.disconnect("server closed")
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        self._again.close()

    def _accept(self) -> None:
        if self.connected and not self.attached:
            # The next one came before we noticed that the last one left: it waits for that.
            self._loop.forget(self._listener.fileno())
            return
        try:
            client = self._listener.accept()
        except OSError as full:
            self._trace.emit("session.refused", session=self.name, reason=full.strerror)
            return
        if client is None:
            return
        if self._connection is not None:
            client.close()
            self._trace.emit("session.refused", session=self.name, reason="already connected")
            return
        pid, uid, _ = _PEER.unpack(
            client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        if not self._may(uid):
            client.close()
            reason = "this user may not"
            self._trace.emit("session.refused", session=self.name, reason=reason, uid=uid, pid=pid)
            return
        self._peer = uid
        session = Session(self._function, self._windows, self._trace, self.name, self._mover)
        self._connection = Connection(
            Transport(client),
            session,
            self._loop,
            self._again,
            self._trace,
            self.name,
            self._closed,
        )

    def _closed(self) -> None:
        self._connection = None
        if self._open:
            self._loop.watch(self._listener.fileno(), self._accept, last=True)


def _always_ready() -> Fd:
    return Fd(os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
