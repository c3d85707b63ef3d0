"""The agent's end of the line to the host: a virtio-serial port, or any descriptor."""

import os
import stat
from collections import deque
from collections.abc import Iterator

from guest.errors import NotThere
from guest.protocol import Garbage, Lines, Message, encode

_READ = 64 << 10


def find_port(name: str, dev: str = "/dev", sysfs: str = "/sys") -> str:
    """The device file of the virtio-serial port called ``name``.

    udev's link is used if there is one; without udev the kernel's own names
    (``vport0p1``) are looked up in sysfs.

    Raises:
        NotThere: the machine has no such port (yet).
    """
    link = f"{dev}/virtio-ports/{name}"
    if os.path.exists(link):
        return link
    ports = f"{sysfs}/class/virtio-ports"
    known = []
    for entry in sorted(os.listdir(ports)) if os.path.isdir(ports) else []:
        try:
            with open(f"{ports}/{entry}/name") as file:
                found = file.read().strip()
        except OSError:
            continue  # a port without a name, or one that just went away
        if found == name:
            return f"{dev}/{entry}"
        known.append(found)
    raise NotThere(f"no virtio-serial port {name!r} (there is: {', '.join(known) or 'none'})")


class Link:
    """Messages over one descriptor that never blocks.

    A virtio-serial port outlives its host: when the host goes, reads give nothing until
    the next one comes.  A socket or pipe ends for good.

    Attributes:
        connected: a host is there, as far as the last read told.
        ended: no host will ever come again.
    """

    def __init__(self, fileno: int) -> None:
        """Takes over the descriptor ``fileno``, open for reading and writing."""
        os.set_blocking(fileno, False)
        self._fileno = fileno
        self._final = not stat.S_ISCHR(os.fstat(fileno).st_mode)
        self._lines = Lines()
        self._output: deque[bytes] = deque()
        self._torn = False  # the first of _output is the rest of a line
        self.pending = 0  # bytes that wait to be written
        self.connected = True
        self.ended = False

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._fileno

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fileno)

    def receive(self) -> Iterator[Message | Garbage]:
        """Whatever has arrived; updates ``connected`` and ``ended``."""
        try:
            data = os.read(self._fileno, _READ)
        except BlockingIOError:
            self.connected = True
            return
        except ConnectionError:
            data = b""
        if data:
            self.connected = True
            yield from self._lines.feed(data)
        else:
            self.connected = False
            self.ended = self._final
            self._lines.reset()
            self.drop()

    def send(self, message: Message) -> None:
        """Queue a message; ``flush`` writes it.  Without a host it goes nowhere."""
        if self.connected:
            line = encode(message)
            self._output.append(line)
            self.pending += len(line)

    def flush(self) -> bool:
        """Write as much as the port takes; True if nothing is left."""
        while self._output:
            line = self._output.popleft()
            try:
                written = os.write(self._fileno, line)
            except BlockingIOError:
                written = 0
            except ConnectionError:
                self.drop()
                break
            self.pending -= written
            if written < len(line):
                self._output.appendleft(line[written:])
                self._torn = self._torn or written > 0
                return False
            self._torn = False
        return True

    def drop(self) -> None:
        """Forget everything that waits to be written; what comes next starts on a new line."""
        self._output.clear()
        if self._torn:
            self._output.append(b"\n")
            self._torn = False
        self.pending = len(self._output)
