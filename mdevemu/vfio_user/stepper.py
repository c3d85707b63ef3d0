"""A session over a connected socket, one message at a time, without a loop.

    listener = socket.socket(socket.AF_UNIX)
    ...
    connected, _ = listener.accept()
    stepper = Stepper(connected, function, windows, Trace(time.monotonic_ns), "mine")
    while stepper.step():      # the first one negotiates
        ...
    stepper.close()

``accept`` is the caller's, so is the function: a ``Function`` of one's own keeps its
configuration space in whatever bytes it likes, at an address that does not change, and
its ``quiesce`` may call back whenever it is ready.
"""

import select
import socket
from collections.abc import Callable

from mdevemu.fds import Fd
from mdevemu.trace import Trace
from mdevemu.vfio_user.carrier import Alarm
from mdevemu.vfio_user.device import Function
from mdevemu.vfio_user.pending import Reply
from mdevemu.vfio_user.session import Session, State
from mdevemu.vfio_user.transport import Transport
from mdevemu.vfio_user.windows import Windows


class Never:
    """An alarm that does not ring: who steps knows how long that takes."""

    def cancel(self) -> None:
        """See ``Alarm``."""


class Stepper:
    """Carries messages for a session whenever it is asked to.  Owns the socket."""

    def __init__(
        self, sock: socket.socket, function: Function, windows: Windows, trace: Trace, name: str
    ) -> None:
        """Nothing is read yet.  If ``sock`` does not block, ``step`` does not wait either."""
        self._transport = Transport(sock)
        self._session = Session(function, windows, trace, name)
        self._session.carrier = self
        self._watched: dict[int, Callable[[], None]] = {}

    @property
    def waiting(self) -> bool:
        """The device takes its time over a request; its reply leaves when it calls back."""
        return self._session.state is State.WAITING

    def step(self) -> bool:
        """Carry out one message of the client and send its reply; False once it is over.

        While it is ``waiting`` no request is read, and True returned at once.
        Descriptors that were signalled are served as well.

        Raises:
            BlockingIOError: the socket does not block, and has no whole message.
            OSError, ProtocolError: the connection is broken; close it.
        """
        self._serve_watched()
        if self.waiting:
            return True
        while (message := self._transport.next()) is None:
            if not self._transport.receive():
                return False
        try:
            self._send(self._session.answer(message))
        finally:
            message.close()
        return self._session.state is not State.OVER

    def close(self) -> None:
        """Hang up: windows and eventfds are given back, the device keeps its state."""
        self._session.close()
        self._transport.close()

    def _serve_watched(self) -> None:
        """Call back for every descriptor that can be read now."""
        poll = select.poll()
        for fileno in self._watched:
            poll.register(fileno, select.POLLIN)
        for fileno, _ in poll.poll(0):
            if fileno in self._watched:
                self._watched[fileno]()

    def _send(self, reply: Reply) -> None:
        data, fds = reply
        if data:
            self._transport.send(data, [fd.fileno() for fd in fds])

    # What the session needs of its carrier.

    def send(self, data: bytes) -> None:
        """See ``Carrier``."""
        self._transport.send(data)

    def ready(self) -> None:
        """See ``Carrier``."""
        self._send(self._session.collect())

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """See ``Carrier``; nothing here keeps time."""
        return Never()

    def watch(self, fileno: int, readable: Callable[[], None]) -> None:
        """See ``Carrier``."""
        self._watched[fileno] = readable

    def forget(self, fileno: int) -> None:
        """See ``Carrier``."""
        self._watched.pop(fileno, None)

    def twin(self) -> Fd | None:
        """See ``Carrier``: the client's answers come between its requests."""
        return None
