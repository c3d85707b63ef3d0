"""The hardware performance monitor: a clock, 31 event counters, and their overflow interrupt.

What is counted is what the official model counts: a request when it arrives, a miss
when the IOTLB has no answer, and a walk for every entry of a table that is looked at.

Spec: RISC-V IOMMU 1.0, Performance-monitoring registers
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields

from mdevemu.iommu.interrupts import InterruptLogic, Source
from mdevemu.iommu.registers import EventSelector, IommuRegisters
from mdevemu.layout.words import put_raw


class Event(enum.IntEnum):
    """eventID.  Spec: RISC-V IOMMU 1.0, Standard Events list"""

    NONE = 0
    UNTRANSLATED_REQUEST = 1
    TRANSLATED_REQUEST = 2
    ATS_REQUEST = 3
    IOTLB_MISS = 4
    DEVICE_DIRECTORY_WALK = 5
    PROCESS_DIRECTORY_WALK = 6
    FIRST_STAGE_WALK = 7
    SECOND_STAGE_WALK = 8


BY_SPACE = frozenset({Event.IOTLB_MISS, Event.FIRST_STAGE_WALK, Event.SECOND_STAGE_WALK})
"""Events that can be filtered by GSCID and PSCID (IDT is 1)."""
CLOCK_BITS = 63


@dataclass(slots=True)
class Tally:
    """What happened inside the IOMMU since it was made; it only ever grows.

    Attributes:
        misses: IOTLB lookups without an answer.
        devices, processes: entries of device and process directories that were read.
        first, second: entries of page tables of either stage.
    """

    misses: int = 0
    devices: int = 0
    processes: int = 0
    first: int = 0
    second: int = 0


_COUNTED_BY = {
    "misses": Event.IOTLB_MISS,
    "devices": Event.DEVICE_DIRECTORY_WALK,
    "processes": Event.PROCESS_DIRECTORY_WALK,
    "first": Event.FIRST_STAGE_WALK,
    "second": Event.SECOND_STAGE_WALK,
}
assert set(_COUNTED_BY) == {field.name for field in fields(Tally)}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom events are counted for; None is an id that the request does not have."""

    device_id: int
    process_id: int | None
    gscid: int | None = None
    pscid: int | None = None


class Monitor:
    """iohpmcycles, iohpmctr, iohpmevt, iocountinh and iocountovf at work.

    A cycle is a nanosecond of ``clock``.  An overflow of the clock is noticed when the
    IOMMU next handles a request that its caches do not answer, or a register access.

    Attributes:
        counting: at least one event counter counts something.
        requests: one of them counts untranslated requests, cached or not.
    """

    def __init__(
        self, regs: IommuRegisters, interrupts: InterruptLogic, clock: Callable[[], int]
    ) -> None:
        self._regs = regs
        self._interrupts = interrupts
        self._clock = clock
        self._present = bool(regs.capabilities.hpm)
        self._at = clock()  # when iohpmcycles had the value that stands there
        self._full = 0  # when iohpmcycles overflows, if nothing changes
        self._counters: dict[int, list[int]] = {}  # by event
        self.counting = False
        self.requests = False
        self.settle()

    def tick(self) -> None:
        """Notice an overflow of the clock."""
        if self._clock() >= self._full:
            self.settle()

    def settle(self) -> None:
        """Bring iohpmcycles and iocountovf up to date."""
        regs = self._regs
        if not self._present:
            return
        now = self._clock()
        if not regs.iocountinh.counters & 1:
            cycles = regs.iohpmcycles.counter + now - self._at
            regs.iohpmcycles.counter = cycles & (1 << CLOCK_BITS) - 1
            if cycles >> CLOCK_BITS and not regs.iohpmcycles.overflow:
                regs.iohpmcycles.overflow = True
                self._interrupts.raise_(Source.COUNTERS)
        self._at = now
        self._full = now + (1 << CLOCK_BITS) - regs.iohpmcycles.counter
        shadow = int(regs.iohpmcycles.overflow)
        for index, selector in enumerate(regs.iohpmevt):
            shadow |= int(selector) >> 63 << index + 1
        put_raw(regs.iocountovf, shadow)

    def configured(self) -> None:
        """Software wrote a selector or the inhibits; the clock was settled before."""
        inhibited = self._regs.iocountinh.counters
        self._counters = {}
        for index, selector in enumerate(self._regs.iohpmevt):
            if selector.event > max(Event):
                selector.event = Event.NONE  # WARL: an event that is not there
            unfiltered = not selector.idt or Event(selector.event) in BY_SPACE
            if selector.event and unfiltered and not inhibited >> index + 1 & 1:
                self._counters.setdefault(selector.event, []).append(index)
        self.counting = bool(self._counters)
        self.requests = Event.UNTRANSLATED_REQUEST in self._counters

    def count(self, event: Event, times: int, subject: Subject) -> None:
        """Add to every counter that counts this event for this subject."""
        for index in self._counters.get(event, ()):
            selector = self._regs.iohpmevt[index]
            if not _matches(selector, subject):
                continue
            counter = self._regs.iohpmctr[index]
            total = counter.counter + times
            counter.counter = total & (1 << 64) - 1
            if total >> 64 and not selector.overflow:
                selector.overflow = True
                self._interrupts.raise_(Source.COUNTERS)

    def add(self, before: Tally, after: Tally, subject: Subject) -> None:
        """Count what a request added to the tally."""
        for name, event in _COUNTED_BY.items():
            times = getattr(after, name) - getattr(before, name)
            if times:
                self.count(event, times, subject)


def _matches(selector: EventSelector, subject: Subject) -> bool:
    """The filters of a selector let a subject through.

    Spec: RISC-V IOMMU 1.0, Performance-monitoring event selectors, filtering options
    """
    if selector.idt:
        device, process = subject.gscid, subject.pscid
    else:
        device, process = subject.device_id, subject.process_id
    if selector.pv_pscv and process != selector.pid_pscid:
        return False
    if not selector.dv_gscv:
        return True
    # DMASK: the lowest zero bit, and the ones below it, can be anything.
    wanted = selector.did_gscid
    ignored = wanted ^ wanted + 1 if selector.dmask else 0
    return device is not None and (device ^ wanted) & ~ignored == 0
