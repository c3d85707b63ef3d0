"""Eventfds of a client: interrupts that a device fires, and signals that it waits for."""

import asyncio
import math
import os
import select
from typing import Self

from mdevemu.fds import Fd


class Vector:
    """An eventfd, counted: an interrupt vector that the server fires, or what we fire."""

    def __init__(self) -> None:
        self._fd = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def fileno(self) -> int:
        """The eventfd's number, for a selector."""
        return self._fd.fileno()

    def wait(self, timeout: float | None = None) -> int:
        """How often it fired since the last look, waiting up to ``timeout`` seconds for a first.

        None waits for ever; 0 seconds only looks.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        ready = poll.poll(None if timeout is None else math.ceil(timeout * 1000))
        return os.eventfd_read(self._fd.fileno()) if ready else 0

    async def fired(self) -> int:
        """How often it fired since the last look, once it did; for asyncio."""
        loop, number = asyncio.get_running_loop(), self.fileno()
        while not (count := self.wait(0)):
            ready = loop.create_future()
            loop.add_reader(number, ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_reader(number)
        return count

    def fire(self) -> None:
        """Signal it ourselves: what unmasks is signalled by the client."""
        os.eventfd_write(self.fileno(), 1)

    def close(self) -> None:
        """Give the eventfd back; again does nothing."""
        self._fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
