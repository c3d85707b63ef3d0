"""Tenants that share an accelerator: each keeps a queue busy, or does one command at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from guest import native
from guest.driver import Device
from guest.queue import Command, Queue
from hostctl.errors import TimedOut
from hostctl.socket_access import SocketAccess
from mdevemu.units import MIB

LENGTHS = {"large": MIB, "tiny": 64}
"""Bytes of each copy of a tenant of a kind."""

_LOG2_ENTRIES = {"large": 6, "tiny": 8}
"""Of rings that last for some milliseconds, so that a tenant that has to wait for its core, or
for its neighbours to be fed, still wants everything."""
_REFILL = 16  # descriptors: a full ring is not looked at for each
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tenant shall be.

    Attributes:
        kind: a key of ``LENGTHS``.
        weight: its share against the others.
    """

    kind: str
    weight: int

    @property
    def name(self) -> str:
        """As it is written."""
        return f"{self.kind}:{self.weight}"


class Tenant:
    """The driver of one mdev.

    Attributes:
        mdev: the mdev's name.
    """

    def __init__(self, wanted: Wanted, mdev: str, socket: str) -> None:
        """Take the device behind ``socket``.

        Raises:
            OSError, MdevError, AgentError: it cannot be driven.
        """
        self.wanted = wanted
        self.mdev = mdev
        self._access = SocketAccess(socket)
        device = Device(self._access)
        self._queue = Queue(device, 0, log2_entries=_LOG2_ENTRIES[wanted.kind], event_index=True)
        length = LENGTHS[wanted.kind]
        source, target = self._access.allocate(length), self._access.allocate(length)
        operation = native.Operation.COPY
        self._command = Command(operation, length, source.iova, target.iova)

    def feed(self) -> None:
        """Keep the ring full."""
        queue = self._queue
        queue.poll()
        room = queue.entries - queue.outstanding
        if room >= _REFILL:
            for _ in range(room):
                queue.put(self._command)
            queue.kick()

    def once(self) -> int:
        """One command on an idle queue: nanoseconds from its submission to its completion."""
        begin = time.perf_counter_ns()
        self._queue.submit(self._command)
        self.drain()
        return time.perf_counter_ns() - begin

    def drain(self) -> None:
        """Wait until nothing is outstanding.

        Raises:
            TimedOut: it takes a minute and more.
        """
        end = time.monotonic() + _SECONDS
        while self._queue.outstanding:
            if not self._queue.poll() and time.monotonic() > end:
                raise TimedOut(f"commands of {self.wanted.name}", _SECONDS)

    def close(self) -> None:
        """Let the device go."""
        self._access.close()


def feed_for(tenants: Sequence[Tenant], seconds: float) -> None:
    """Keep every tenant's ring full for a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for tenant in tenants:
            tenant.feed()
