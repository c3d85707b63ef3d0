"""Operations on raw deflate streams.  Spec: RFC 1951."""

import zlib

from mdevemu.accel.operations.command import Command, Memory, Pieces, Status, chunks
from mdevemu.accel.reach import Writing
from mdevemu.accel.scheduler import PIECE
from mdevemu.errors import CommandFault
from mdevemu.units import KIB, Iova

RAW = -15
"""zlib's name for a stream without header and checksum."""

STEP = 4 * KIB
"""Bytes taken in, or given out, in one piece."""

COST = PIECE // STEP
"""Copy-bytes that one byte costs."""


class Output:
    """Where produced bytes go: ``destination``, up to ``capacity``."""

    def __init__(self, memory: Memory, command: Command) -> None:
        self._memory = memory
        self._command = command
        self.count = 0

    def put(self, data: bytes) -> Writing:
        """Append.

        Raises:
            CommandFault: CAPACITY; what fitted before stays written.
        """
        if self.count + len(data) > self._command.capacity:
            raise CommandFault(
                Status.CAPACITY, f"more than {self._command.capacity} bytes come out"
            )
        if data:
            yield from self._memory.write(Iova(self._command.destination + self.count), data)
            self.count += len(data)


def deflate(memory: Memory, command: Command) -> Pieces:
    """Compress; returns the bytes written."""
    output, stream = Output(memory, command), zlib.compressobj(wbits=RAW)
    for at, count in chunks(command.source, command.length, STEP):
        yield from output.put(stream.compress((yield from memory.read(at, count))))
        yield COST * count
    yield from output.put(stream.flush())
    return output.count


def inflate(memory: Memory, command: Command) -> Pieces:
    """Decompress; returns the bytes written.

    Raises:
        CommandFault: CORRUPT (no deflate stream, or it does not end with the source), CAPACITY.
    """
    output, stream = Output(memory, command), zlib.decompressobj(wbits=RAW)
    for at, count in chunks(command.source, command.length, STEP):
        data, produced = (yield from memory.read(at, count)), STEP
        while data or produced == STEP:
            try:
                out = stream.decompress(data, STEP)
            except zlib.error as wrong:
                raise CommandFault(Status.CORRUPT, str(wrong)) from None
            yield from output.put(out)
            yield PIECE
            data, produced = stream.unconsumed_tail, len(out)
        more = at + count < command.source + command.length
        if stream.eof and (stream.unused_data or more):
            raise CommandFault(Status.CORRUPT, "bytes after the end of the stream")
    if not stream.eof:
        raise CommandFault(Status.CORRUPT, "the stream does not end")
    return output.count
