"""Operations that move bytes: nop, copy, fill, compare."""

from mdevemu.accel.operations.command import Command, Memory, Pieces, Status, chunks
from mdevemu.accel.scheduler import PIECE
from mdevemu.errors import CommandFault
from mdevemu.units import Iova


def nop(memory: Memory, command: Command) -> Pieces:
    """Do nothing."""
    return 0
    yield


def copy(memory: Memory, command: Command) -> Pieces:
    """Copy ``length`` bytes; returns them.  Ranges that overlap give unspecified bytes."""
    for at, count in chunks(command.source, command.length, PIECE):
        yield from memory.copy(at, Iova(command.destination + at - command.source), count)
        yield count
    return command.length


def fill(memory: Memory, command: Command) -> Pieces:
    """Repeat the 8 bytes of ``operand`` over ``length`` bytes; returns them."""
    pattern = command.operand.to_bytes(8, "little") * (PIECE // 8)
    for at, count in chunks(command.destination, command.length, PIECE):
        yield from memory.write(at, pattern[:count])
        yield count
    return command.length


def compare(memory: Memory, command: Command) -> Pieces:
    """Compare ``source`` with ``operand``; returns the bytes that are equal.

    Raises:
        CommandFault: MISMATCH, its result the offset of the first difference.
    """
    for at, count in chunks(command.source, command.length, PIECE // 2):
        done = at - command.source
        ours = yield from memory.read(at, count)
        theirs = yield from memory.read(Iova(command.operand + done), count)
        if ours != theirs:
            differs = next(i for i in range(count) if ours[i] != theirs[i])
            raise CommandFault(Status.MISMATCH, "contents differ", done + differs)
        yield 2 * count
    return command.length
