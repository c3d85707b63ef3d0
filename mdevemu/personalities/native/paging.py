"""Page requests of the native device: a command waits until the guest has supplied its pages."""

from collections.abc import Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING

from mdevemu.accel.scheduler import Lane
from mdevemu.errors import DmaFault, StateError
from mdevemu.iommu.port import Port
from mdevemu.layout import Struct, pack, sizeof, u32, u64
from mdevemu.personalities.native.layout import LOG2_MAX_ENTRIES, PageRequest
from mdevemu.units import KIB, PAGE, Iova

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native

ANSWER_LIMIT_NS = 10 * 10**9
"""How long a guest may take to answer one page request, in nanoseconds."""

TRIES = 4
"""How often a page is requested that is said to be there, and is not."""

SUCCESS, INVALID, TIMED_OUT = 0, 1, -1
PAGES_A_PIECE = 64


class PagingSetup(Struct):
    """The page-request ring in use: where it is; ``entries`` 0 if there is none."""

    base: u64
    entries: u32


class Paging:
    """The page-request ring, and the queues that wait for an answer.

    A queue waits for one page at a time; its number is the index of the page
    request group.
    """

    def __init__(self, device: "Native") -> None:
        self._device = device
        self._base: Iova | None = None
        self._entries = 0
        self._waiting: dict[int, Lane] = {}
        self._answers: dict[int, int] = {}

    @property
    def on(self) -> bool:
        """The driver takes page requests."""
        return self._base is not None

    def switch(self) -> bool:
        """The driver wrote the control register; False if what it set up cannot be used."""
        device, regs = self._device, self._device.regs
        self._base = None
        if not regs.page_request_control.enable:
            return True
        base, log2 = regs.page_request_base.iova, regs.page_request_size.log2_entries
        vector = regs.page_request_control.vector
        if not 1 <= log2 <= LOG2_MAX_ENTRIES or vector >= device.vectors:
            return False
        if not self._use(PagingSetup(base, 1 << log2)):
            return False
        regs.page_request_tail.index = regs.page_request_head.index = 0
        return True

    def _use(self, setup: PagingSetup) -> bool:
        """Use a ring of the driver's, if it can be."""
        if self._device.slice.pasids is None or setup.base % sizeof(PageRequest):
            return False
        self._base, self._entries = Iova(setup.base), setup.entries
        return True

    @property
    def setup(self) -> PagingSetup:
        """The ring in use."""
        return PagingSetup(0, 0) if self._base is None else PagingSetup(self._base, self._entries)

    def load(self, setup: PagingSetup) -> None:
        """Use the ring that another device used; the registers are there already.

        Raises:
            StateError: that cannot be.
        """
        size = setup.entries
        if bool(size) != self._device.regs.page_request_control.enable:
            raise StateError("page requests are enabled without a ring, or have one without")
        fits = size.bit_count() == 1 and 2 <= size <= 1 << LOG2_MAX_ENTRIES
        if size and not (fits and self._use(setup)):
            raise StateError(f"page-request ring of {size} entries at {setup.base:#x}")

    # Towards the guest.

    def wanted(self, pasid: int, iova: int, group: int, *, write: bool) -> None:
        """Put a request into the driver's ring; if that cannot be, answer for the driver."""
        device, regs = self._device, self._device.regs
        tail = regs.page_request_tail
        used = tail.index - regs.page_request_head.index & 0xFFFF_FFFF
        if self._base is not None and used < self._entries:
            record = PageRequest(iova, pasid, group, 2 if write else 1)
            at = Iova(self._base + (tail.index & self._entries - 1) * sizeof(PageRequest))
            try:
                device.port.write(at, pack(record))
            except DmaFault:
                self._base = None
                regs.page_request_control.enable = False
            else:
                tail.index = tail.index + 1 & 0xFFFF_FFFF
                device.raise_vector(regs.page_request_control.vector)
                return
        assert device.slice.pasids is not None
        device.slice.pasids.respond(pasid, group, INVALID)

    def answered(self, group: int, code: int) -> None:
        """An answer came; one that nobody waits for means nothing."""
        if lane := self._waiting.pop(group, None):
            self._answers[group] = code
            lane.wake()

    # What a queue does before a command.

    def supply(
        self, lane: Lane, group: int, port: Port, ranges: Iterable[tuple[int, int, bool]]
    ) -> Generator[int, None, None]:
        """Have every page of the ranges (address, bytes, for writing) supplied, if it can be.

        A page that is not supplied is left to fault.  Nothing is asked for where there are
        no page requests, or the addresses are the function's own.
        """
        if port.process_id is None or not self.on:
            return
        for address, count, write in ranges:
            pages = range(address & -PAGE, address + count, PAGE)
            for done, page in enumerate(pages):
                for _ in range(TRIES):
                    if port.granted(Iova(page), write=write):
                        break
                    if not (yield from self._ask(lane, group, port, page, write)):
                        return
                else:
                    return
                if done % PAGES_A_PIECE == PAGES_A_PIECE - 1:
                    yield PAGES_A_PIECE * KIB

    def _ask(
        self, lane: Lane, group: int, port: Port, page: int, write: bool
    ) -> Generator[int, None, bool]:
        """Request a page and wait for the answer: whether it is a success."""
        pasids = self._device.slice.pasids
        assert pasids is not None
        assert port.process_id is not None
        self._answers.pop(group, None)
        self._waiting[group] = lane
        late = partial(self.answered, group, TIMED_OUT)
        alarm = self._device.slice.flow.after(ANSWER_LIMIT_NS, late)
        try:
            pasids.ask(port.process_id, page, group, write=write)
            if group in self._waiting:
                lane.park()
            yield KIB
            return self._answers.pop(group, TIMED_OUT) == SUCCESS
        finally:
            alarm.cancel()
            self._waiting.pop(group, None)
