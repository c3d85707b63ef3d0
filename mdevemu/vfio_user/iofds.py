"""GET_REGION_IO_FDS: parts of regions that are reached without a message of the client.

A doorbell with a value is an eventfd: firing it is writing that value.  One without is
reached over a socket on which the client's kernel would send accesses (ioregionfd), one
socket for all of a session's.  They are made when a client asks, and end with it.
"""

import errno
import os
import socket
from collections.abc import Sequence
from functools import partial

from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all, drain_eventfd
from mdevemu.layout import pack, sizeof
from mdevemu.trace import Trace
from mdevemu.vfio_user import messages, wire
from mdevemu.vfio_user.carrier import Carrier
from mdevemu.vfio_user.device import DoorbellShape, Function
from mdevemu.vfio_user.iofds_wire import (
    IO_COMMAND,
    IO_READ,
    IO_RESPONSE,
    IO_RESPONSE_WANTED,
    IO_SIZE_SHIFT,
    IO_WRITE,
    IoEventFlags,
    IoFd,
    IoFdType,
    IoRegionFlags,
    RegionIoFds,
)
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.pending import Reply

TURN = 32
"""Accesses of one wake-up; what else is there waits for the next."""


class IoFds:
    """The descriptors of one session, and what comes over them."""

    def __init__(self, function: Function, trace: Trace, name: str) -> None:
        """``name`` is the session's, for the trace."""
        self._function = function
        self._trace = trace
        self._name = name
        self._carrier: Carrier | None = None
        self._doorbells: Sequence[DoorbellShape] = ()
        self._events: dict[int, Fd] = {}
        self._socket: socket.socket | None = None
        self._other: Fd | None = None
        self._listening = True

    def attach(self, carrier: Carrier | None) -> None:
        """Who watches descriptors; without one there are none."""
        self._carrier = carrier
        self._doorbells = tuple(self._function.doorbells) if carrier else ()

    def close(self) -> None:
        """The client is gone."""
        self.listen(wanted=False)
        close_all(self._events.values())
        self._events.clear()
        self._hang_up()
        self.attach(None)

    def listen(self, *, wanted: bool) -> None:
        """Take accesses, or let them wait: the device is not to be touched."""
        if wanted == self._listening:
            return
        self._listening = wanted
        for number, fd in self._events.items():
            self._watch_event(number, fd)
        self._watch_socket()

    def answer(self, message: Message, most: int) -> Reply:
        """Answer a GET_REGION_IO_FDS of a client that takes ``most`` descriptors at once.

        Raises:
            RequestError: EINVAL, no such region; ENOSPC, no descriptors are left.
        """
        request = messages.roomy(RegionIoFds, message)
        if request.flags or request.count:
            raise RequestError(errno.EINVAL, "GET_REGION_IO_FDS with flags or a count")
        if request.index >= wire.REGIONS or not self._function.regions[request.index].size:
            raise RequestError(errno.EINVAL, f"GET_REGION_IO_FDS of region {request.index}")
        chosen = self._chosen(request.index, most)
        needed = sizeof(RegionIoFds) + len(chosen) * sizeof(IoFd)
        head = pack(RegionIoFds(needed, 0, request.index, len(chosen)))
        if needed > request.argsz:
            return head, ()
        fds: list[Fd] = []
        try:
            entries = [self._entry(number, fds) for number in chosen]
        except OSError as full:
            reason = f"no descriptor for region {request.index}: {full.strerror}"
            raise RequestError(errno.ENOSPC, reason) from None
        return head + b"".join(entries), tuple(fds)

    def _chosen(self, region: int, most: int) -> list[int]:
        """Doorbells of a region, as many as need no more descriptors than these."""
        here = [n for n, each in enumerate(self._doorbells) if each.region == region]
        for count in range(len(here), 0, -1):
            shared = any(self._doorbells[n].data is None for n in here[:count])
            events = sum(self._doorbells[n].data is not None for n in here[:count])
            if events + shared <= min(most, wire.MAX_FDS):
                return here[:count]
        return []

    def _entry(self, number: int, fds: list[Fd]) -> bytes:
        """The description of one doorbell, whose descriptor joins the others if it is new."""
        each = self._doorbells[number]
        if each.data is not None:
            fd, kind, flags, value = (
                self._event(number),
                IoFdType.IOEVENTFD,
                int(IoEventFlags.DATAMATCH),
                each.data,
            )
        else:
            fd, kind, flags, value = (
                self._clients_end(),
                IoFdType.IOREGIONFD,
                int(IoRegionFlags.POSTED_WRITES),
                number,
            )
        if fd not in fds:
            fds.append(fd)
        return pack(IoFd(each.offset, each.size, fds.index(fd), kind, flags, 0, value))

    # An eventfd for a value.

    def _event(self, number: int) -> Fd:
        if number not in self._events:
            fd = self._events[number] = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._watch_event(number, fd)
        return self._events[number]

    def _watch_event(self, number: int, fd: Fd) -> None:
        assert self._carrier is not None
        if self._listening:
            self._carrier.watch(fd.fileno(), partial(self._rung, number))
        else:
            self._carrier.forget(fd.fileno())

    def _rung(self, number: int) -> None:
        """An eventfd was fired, once or more."""
        each = self._doorbells[number]
        assert each.data is not None
        if drain_eventfd(self._events[number]):
            self._write(each, 0, each.data.to_bytes(each.size, "little"))

    # A socket for any access.

    def _clients_end(self) -> Fd:
        """The end of the socket that the client gets, which stays ours."""
        if self._other is None:
            # Messages keep their bounds, so there is never half an access.
            ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            self._socket, self._other = ours, Fd(other.detach())
            self._watch_socket()
        return self._other

    def _watch_socket(self) -> None:
        if self._socket is not None:
            assert self._carrier is not None
            if self._listening:
                self._carrier.watch(self._socket.fileno(), self._accessed)
            else:
                self._carrier.forget(self._socket.fileno())

    def _hang_up(self) -> None:
        if self._socket is not None:
            assert self._carrier is not None
            self._carrier.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        close_all([self._other])
        self._other = None

    def _accessed(self) -> None:
        """Accesses came in; whoever does not speak as it must is not listened to again."""
        for _ in range(TURN):
            if self._socket is None or not self._listening:
                return
            try:
                data = self._socket.recv(IO_COMMAND.size + 1)
            except BlockingIOError:
                return
            try:
                answer = self._access(data)
                if answer is not None:
                    self._socket.send(IO_RESPONSE.pack(answer), socket.MSG_NOSIGNAL)
            except (OSError, RequestError) as wrong:
                reason = wrong.reason if isinstance(wrong, RequestError) else str(wrong.strerror)
                self._trace.emit("iofd.closed", session=self._name, reason=reason)
                self._hang_up()
                return

    def _access(self, data: bytes) -> int | None:
        """Do one access; what to answer, None if nothing.

        Raises:
            RequestError: it is none.
        """
        if len(data) != IO_COMMAND.size:
            raise RequestError(errno.EINVAL, f"an access of {len(data)} bytes")
        info, number, offset, value = IO_COMMAND.unpack(data)
        kind, size = info & 0xF, 1 << (info >> IO_SIZE_SHIFT & 3)
        each = self._doorbells[number] if number < len(self._doorbells) else None
        if (
            kind not in (IO_READ, IO_WRITE)
            or each is None
            or each.data is not None
            or offset + size > each.size
        ):
            raise RequestError(errno.EINVAL, f"access {info:#x} to {offset:#x} of {number}")
        if kind == IO_WRITE:
            self._write(each, offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
            return 0 if info & IO_RESPONSE_WANTED else None
        try:
            came = self._function.read(each.region, each.offset + offset, size)
        except RequestError:
            came = b"\xff" * size  # as a bus reads where nobody answers
        return int.from_bytes(came, "little")

    def _write(self, each: DoorbellShape, offset: int, data: bytes) -> None:
        try:
            self._function.write(each.region, each.offset + offset, data)
        except RequestError as refusal:
            self._trace.emit(
                "session.error",
                session=self._name,
                command=int(wire.Command.REGION_WRITE),
                errno=refusal.number,
                reason=refusal.reason,
            )
