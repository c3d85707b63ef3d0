"""The native device's allocator of HBM: buffers, what they take, and whom they are shared with."""

import enum
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mdevemu.accel import Work
from mdevemu.accel.ranges import Ranges
from mdevemu.accel.saving import Count, Saved
from mdevemu.accel.scheduler import PIECE
from mdevemu.errors import StateError
from mdevemu.layout import Struct, u32, u64
from mdevemu.personalities.native.layout import HbmCommand, HbmOperation, HbmStatusCode
from mdevemu.units import PAGE

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native

MAX_BUFFERS = 4096


class RangeState(enum.IntEnum):
    """What a range of HBM is, in a saved state; END ends the list."""

    BUFFER = 0
    DIRTY = 1
    END = 2


class HbmRange(Struct):
    """A buffer, or what is to be scrubbed, in bytes."""

    offset: u64
    size: u64
    state: u32


class Buffers:
    """Buffers in the HBM of one slice.

    What is freed, or was a buffer before a reset, is scrubbed before it can be allocated
    again: piece by piece, as other work is done.  So nobody finds in a buffer what was
    in another's.

    Attributes:
        used: bytes of all buffers.
        high_water: the most that ever was, since the reset.
        scrubbing: bytes that were freed and are not free yet.
    """

    def __init__(self, device: "Native") -> None:
        self._device = device
        self._free = Ranges(device.hbm_size)
        self._sizes: dict[int, int] = {}
        self._scrubs: dict[int, int] = {}  # whole ranges
        self._left: dict[int, int] = {}  # bytes of each that are to be done
        self._handles: dict[int, list[int]] = {}  # of a buffer's exports
        self._lane = device.lane()
        self.used = self.high_water = 0

    @property
    def scrubbing(self) -> int:
        return sum(self._left.values())

    def execute(self, command: HbmCommand) -> None:
        """Do what the driver wrote, and show what became of it."""
        regs = self._device.regs
        argument = regs.hbm_argument.value
        status, result = HbmStatusCode.INVALID, 0
        if self._device.hbm_size:
            match command.operation:
                case HbmOperation.ALLOCATE:
                    status, result = self._allocate(argument)
                case HbmOperation.FREE:
                    status = self._give_back(argument)
                case HbmOperation.EXPORT:
                    status, result = self._export(argument)
                case HbmOperation.REVOKE:
                    status = self._revoke(argument)
                case HbmOperation.IMPORT:
                    status, result = self._import(argument)
                case HbmOperation.RELEASE:
                    found = self._device.sharing.release(argument)
                    status = HbmStatusCode.OK if found else HbmStatusCode.NO_BUFFER
        regs.hbm_status.code = status
        regs.hbm_result.value = result

    @property
    def dirty(self) -> list[tuple[int, int]]:
        """(offset, bytes) of what may hold what nobody may find there."""
        return [*self._sizes.items(), *self._scrubs.items()]

    # A move to another device.

    def save(self) -> Iterator[Struct]:
        """What there is; nothing that is shared moves, so each side has to share it again."""
        yield Count(self.high_water)
        for state, ranges in ((RangeState.BUFFER, self._sizes), (RangeState.DIRTY, self._scrubs)):
            for at, size in ranges.items():
                yield HbmRange(at, size, state)
        yield HbmRange(0, 0, RangeState.END)

    def load(self, saved: Saved) -> None:
        """Be what ``save`` saw, but for what it shared.

        Raises:
            StateError: no driver could have brought the buffers there.
        """
        self.high_water = saved.take(Count).value
        while (found := saved.take(HbmRange)).state != RangeState.END:
            at, size = found.offset, found.size
            whole = size and not (at | size) % PAGE and self._free.free(at, size)
            if not whole or found.state > RangeState.DIRTY or len(self._sizes) >= MAX_BUFFERS:
                raise StateError(f"buffer {at:#x}+{size:#x} in state {found.state}")
            self._free.take(at, size)
            if found.state == RangeState.BUFFER:
                self._sizes[at] = size
                self.used += size
            else:
                self._scrubs[at] = self._left[at] = size
        if not self.used <= self.high_water <= self._device.hbm_size:
            raise StateError(f"{self.used} bytes in buffers, at most {self.high_water}")

    def resume(self) -> None:
        """Scrub what is to be scrubbed."""
        if self._scrubs and not self._lane.busy:
            self._lane.submit(self._scrub())

    def scrub(self, dirty: Iterable[tuple[int, int]]) -> None:
        """Scrub what was others' before a reset; none of it is in use."""
        for at, size in dirty:
            self._free.take(at, size)
            self._begin(at, size)

    def _allocate(self, size: int) -> tuple[HbmStatusCode, int]:
        size = -(-size // PAGE) * PAGE
        if not size:
            return HbmStatusCode.INVALID, 0
        at = self._free.find(size)
        if at is None or len(self._sizes) >= MAX_BUFFERS:
            return HbmStatusCode.NO_ROOM, 0
        self._free.take(at, size)
        self._sizes[at] = size
        self.used += size
        self.high_water = max(self.high_water, self.used)
        self._device.regs.hbm_length.value = size
        return HbmStatusCode.OK, at

    def _give_back(self, at: int) -> HbmStatusCode:
        """Revoke what is shared of a buffer, and scrub it."""
        size = self._sizes.pop(at, None)
        if size is None:
            return HbmStatusCode.NO_BUFFER
        for handle in self._handles.pop(at, []):
            self._device.sharing.revoke(handle)
        self.used -= size
        self._begin(at, size)
        return HbmStatusCode.OK

    def _begin(self, at: int, size: int) -> None:
        self._scrubs[at] = self._left[at] = size
        self.resume()

    def _scrub(self) -> Work:
        """Scrub, oldest first; it can stop after each piece, and go on there."""
        hbm = self._device.slice.hbm
        assert hbm is not None
        while self._scrubs:
            at, size = next(iter(self._scrubs.items()))
            left = self._left[at]
            length = min(PIECE, left)
            hbm.backing.discard(at + size - left, length)
            self._left[at] -= length
            if length == left:
                del self._scrubs[at], self._left[at]
                self._free.give(at, size)
            yield self._lane.between(length)

    def _export(self, at: int) -> tuple[HbmStatusCode, int]:
        if at not in self._sizes:
            return HbmStatusCode.NO_BUFFER, 0
        peer = self._device.regs.hbm_peer
        handle = self._device.sharing.export(
            at, self._sizes[at], peer.number, writable=peer.writable
        )
        if handle is None:
            return HbmStatusCode.DENIED, 0
        self._handles.setdefault(at, []).append(handle)
        return HbmStatusCode.OK, handle

    def _revoke(self, handle: int) -> HbmStatusCode:
        if not self._device.sharing.revoke(handle):
            return HbmStatusCode.DENIED
        for handles in self._handles.values():
            if handle in handles:
                handles.remove(handle)
        return HbmStatusCode.OK

    def _import(self, handle: int) -> tuple[HbmStatusCode, int]:
        found = self._device.sharing.take(handle)
        if found is None:
            return HbmStatusCode.DENIED, 0
        at, self._device.regs.hbm_length.value = found
        return HbmStatusCode.OK, at
