"""Operands: stretches of bytes that commands work on, in memory or in HBM."""

from typing import NamedTuple

from guest import native
from guest.access import PAGE, Buffer
from guest.bench import Bench

GUARD = 64  # bytes around an operand that nobody may touch
_GUARD_BYTE = 0xA5


class Place(NamedTuple):
    """A stretch of memory or HBM that both the device and we reach.

    Attributes:
        kind: ``memory`` or ``hbm``.
        address: Iova or HBM offset of the first byte.
        view: the same bytes for us.
    """

    kind: str
    address: int
    view: memoryview

    @property
    def source(self) -> int:
        """The flag of a command that reads its source here."""
        return native.Flag.SOURCE_HBM if self.kind == "hbm" else 0

    @property
    def destination(self) -> int:
        """The flag of a command that writes here."""
        return native.Flag.DESTINATION_HBM if self.kind == "hbm" else 0

    @property
    def operand(self) -> int:
        """The flag of a command whose operand is an address here."""
        return native.Flag.OPERAND_HBM if self.kind == "hbm" else 0

    def part(self, offset: int, length: int) -> "Place":
        """``length`` bytes from ``offset``."""
        return Place(self.kind, self.address + offset, self.view[offset : offset + length])

    def guard(self, offset: int, length: int) -> None:
        """Fill the part and its surroundings with a known byte."""
        self.view[offset - GUARD : offset + length + GUARD] = bytes([_GUARD_BYTE]) * (
            length + 2 * GUARD
        )

    def untouched(self, offset: int, length: int) -> bool:
        """The surroundings of the part are as ``guard`` left them."""
        edge = bytes([_GUARD_BYTE]) * GUARD
        after = self.view[offset + length : offset + length + GUARD]
        return self.view[offset - GUARD : offset] == edge and after == edge


class Output:
    """A guarded stretch that an operation writes."""

    def __init__(self, place: Place, offset: int, length: int) -> None:
        """The guards are set here."""
        place.guard(offset, length)
        self.place = place.part(offset, length)
        self._whole = place
        self._offset = offset
        self._length = length

    @property
    def untouched(self) -> bool:
        """Nothing was written, here or around."""
        return self._whole.untouched(self._offset, 0) and not self.place.view.tobytes().strip(
            bytes([_GUARD_BYTE])
        )

    def differs(self, expected: bytes, written: int | None = None) -> str | None:
        """What is wrong if ``expected`` should be here, of ``written`` bytes room (all of it)."""
        if self.place.view[: len(expected)] != expected:
            at = next(i for i, byte in enumerate(expected) if self.place.view[i] != byte)
            return f"output differs from byte {at}: {self.place.view[at]:#x}, not {expected[at]:#x}"
        if not self._whole.untouched(self._offset, self._length if written is None else written):
            return "bytes around the output changed"
        return None


def in_memory(buffer: Buffer) -> Place:
    """All of a buffer."""
    return Place("memory", buffer.iova, buffer.view)


def in_hbm(bench: Bench, offset: int, length: int) -> Place | None:
    """A part of HBM; None if we cannot map that much of it."""
    aperture = bench.access.aperture(native.HBM_BAR)
    if aperture is None or offset + length > min(len(aperture), bench.device.hbm):
        return None
    return Place("hbm", offset, aperture[offset : offset + length])


def offset_for(length: int, case: int) -> int:
    """Where in a place an operand of ``length`` bytes lies: page starts, odd, across pages."""
    across = 2 * PAGE - max(1, min(PAGE, length) // 2)
    return (PAGE, PAGE - 13, PAGE + 1, across, PAGE + 8)[case % 5]
