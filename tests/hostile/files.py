"""Descriptors that a client may lend, also those that nobody should."""

import fcntl
import os
import select
import socket
import tempfile

from mdevemu.fds import Fd, close_all

SIZE = 32 << 12
"""Bytes of what can be mapped."""

SHRINK = "shrinks"
"""Memory that loses its pages now and then."""

KINDS = (
    *("memory", SHRINK, "sealed", "empty", "read-only", "file"),
    *("eventfd", "full", "directory", "null", "socket", "pipe", "epoll", "path"),
)


class Files:
    """One of each kind, to be sent as often as one likes."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        reads, writes = os.pipe()
        self._rest = [Fd(ours.detach()), Fd(reads)]
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(SIZE)
            regular = Fd(os.dup(file.fileno()))
            read_only = Fd(os.open(file.name, os.O_RDONLY))
        sealed = _memory(SIZE)
        fcntl.fcntl(sealed.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
        self._made = {
            "memory": _memory(SIZE),
            SHRINK: _memory(SIZE),
            "sealed": sealed,
            "empty": _memory(0),
            "read-only": read_only,
            "file": regular,
            "eventfd": Fd(os.eventfd(0, os.EFD_NONBLOCK)),
            "full": Fd(os.eventfd(0, 0)),
            "directory": Fd(os.open("/", os.O_RDONLY | os.O_DIRECTORY)),
            "null": Fd(os.open(os.devnull, os.O_RDWR)),
            "socket": Fd(theirs.detach()),
            "pipe": Fd(writes),
            "epoll": Fd(_epoll()),
            "path": Fd(os.open("/", os.O_PATH)),
        }
        os.eventfd_write(self._made["full"].fileno(), (1 << 64) - 2)
        assert set(self._made) == set(KINDS)

    def numbers(self, kinds: tuple[str, ...]) -> list[int]:
        """The descriptors of these kinds."""
        return [self._made[kind].fileno() for kind in kinds]

    def shrink(self) -> None:
        """Take the pages of the memory that shrinks away, or give it new ones."""
        number = self._made[SHRINK].fileno()
        os.ftruncate(number, 0 if os.fstat(number).st_size else SIZE)

    def close(self) -> None:
        """Close all of them."""
        close_all([*self._made.values(), *self._rest])


def _memory(size: int) -> Fd:
    made = Fd(os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.ftruncate(made.fileno(), size)
    return made


def _epoll() -> int:
    """An epoll descriptor that outlives its Python object."""
    poll = select.epoll()
    number = os.dup(poll.fileno())
    poll.close()
    return number
