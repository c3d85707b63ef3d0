"""A chain beside the processor's own work: each stage from what the one before it has left."""

import hashlib
import zlib
from collections.abc import Sequence
from itertools import takewhile

from guest.access import PAGE
from guest.bench import operation_name
from guest.checks import aes_gcm
from guest.checks.cases import Trial, sealing
from guest.checks.crc32c import crc32c
from guest.checks.places import Output, Place, offset_for
from guest.native import Operation
from guest.queue import Command, Completion

LONGEST = PAGE + 1  # bytes that a chain begins with
ROOM = 8 * PAGE  # bytes of a place: what a stage leaves, and its guards
PARAMETERS = 4 * PAGE  # bytes of the parameters' place
_COMPARED_AT = 2 * PAGE  # offset in it of what ``compare`` compares with
_MORE = 128  # bytes that stages may add
_CLOSED_BY = {
    Operation.INFLATE: Operation.DEFLATE,
    Operation.AES_GCM_DECRYPT: Operation.AES_GCM_ENCRYPT,
}


class Walk:
    """One run of a chain.

    Attributes:
        stages: its descriptors.
    """

    def __init__(
        self, trial: Trial, operations: Sequence[Operation], work: Sequence[Place]
    ) -> None:
        """Put down what the chain reads, and guard what it may write.

        All stages but the last write to ``work``, places in HBM.
        """
        self._operations = operations
        self._length = trial.length
        self._sealing = sealing(trial)
        self._number = trial.chance.getrandbits(32)  # fill's pattern, the checksum's seed
        self._compared = trial.parameters.part(_COMPARED_AT, trial.length)
        self._data = self._input(trial)
        room = 2 * trial.length + _MORE
        self._outputs = [
            Output(place, offset_for(room, trial.number + at), room)
            for at, place in enumerate([*work[: len(operations) - 1], trial.destination])
        ]
        if operations[-1] == Operation.COMPARE:
            self._compared.view[:] = self._before_the_last()
        first, *others = map(self._stage, operations, self._outputs)
        if operations[0] == Operation.FILL:
            first = first._replace(length=trial.length)
        else:
            source = trial.give(self._data)
            flags = first.flags | source.source
            first = first._replace(length=len(self._data), source=source.address, flags=flags)
        self.stages = [first, *others]

    def _input(self, trial: Trial) -> bytes:
        """Text, closed by what the chain's first stages open."""
        data = trial.text()
        for operation in reversed([*takewhile(_CLOSED_BY.__contains__, self._operations)]):
            data = self._apply(_CLOSED_BY[operation], data)
        return data

    def _before_the_last(self) -> bytes:
        """What the last stage reads, by the processor alone."""
        data = self._data
        for operation in self._operations[:-1]:
            data = self._apply(operation, data)
        return data

    def _stage(self, operation: Operation, output: Output) -> Command:
        """A descriptor that reads what the stage before it leaves."""
        command = Command(operation)
        match operation:
            case Operation.COMPARE:
                return command._replace(operand=self._compared.address)
            case Operation.CRC32C:
                return command._replace(operand=self._number)
            case Operation.FILL:
                command = command._replace(operand=self._number)
            case Operation.AES_GCM_ENCRYPT | Operation.AES_GCM_DECRYPT:
                command = command._replace(operand=self._sealing.address)
        return command._replace(
            destination=output.place.address,
            capacity=len(output.place.view),
            flags=output.place.destination,
        )

    def _apply(self, operation: Operation, data: bytes) -> bytes:
        """What the operation leaves of ``data``, by the processor."""
        by = self._sealing
        match operation:
            case Operation.FILL:
                pattern = self._number.to_bytes(8, "little")
                return (pattern * (self._length // 8 + 1))[: self._length]
            case Operation.DEFLATE:
                packer = zlib.compressobj(wbits=-15)
                return packer.compress(data) + packer.flush()
            case Operation.INFLATE:
                return zlib.decompress(data, wbits=-15)
            case Operation.SHA256:
                return hashlib.sha256(data).digest()
            case Operation.AES_GCM_ENCRYPT:
                return aes_gcm.encrypt(by.key, by.nonce, by.aad, data)
            case Operation.AES_GCM_DECRYPT:
                return aes_gcm.decrypt(by.key, by.nonce, by.aad, data) or b""
        return data

    def differs(self, completion: Completion) -> str | None:
        """What is wrong after the chain succeeded: with what a stage left, or with the result."""
        data, result = self._data, 0
        for number, (operation, output) in enumerate(
            zip(self._operations, self._outputs, strict=True)
        ):
            left = self._left(operation, data, output)
            if left is None:
                wrong: str | None = "what it left does not inflate to what it read"
            elif operation in (Operation.COMPARE, Operation.CRC32C):
                wrong = None if output.untouched else "it wrote"
            else:
                wrong = output.differs(left, len(left))
            if left is None or wrong:
                return f"stage {number}, {operation_name(operation)}: {wrong}"
            crc = operation == Operation.CRC32C
            data, result = left, crc32c(data, self._number) if crc else len(left)
        if completion.result != result:
            return f"result {completion.result:#x}, not {result:#x}"
        return None

    def _left(self, operation: Operation, data: bytes, output: Output) -> bytes | None:
        """What the stage had to leave; None if it had a choice, and chose wrong."""
        if operation != Operation.DEFLATE:
            return self._apply(operation, data)
        found, back = bytes(output.place.view), zlib.decompressobj(wbits=-15)
        try:
            inflated = back.decompress(found)
        except zlib.error:
            return None
        if inflated != data or not back.eof:
            return None
        return found[: len(found) - len(back.unused_data)]

    @property
    def untouched(self) -> bool:
        """No stage wrote anything."""
        return all(output.untouched for output in self._outputs)
