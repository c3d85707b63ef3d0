"""The interrupts of a function, by VFIO index: eventfds that a VMM gave us.

The VMM owns these settings: they outlive a reset of the function, and end when
it takes them back or goes away.  Nothing here ever waits.

Spec: vfio-user, VFIO_USER_DEVICE_SET_IRQS
"""

import errno
import os
import select
from collections.abc import Sequence

from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all, is_eventfd

ONE = (1).to_bytes(8, "little")


class Interrupts:
    """The vectors of one VFIO interrupt index.

    Attributes:
        count: how many vectors there are.
        assigned: how many of them have an eventfd.
    """

    def __init__(self, name: str, count: int) -> None:
        """``name`` is what messages call it."""
        self.name = name
        self.count = count
        self.assigned = 0
        self._eventfds: list[Fd | None] = [None] * count

    def assign(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Give vectors from ``start`` on their eventfds; None takes one away.

        Raises:
            RequestError: no such vectors, or not an eventfd; nothing has changed,
                and the given descriptors are closed.
        """
        self._accept(start, eventfds)
        end = start + len(eventfds)
        close_all(self._eventfds[start:end])
        self._eventfds[start:end] = eventfds
        self._count()

    def assign_masks(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Give vectors from ``start`` on eventfds that say when they become masked.

        Raises:
            RequestError: no such vectors, these cannot be masked, or not an eventfd;
                nothing has changed, and the given descriptors are closed.
        """
        close_all(eventfds)
        self.check(start, len(eventfds))
        raise RequestError(errno.EINVAL, f"{self.name} does not tell when it is masked")

    def _accept(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """See that these are eventfds for vectors that exist; if not, close them.

        Raises:
            RequestError: they are not.
        """
        try:
            self.check(start, len(eventfds))
            for fd in eventfds:
                if fd is not None and not is_eventfd(fd):
                    raise RequestError(errno.EINVAL, "interrupts need eventfds")
        except RequestError:
            close_all(eventfds)
            raise

    def disable(self) -> None:
        """Forget every eventfd."""
        close_all(self._eventfds)
        self._eventfds = [None] * self.count
        self._count()

    def trigger(self, start: int, count: int) -> None:
        """Signal vectors because the VMM says so.

        Raises:
            RequestError: no such vectors; none was signalled.
        """
        self.check(start, count)
        for vector in range(start, start + count):
            self.signal(vector)

    def mask(self, start: int, count: int) -> None:
        """Hold vectors back until they are unmasked.

        Raises:
            RequestError: no such vectors, or these cannot be masked.
        """
        self.check(start, count)
        raise RequestError(errno.EINVAL, f"{self.name} cannot be masked")

    def unmask(self, start: int, count: int) -> None:
        """Let vectors through again.

        Raises:
            RequestError: no such vectors, or these cannot be masked.
        """
        self.mask(start, count)

    def check(self, start: int, count: int) -> None:
        """See that the vectors exist.

        Raises:
            RequestError: one of them does not.
        """
        if start < 0 or count < 0 or start + count > self.count:
            raise RequestError(
                errno.EINVAL, f"{self.name} has {self.count} vectors, not {start}+{count}"
            )

    def has(self, vector: int) -> bool:
        """There is an eventfd for this vector."""
        return self._eventfds[vector] is not None

    def signal(self, vector: int) -> None:
        """Add one to a vector's eventfd, if it has one."""
        fd = self._eventfds[vector]
        if fd is not None:
            signal(fd)

    def _count(self) -> None:
        self.assigned = sum(fd is not None for fd in self._eventfds)


class Line(Interrupts):
    """INTx: a level, and an eventfd that says it rose.

    Signalling masks the line; while it is masked nothing is signalled, and when
    it is unmasked with its level still up, it is signalled again.

    Attributes:
        level: the device asks for service.
        held: the function may not signal at the moment.
        silenced: the guest masked it, in the command register of the config space.
        masked: signalled, or masked by the VMM, and not yet unmasked.
    """

    def __init__(self) -> None:
        super().__init__("INTx", 1)
        self.level = False
        self.held = False
        self.silenced = False
        self.masked = False
        self._mask_event: Fd | None = None

    def set(self, level: bool, *, held: bool, silenced: bool) -> None:
        """Take the level that the device drives now."""
        if silenced and not self.silenced:
            self._became_masked()
        self.level, self.held, self.silenced = level, held, silenced
        self._deliver()

    def assign(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """A new eventfd starts unmasked."""
        super().assign(start, eventfds)
        self.masked = False
        self._deliver()

    def assign_masks(self, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Take the eventfd that says when the line becomes masked."""
        self._accept(start, eventfds)
        for fd in eventfds:
            close_all([self._mask_event])
            self._mask_event = fd

    def disable(self) -> None:
        """Forget the eventfds and the mask."""
        super().disable()
        close_all([self._mask_event])
        self._mask_event = None
        self.masked = False

    def mask(self, start: int, count: int) -> None:
        """Hold the line back until it is unmasked."""
        self.check(start, count)
        if count and not self.masked:
            self.masked = True
            self._became_masked()

    def unmask(self, start: int, count: int) -> None:
        """Signal again if the level is still up."""
        self.check(start, count)
        if count:
            self.masked = False
            self._deliver()

    def _deliver(self) -> None:
        if self.level and not self.held and not self.masked and self.assigned:
            self.masked = True
            self.signal(0)
            self._became_masked()

    def _became_masked(self) -> None:
        if self._mask_event is not None:
            signal(self._mask_event)


def signal(fd: Fd) -> None:
    """Add one to an eventfd's counter.

    A full counter already tells its reader everything, so it is left alone: the
    write would wait if the file is in blocking mode, a mode which the file
    shares with the VMM and which is therefore not ours to change.
    """
    poll = select.poll()
    poll.register(fd.fileno(), select.POLLOUT)
    try:
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(fd.fileno(), ONE)
    except OSError:
        # Not an eventfd after all, or filled in between: its owner loses a signal.
        return
