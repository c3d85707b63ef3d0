"""The native device's allocator of HBM: buffers, what they take, and whom they are shared with."""

import enum
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mdevemu.accel.hbm import MMU_AT
from mdevemu.accel.ranges import Ranges
from mdevemu.accel.saving import Count, Saved
from mdevemu.errors import StateError
from mdevemu.layout import Struct, u32, u64
from mdevemu.personalities.native.layout import HbmCommand, HbmOperation, HbmStatusCode
from mdevemu.personalities.native.scrubbing import Scrubber
from mdevemu.units import PAGE

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native

MAX_BUFFERS = 4096
MAX_RUNS = 1024
"""Pieces of HBM that one buffer is made of, at most: a command about it is done at once."""
MAX_PIECES = 16384
"""Pieces that all buffers, and what is still to be scrubbed, have together, at most: they are
saved in one record, and a reset looks at each."""


class RangeState(enum.IntEnum):
    """What a range of HBM is, in a saved state; END ends the list.

    A MAPPED range is a buffer at an address of the MMU; as many RUNs follow as it has bytes.
    """

    BUFFER = 0
    DIRTY = 1
    END = 2
    MAPPED = 3
    RUN = 4


class HbmRange(Struct):
    """A range of HBM, or an address of the MMU and how much is mapped there, in bytes."""

    offset: u64
    size: u64
    state: u32


class Buffers:
    """Buffers in the HBM of one slice.

    What is freed, or was a buffer before a reset, is scrubbed before it can be allocated
    again.  So nobody finds in a buffer what was in another's.

    Attributes:
        used: bytes of all buffers.
        high_water: the most that ever was, since the reset.
        scrubber: has what was freed and is not free yet.
    """

    def __init__(self, device: "Native") -> None:
        self._device = device
        self._free = Ranges(device.hbm_size)
        self._runs: dict[int, list[tuple[int, int]]] = {}  # of each buffer, by its address
        self._pieces = 0  # of all buffers
        self.scrubber = Scrubber(device, self._free)
        self.used = self.high_water = 0

    def execute(self, command: HbmCommand) -> None:
        """Do what the driver wrote, and show what became of it."""
        regs = self._device.regs
        argument = regs.hbm_argument.value
        status, result = HbmStatusCode.INVALID, 0
        if self._device.hbm_size:
            match command.operation:
                case HbmOperation.ALLOCATE:
                    status, result = self._allocate(argument, mapped=command.mapped)
                case HbmOperation.FREE:
                    status = self._give_back(argument)
                case HbmOperation.EXPORT:
                    status, result = self._export(argument)
                case HbmOperation.REVOKE:
                    found = self._device.sharing.revoke(argument)
                    status = HbmStatusCode.OK if found else HbmStatusCode.DENIED
                case HbmOperation.IMPORT:
                    status, result = self._import(argument)
                case HbmOperation.JOIN:
                    status, result = HbmStatusCode.OK, self._device.sharing.join()
                case HbmOperation.RELEASE:
                    found = self._device.sharing.release(argument)
                    status = HbmStatusCode.OK if found else HbmStatusCode.NO_BUFFER
        regs.hbm_status.code = status
        regs.hbm_result.value = result

    @property
    def dirty(self) -> list[tuple[int, int]]:
        """(offset, bytes) of what may hold what nobody may find there."""
        buffers = (run for runs in self._runs.values() for run in runs)
        return [*buffers, *self.scrubber.ranges.items()]

    def scrub(self, dirty: Iterable[tuple[int, int]]) -> None:
        """Scrub what was others' before a reset; none of it is in use."""
        for at, size in sorted(dirty):
            self._free.take(at, size)
            self.scrubber.add(at, size)

    # A move to another device.

    def save(self) -> Iterator[Struct]:
        """What there is; nothing that is shared moves, so each side has to share it again."""
        yield Count(self.high_water)
        for at, runs in self._runs.items():
            if at < MMU_AT:
                yield HbmRange(*runs[0], RangeState.BUFFER)
            else:
                yield HbmRange(at, sum(size for _, size in runs), RangeState.MAPPED)
                yield from (HbmRange(*run, RangeState.RUN) for run in runs)
        for at, size in self.scrubber.ranges.items():
            yield HbmRange(at, size, RangeState.DIRTY)
        yield HbmRange(0, 0, RangeState.END)

    def load(self, saved: Saved) -> None:
        """Be what ``save`` saw, but for what it shared; the HBM was empty before its contents came.

        Raises:
            StateError: no driver could have brought the buffers there.
        """
        self.scrubber.forget()
        self.high_water = saved.take(Count).value
        while (found := saved.take(HbmRange)).state != RangeState.END:
            match found.state:
                case RangeState.BUFFER:
                    self._keep(found.offset, [self._taken(found)])
                case RangeState.DIRTY:
                    self.scrubber.add(*self._taken(found))
                case RangeState.MAPPED:
                    self._keep(found.offset, self._mapped(found, saved))
                case _:
                    raise StateError(f"buffer {found.offset:#x} in state {found.state}")
            if len(self._runs) > MAX_BUFFERS or self._all_pieces > MAX_PIECES:
                raise StateError(f"{len(self._runs)} buffers, {self._all_pieces} pieces of HBM")
        if not self.used <= self.high_water <= self._device.hbm_size:
            raise StateError(f"{self.used} bytes in buffers, at most {self.high_water}")

    def _mapped(self, wanted: HbmRange, saved: Saved) -> list[tuple[int, int]]:
        """The runs of a buffer that was mapped; it is mapped again.

        Raises:
            StateError: it cannot be.
        """
        runs: list[tuple[int, int]] = []
        left = wanted.size
        while left > 0 and (run := saved.take(HbmRange)).state == RangeState.RUN:
            if len(runs) == MAX_RUNS:
                break
            runs.append(self._taken(run))
            left -= run.size
        if left or not runs or self._device.slice.mmu.map(runs, wanted.offset) is None:
            raise StateError(f"buffer mapped at {wanted.offset:#x}+{wanted.size:#x}")
        return runs

    def _taken(self, saved: HbmRange) -> tuple[int, int]:
        """A range that is not free any more.

        Raises:
            StateError: it was not, or is none.
        """
        at, size = saved.offset, saved.size
        if not size or (at | size) % PAGE or not self._free.free(at, size):
            raise StateError(f"buffer {at:#x}+{size:#x} in state {saved.state}")
        self._free.take(at, size)
        return at, size

    # What a driver wants.

    @property
    def _all_pieces(self) -> int:
        """Pieces of buffers, and those to be scrubbed."""
        return self._pieces + len(self.scrubber.ranges)

    def _keep(self, at: int, runs: list[tuple[int, int]]) -> None:
        """There is one more buffer, of what is not free any more."""
        self._runs[at] = runs
        self._pieces += len(runs)
        self.used += sum(size for _, size in runs)

    def _allocate(self, size: int, *, mapped: bool) -> tuple[HbmStatusCode, int]:
        size = -(-size // PAGE) * PAGE
        if not size:
            return HbmStatusCode.INVALID, 0
        if size > self._free.free_bytes or len(self._runs) >= MAX_BUFFERS:
            return HbmStatusCode.NO_ROOM, 0
        if mapped:
            runs = self._free.gather(size)
        else:
            start = self._free.find(size)
            runs = [] if start is None else [(start, size)]
        if not 1 <= len(runs) <= MAX_RUNS or self._all_pieces + len(runs) > MAX_PIECES:
            return HbmStatusCode.NO_ROOM, 0
        at = self._device.slice.mmu.map(runs) if mapped else runs[0][0]
        if at is None:
            return HbmStatusCode.NO_ROOM, 0
        for run in runs:
            self._free.take(*run)
        self._keep(at, runs)
        self.high_water = max(self.high_water, self.used)
        self._device.regs.hbm_length.value = size
        return HbmStatusCode.OK, at

    def _give_back(self, at: int) -> HbmStatusCode:
        """Have nobody reach a buffer any more by addresses of its own, and scrub it."""
        runs = self._runs.pop(at, None)
        if runs is None:
            return HbmStatusCode.NO_BUFFER
        self._pieces -= len(runs)
        self._device.sharing.withdraw(at)
        if at >= MMU_AT:
            self._device.slice.mmu.unmap(at)
        for run in runs:
            self.used -= run[1]
            self.scrubber.add(*run)
        return HbmStatusCode.OK

    def _export(self, at: int) -> tuple[HbmStatusCode, int]:
        if at not in self._runs:
            return HbmStatusCode.NO_BUFFER, 0
        peer = self._device.regs.hbm_peer
        handle = self._device.sharing.export(
            at, self._runs[at], peer.number, writable=peer.writable
        )
        return (HbmStatusCode.OK, handle) if handle else (HbmStatusCode.DENIED, 0)

    def _import(self, handle: int) -> tuple[HbmStatusCode, int]:
        found = self._device.sharing.take(handle)
        if found is None:
            return HbmStatusCode.DENIED, 0
        at, self._device.regs.hbm_length.value = found
        return HbmStatusCode.OK, at
