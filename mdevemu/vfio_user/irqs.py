"""DEVICE_SET_IRQS: whom to tell of interrupts, and what to do to them.

An eventfd for TRIGGER or MASK is the device's, which fires it.  One for UNMASK is ours,
and its other end fires it: a VMM's kernel does, when a guest has served a level-triggered
interrupt.  (linux/vfio.h has it so; the specification reads as if we fired it.)
"""

import errno
from collections.abc import Callable
from functools import partial

from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all, drain_eventfd, is_eventfd
from mdevemu.vfio_user import messages, wire
from mdevemu.vfio_user.carrier import Carrier
from mdevemu.vfio_user.device import Function, check_vectors
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.pending import Reply
from mdevemu.vfio_user.wire import Irq, SetFlags

NOTHING: Reply = (b"", ())


class Irqs:
    """The interrupts of one session."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._unmasks: dict[tuple[int, int], Fd] = {}
        self._carrier: Carrier | None = None

    def attach(self, carrier: Carrier | None) -> None:
        """Who watches eventfds; without one, none are taken that must be."""
        self._carrier = carrier

    def close(self) -> None:
        """The client is gone, and every eventfd of its."""
        for key in list(self._unmasks):
            self._drop(*key)
        self._function.disconnect()
        self._carrier = None

    def set(self, message: Message) -> Reply:
        """Answer a DEVICE_SET_IRQS.

        Raises:
            RequestError: the device has no such interrupts, or they cannot be treated so.
        """
        request, switches = messages.set_irqs(message)
        function, index, start = self._function, request.index, request.start
        if not request.count:
            for key in [key for key in self._unmasks if key[0] == index]:
                self._drop(*key)
            function.disable(index)
            return NOTHING
        check_vectors(request, function.interrupts[index])
        if SetFlags.EVENTFD in request.flags:
            self._assign(request, [*message.take()] or [None] * request.count)
            return NOTHING
        act = self._action(request.flags)
        if switches is None:
            act(index, start, request.count)
            return NOTHING
        for vector, switch in enumerate(switches, start):
            if switch:
                act(index, vector, 1)
        return NOTHING

    def _action(self, flags: SetFlags) -> Callable[[int, int, int], None]:
        if SetFlags.TRIGGER in flags:
            return self._function.trigger
        return self._function.mask if SetFlags.MASK in flags else self._function.unmask

    def _assign(self, request: wire.SetIrqs, fds: list[Fd | None]) -> None:
        if SetFlags.TRIGGER in request.flags:
            self._function.assign(request.index, request.start, fds)
        elif SetFlags.MASK in request.flags:
            self._function.assign_masks(request.index, request.start, fds)
        else:
            self._assign_unmasks(request, fds)

    def _assign_unmasks(self, request: wire.SetIrqs, fds: list[Fd | None]) -> None:
        index, start, carrier = request.index, request.start, self._carrier
        try:
            if index != Irq.INTX:
                raise RequestError(errno.EINVAL, f"interrupts of index {index} cannot be masked")
            if carrier is None:
                raise RequestError(errno.ENOTSUP, "nobody watches eventfds that unmask")
            if not all(fd is None or is_eventfd(fd) for fd in fds):
                raise RequestError(errno.EINVAL, "only an eventfd unmasks")
        except RequestError:
            close_all(fds)
            raise
        for vector, fd in enumerate(fds, start):
            self._drop(index, vector)
            if fd is not None:
                self._unmasks[index, vector] = fd
                carrier.watch(fd.fileno(), partial(self._unmask, index, vector))

    def _unmask(self, index: int, vector: int) -> None:
        """Somebody fired."""
        if drain_eventfd(self._unmasks[index, vector]):
            self._function.unmask(index, vector, 1)

    def _drop(self, index: int, vector: int) -> None:
        fd = self._unmasks.pop((index, vector), None)
        if fd is not None:
            assert self._carrier is not None
            self._carrier.forget(fd.fileno())
            fd.close()
