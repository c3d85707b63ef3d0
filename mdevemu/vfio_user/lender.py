"""DMA by message: commands of ours to a client, and what it answers.  Nothing here waits."""

import errno
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from mdevemu.errors import ProtocolError
from mdevemu.trace import Trace
from mdevemu.units import KIB
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.messages import Message, encode
from mdevemu.vfio_user.wire import DMA, Command

LARGEST = 64 * KIB
"""Most bytes that we ask for in one message; a client may want less."""

MOST = 64
"""Most messages that wait for their answers; one more is refused at once."""

Done: TypeAlias = Callable[[bytes | None], None]
"""Told the bytes of a read, none for a write that was done, None for what was refused."""


class Lender(Protocol):
    """A client, as far as it answers for the bytes of its windows.

    Attributes:
        largest: most bytes of one ``fetch`` or ``store``.
    """

    @property
    def largest(self) -> int: ...

    def fetch(self, iova: int, length: int, done: Done) -> None:
        """Ask for bytes; ``done`` is called once, now or later."""

    def store(self, iova: int, data: bytes, done: Done) -> None:
        """Ask to have bytes written; ``done`` is called once, now or later."""


class Asked:
    """What one client was asked for, and has not answered.

    An answer that nobody waits for any more still frees its place; a client that
    never answers gets ``MOST`` questions and no more.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        largest: int,
        trace: Trace,
        name: str,
        *,
        trusted: bool = False,
    ) -> None:
        """``send`` takes whole messages; ``largest`` is the client's max_data_xfer_size.

        ``trusted``: it is known to have data where it belongs; see ``store``.
        """
        self.largest = min(largest, LARGEST)
        self._send = send
        self._trace = trace
        self._name = name
        self._id = 0
        self._waiting: dict[int, tuple[int, bytes, int, Done]] = {}
        self._open = True
        self._trusted = trusted

    def fetch(self, iova: int, length: int, done: Done) -> None:
        """See ``Lender``."""
        assert 0 < length <= self.largest
        self._ask(Command.DMA_READ, DMA.pack(iova, length), b"", length, done)

    def store(self, iova: int, data: bytes, done: Done) -> None:
        """See ``Lender``.

        A client that has not yet shown that it knows the message is asked for a byte
        first: QEMU before 11.0 has data four bytes too early in these messages, and would
        store what was not meant.
        """
        assert 0 < len(data) <= self.largest
        if not self._trusted:
            self.fetch(iova, 1, partial(self._tried, iova, data, done))
            return
        self._ask(Command.DMA_WRITE, DMA.pack(iova, len(data)), data, 0, done)

    def answered(self, message: Message) -> None:
        """The client sent a reply.

        Raises:
            ProtocolError: to nothing that it was asked.
        """
        if message.id not in self._waiting or self._waiting[message.id][0] != message.command:
            raise ProtocolError(f"a reply to nothing: {message.id} to command {message.command}")
        command, head, length, done = self._waiting.pop(message.id)
        if message.flags & wire.ERROR:
            name = errno.errorcode.get(message.error, str(message.error))
            self._refused(command, head, name, done)
            return
        payload = message.payload
        if command == Command.DMA_READ:
            if len(payload) != DMA.size + length or payload[: DMA.size] != head:
                self._refused(command, head, f"answered with {len(payload)} bytes", done)
                return
            self._trusted = True
            done(payload[DMA.size :])
        elif payload in (head, head[:12], b""):
            # The specification's count has four bytes, libvfio-user's eight; QEMU 10 has neither.
            done(b"")
        else:
            self._refused(command, head, f"answered with {len(payload)} bytes", done)

    def forget(self, iova: int, size: int) -> None:
        """What is still open about these bytes is refused, and answers to it mean nothing."""
        for number, (command, head, length, done) in list(self._waiting.items()):
            at, count = DMA.unpack(head)
            if at < iova + size and iova < at + count and done is not _nobody:
                self._waiting[number] = command, head, length, _nobody
                self._refused(command, head, "unmapped, or reset", done)

    def close(self) -> None:
        """The client is gone: nothing is answered any more, and all who wait are told."""
        self._open = False
        waiting, self._waiting = self._waiting, {}
        for _, _, _, done in waiting.values():
            done(None)

    def _ask(self, command: Command, head: bytes, data: bytes, length: int, done: Done) -> None:
        if not self._open or len(self._waiting) >= MOST:
            self._refused(command, head, "not asked", done)
            return
        self._id = (self._id + 1) & 0xFFFF
        while self._id in self._waiting:
            self._id = (self._id + 1) & 0xFFFF
        self._waiting[self._id] = command, head, length, done
        self._send(encode(self._id, command, head + data))

    def _tried(self, iova: int, data: bytes, done: Done, answer: bytes | None) -> None:
        if answer is None:
            done(None)
        else:
            self.store(iova, data, done)

    def _refused(self, command: int, head: bytes, reason: str, done: Done) -> None:
        iova, length = DMA.unpack(head)
        self._trace.emit(
            "dma.refused",
            session=self._name,
            command=Command(command).name,
            iova=iova,
            length=length,
            reason=reason,
        )
        done(None)


def _nobody(_: bytes | None) -> None:
    """Nobody waits for this."""
