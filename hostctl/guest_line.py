"""The line to the agent in a guest: QEMU's socket, with commands under way and events."""

import itertools
import secrets
import select
import socket
import time
from collections.abc import Callable

from guest.protocol import LINE_LIMIT, Garbage, Lines, Message, command, encode
from hostctl.errors import TimedOut
from mdevemu.errors import MdevError

_READ = 256 << 10
_PAUSE = 0.05  # seconds between two tries to connect

Progress = Callable[[Message], None]


class AgentRefused(MdevError):
    """The agent does not do what it was asked for; it is well and the next command may work.

    Attributes:
        kind: the error's class: ``NotFound``, ``Busy``, ``DeviceTimeout``, ...
        text: what is wrong.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class AgentGone(MdevError):
    """The line to the agent is cut: QEMU ended, or somebody else holds the socket."""


class Pending:
    """A command that the agent has not answered yet."""

    def __init__(self, line: "Line", name: str, number: int, progress: Progress | None) -> None:
        self._line = line
        self.name = name
        self.number = number
        self.progress = progress
        self.answer: Message | None = None

    def tell(self, data: Message) -> None:
        """It said how far it is."""
        if self.progress is not None:
            self.progress({key: value for key, value in data.items() if key != "id"})

    @property
    def done(self) -> bool:
        """The answer is there."""
        return self.answer is not None

    def result(self, timeout: float) -> object:
        """The answer.

        Raises:
            AgentRefused: it is a refusal.
            TimedOut: it does not come within ``timeout`` seconds; ask again later if you like.
            AgentGone: it never comes.
        """
        self._line.wait(lambda: self.done, timeout, f"{self.name} in the guest")
        assert self.answer is not None
        error = self.answer.get("error")
        if isinstance(error, dict):
            raise AgentRefused(str(error.get("class")), str(error.get("desc")))
        return self.answer.get("return")


class Line:
    """A connection to the agent in one guest.

    Attributes:
        listener: told of every event that is no progress: its name and its facts.
    """

    def __init__(self, path: str, timeout: float, listener: Callable[[str, Message], None]) -> None:
        """Connect to QEMU's socket at ``path``, which may not be there yet.

        Raises:
            TimedOut: nobody listens within ``timeout`` seconds.
        """
        self._path = path
        self._socket = _connect(path, time.monotonic() + timeout, timeout)
        self._lines = Lines(2 * LINE_LIMIT)
        self._numbers = itertools.count(secrets.randbelow(1 << 30))
        self._pending: dict[int, Pending] = {}
        self.listener = listener

    def close(self) -> None:
        """Hang up.  Again does nothing."""
        self._socket.close()

    def end_line(self) -> None:
        """End what an earlier host may have left half-sent."""
        self._send(b"\n")

    def start(self, name: str, arguments: Message, progress: Progress | None = None) -> Pending:
        """Send a command and do not wait; ``progress`` gets what it says on the way."""
        pending = Pending(self, name, next(self._numbers), progress)
        self._pending[pending.number] = pending
        self._send(encode(command(name, arguments, pending.number)))
        return pending

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise AgentGone(f"{self._path}: {error}") from None

    def wait(self, holds: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Take messages until ``holds`` does.

        Raises:
            TimedOut: naming ``what`` is waited for.
            AgentGone: the line is cut.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not holds():
            if end is not None and time.monotonic() > end:
                raise TimedOut(what, timeout or 0)
            self.look(None, end)

    def look(self, source: int | None, end: float | None, *, now: bool = False) -> bool:
        """Wait for messages and take them; True if ``source`` has something (or ``now``)."""
        left = None if end is None else max(0.0, end - time.monotonic())
        watched: list[int] = [self._socket.fileno()]
        if source is not None:
            watched.append(source)
        ready, _, _ = select.select(watched, [], [], 0 if now else left)
        if watched[0] in ready:
            self._take()
        return now or source in ready

    def _take(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except OSError as error:
            raise AgentGone(f"{self._path}: {error}") from None
        if not data:
            raise AgentGone(f"{self._path}: QEMU hung up")
        for message in self._lines.feed(data):
            if not isinstance(message, Garbage):  # left over from an earlier host
                self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        name, data = message.get("event"), message.get("data")
        if not isinstance(name, str):
            number = message.get("id")
            pending = self._pending.pop(number, None) if isinstance(number, int) else None
            if pending is not None:
                pending.answer = message
        elif isinstance(data, dict):
            number = data.get("id")
            if name != "progress":
                self.listener(name, data)
            elif isinstance(number, int) and number in self._pending:
                self._pending[number].tell(data)


def _connect(path: str, end: float, timeout: float) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            line.connect(path)
            return line
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                line.close()
                raise TimedOut(f"connection to {path}", timeout) from None
            time.sleep(_PAUSE)
