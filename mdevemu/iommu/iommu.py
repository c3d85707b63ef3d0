"""The RISC-V IOMMU: a request's ids and Iova become a physical address, or a fault record.

Spec: RISC-V IOMMU 1.0, Process to translate an IOVA
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from mdevemu.iommu.ats import Completion, Fabric, PageRequest, Services, Silence
from mdevemu.iommu.caches import CacheSizes, Line
from mdevemu.iommu.causes import Fault
from mdevemu.iommu.commands import CommandQueue
from mdevemu.iommu.contexts import DeviceContext, Directories
from mdevemu.iommu.debug import DebugRequests
from mdevemu.iommu.interrupts import InterruptLogic, Source
from mdevemu.iommu.monitoring import Event, Monitor
from mdevemu.iommu.observing import Observer
from mdevemu.iommu.queues import RecordQueue
from mdevemu.iommu.registers import (
    Capabilities,
    Interrupts,
    IommuRegisters,
    Mode,
    can_choose_rv32,
)
from mdevemu.iommu.reports import Reporter
from mdevemu.iommu.requesters import Requester
from mdevemu.iommu.requests import Request
from mdevemu.iommu.translation import Translator
from mdevemu.iommu.walk import Step, Walker
from mdevemu.layout import Word
from mdevemu.layout.words import put_raw
from mdevemu.memory import PhysicalMemory
from mdevemu.registers import Bank, Slot
from mdevemu.trace import Trace

T = TypeVar("T")
_SETTLED = frozenset({"iohpmcycles", "iocountovf"})
_MONITOR_END = IommuRegisters.tr_req_iova.offset


def capabilities_of(**fields: int) -> Capabilities:
    """A capabilities register: everything that this IOMMU implements, changed by ``fields``."""
    has = {
        "version": 0x10,
        "sv39": 1,
        "sv48": 1,
        "sv57": 1,
        "svrsw60t59b": 1,
        "svpbmt": 1,
        "sv39x4": 1,
        "sv48x4": 1,
        "sv57x4": 1,
        "msi_flat": 1,
        "amo_hwad": 1,
        "ats": 1,
        "t2gpa": 1,
        "igs": Interrupts.BOTH,
        "hpm": 1,
        "dbg": 1,
        "pas": 56,
        "pd8": 1,
        "pd17": 1,
        "pd20": 1,
        "nl": 1,
        "s": 1,
    }
    word = Capabilities()
    for name, value in {**has, **fields}.items():
        setattr(word, name, value)
    return word


WARM = 1024
"""How many requesters may have a cache of their own with something in it."""


class Iommu:
    """Registers, caches and queues of one IOMMU.

    Attributes:
        regs: the live registers; software comes through ``read_register`` and
            ``write_register``.
        iotlb, devices, processes: the caches.
        interrupts: where its own interrupts go.
        monitor: the performance monitor.
        report: writes the fault record of a request (request, fault[, device context]).
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        trace: Trace,
        *,
        capabilities: Capabilities | None = None,
        fabric: Fabric | None = None,
        sizes: CacheSizes = CacheSizes(),  # noqa: B008, it is frozen
    ) -> None:
        self._bank = Bank(IommuRegisters, self)
        self.regs = regs = self._bank.regs
        can = capabilities or capabilities_of()
        lacking = can.qosid, can.msi_mrif, can.amo_mrif
        assert not any(lacking), "QoS ids and MRIFs are not there"
        put_raw(regs.capabilities, int(can))
        if regs.capabilities.igs == Interrupts.WSI:
            regs.fctl.wsi = True
        self._walker = Walker(memory, regs.capabilities)
        directories = Directories(memory, self._walker, regs.capabilities, regs.fctl)
        self._translator = Translator(memory, regs, self._walker, directories, sizes)
        self.iotlb = self._translator.iotlb
        self.devices = self._translator.devices
        self.processes = self._translator.processes
        self.interrupts = InterruptLogic(regs, memory)
        self.monitor = Monitor(regs, self.interrupts, trace.clock)
        self._observer = Observer(trace, self._walker.tally)
        trace.on_switch(self._switched)
        self._sizes = sizes
        self._requesters = WeakValueDictionary[tuple[int, int | None], Requester]()
        self._warm: set[Requester] = set()  # those that keep something
        self._faults = RecordQueue(
            memory,
            regs.fqb,
            regs.fqh,
            regs.fqt,
            regs.fqcsr,
            32,
            lambda: self.interrupts.raise_(Source.FAULT_QUEUE),
        )
        reporter = Reporter(self._faults, regs.fctl, trace)
        self.report = reporter.request
        self.interrupts.failed = reporter.interrupt
        self._page_requests = RecordQueue(
            memory,
            regs.pqb,
            regs.pqh,
            regs.pqt,
            regs.pqcsr,
            16,
            lambda: self.interrupts.raise_(Source.PAGE_REQUEST_QUEUE),
        )
        self._commands = CommandQueue(
            memory,
            regs,
            directories,
            self.devices,
            self.processes,
            self.iotlb,
            self.interrupts,
            fabric or Silence(),
            self._forget,
            self._observer,
        )
        self._services = Services(
            self._translator,
            self._page_requests,
            fabric or Silence(),
            reporter.request,
            reporter.message,
        )
        self._debug = DebugRequests(regs, self.translate, reporter.request)
        self._absent = _absent(regs.capabilities)
        self._watched = False
        self._switched()
        self._before: dict[str, int] = {}
        self._written: dict[str, Callable[[], None]] = {
            "cqcsr": lambda: self._commands.controlled(self._before["cqcsr"]),
            "cqb": self._commands.moved,
            "cqt": self._commands.moved,
            "fqcsr": lambda: self._faults.controlled(self._before["fqcsr"]),
            "fqb": self._faults.moved,
            "fqh": self._faults.moved,
            "pqcsr": lambda: self._page_requests.controlled(self._before["pqcsr"]),
            "pqb": self._page_requests.moved,
            "pqh": self._page_requests.moved,
            "ddtp": self._mode_written,
            "fctl": self._features_written,
            "ipsr": self._interrupts_cleared,
            "icvec": self.interrupts.drive,
            "iocountinh": self._monitored,
            "iohpmcycles": self.monitor.settle,
            "iohpmevt": self._monitored,
            "tr_req_ctl": self._debug.controlled,
        }

    # The registers, as the host's software reaches them.

    def read_register(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes of the register page."""
        return self._bank.read(offset, length)

    def write_register(self, offset: int, data: bytes) -> None:
        """Write the register page; what the write asks for has happened on return."""
        regs = self.regs
        self._before = {
            "cqcsr": int(regs.cqcsr),
            "fqcsr": int(regs.fqcsr),
            "pqcsr": int(regs.pqcsr),
            "ddtp": int(regs.ddtp),
            "fctl": int(regs.fctl),
        }
        if offset < _MONITOR_END and offset + len(data) > IommuRegisters.iocountovf.offset:
            self.monitor.settle()
        self._bank.write(offset, data)

    def reading(self, slot: Slot) -> None:
        """The clock goes on by itself, and has flags of others beside it."""
        if slot.name in _SETTLED:
            self.monitor.settle()

    def written(self, slot: Slot, word: Word) -> None:
        """Do what a register write asks for."""
        if slot.name in self._absent:
            put_raw(word, 0)
        elif slot.name == "msi_vec_ctl":
            self.interrupts.unmasked(slot.index)
        elif slot.name in self._written:
            self._written[slot.name]()

    def _mode_written(self) -> None:
        ddtp = self.regs.ddtp
        if ddtp.iommu_mode > Mode.THREE_LEVELS:
            # WARL: a mode that is not there leaves the old one.
            ddtp.iommu_mode = self._before["ddtp"] & 0xF
        self._monitored()

    def _monitored(self) -> None:
        """What the hit path may do has changed: start it afresh."""
        self.monitor.configured()
        self._settle()

    def _switched(self) -> None:
        """Somebody wants to watch, or does not any more."""
        self._observer.switched()
        self._watched = self._observer.walks or self._observer.hits
        self._settle()

    def _settle(self) -> None:
        """Whether the hit path may answer, or somebody wants to see each request."""
        live = self.regs.ddtp.iommu_mode > Mode.BARE
        self._translator.live = live and not (self.monitor.requests or self._observer.hits)
        self._forget()

    def _forget(self) -> None:
        """Empty the requesters' own caches."""
        for requester in self._warm:
            requester.forget()
        self._warm.clear()

    def _features_written(self) -> None:
        can, fctl = self.regs.capabilities, self.regs.fctl
        before = self._before["fctl"]
        if not can.end:
            fctl.be = bool(before & 1)
        if can.igs != Interrupts.BOTH:
            fctl.wsi = bool(before & 2)
        if not can_choose_rv32(can):
            fctl.gxl = bool(before & 4)
        self._walker.big = fctl.be
        self.interrupts.drive()
        self._forget()

    def _interrupts_cleared(self) -> None:
        self.interrupts.drive()
        self._commands.remind()
        self._faults.remind()
        self._page_requests.remind()

    # What devices ask.

    def requester(self, device_id: int, process_id: int | None) -> Requester:
        """Whoever asks with these ids; the same object for as long as somebody holds it."""
        name = device_id, process_id
        found = self._requesters.get(name)
        if found is None:
            found = Requester(self, device_id, process_id, self._sizes.pages)
            self._requesters[name] = found
        return found

    def keeps(self, requester: Requester) -> bool:
        """A requester may keep what it was just told; it is made to forget it in time."""
        if self._translator.live:
            if len(self._warm) >= WARM:
                self._forget()
            self._warm.add(requester)
        return self._translator.live

    def line(self, device_id: int, process_id: int | None, iova: int, access: int) -> Line:
        """Translate an untranslated request for user memory: the path of every DMA.

        Raises:
            Fault: it was reported.
        """
        if process_id is None:
            return self.translate(Request(device_id, None, iova, access))
        found = self._translator.hit(device_id, process_id, iova, access)
        if found is not None:
            return found
        return self.translate(Request(device_id, process_id, iova, access))

    def translate(self, request: Request) -> Line:
        """Translate any access; the line that comes back holds at least ``request.iova``.

        Raises:
            Fault: it was reported, unless the device's context says not to (DTF).
        """
        if self._watched:
            return self._observer.request(request, lambda: self._answer(request))
        return self._answer(request)

    def _answer(self, request: Request) -> Line:
        if self.monitor.counting:
            event = Event.TRANSLATED_REQUEST if request.translated else Event.UNTRANSLATED_REQUEST
            return self._counted(event, request, lambda: self._translate(request))
        self.monitor.tick()
        return self._translate(request)

    def _translate(self, request: Request) -> Line:
        context: DeviceContext | None = None
        try:
            context = self._translator.device(request.device_id)
            return self._translator.resolve(request, context)
        except Fault as fault:
            self.report(request, fault, context)
            raise

    def _counted(self, event: Event, request: Request, answer: Callable[[], T]) -> T:
        """Answer a request and count what that took."""
        self.monitor.settle()
        before = dataclasses.replace(self._walker.tally)
        self._translator.found = None
        try:
            return answer()
        finally:
            subject = self._translator.subject(request)
            self.monitor.count(event, 1, subject)
            self.monitor.add(before, self._walker.tally, subject)

    def cached(self, request: Request) -> Line | None:
        """What the caches alone would answer an untranslated access; None if it would walk."""
        return self._translator.cached(request)

    def explain(self, request: Request) -> tuple[list[Step], Line | None, Fault | None]:
        """Walk as a request would, from memory alone: nothing is cached, changed or reported."""
        steps: list[Step] = []
        try:
            context = self._translator.device(request.device_id, steps)
            return steps, self._translator.resolve(request, context, steps), None
        except Fault as fault:
            return steps, None, fault

    def outdated(self, request: Request) -> list[str]:
        """The directory caches, DDT and PDT, whose context for a request memory has no longer."""
        return self._translator.outdated(request)

    def ask(self, request: Request) -> Completion:
        """Answer a PCIe ATS Translation Request."""
        if self._watched:
            return self._observer.request(request, lambda: self._ask(request))
        return self._ask(request)

    def _ask(self, request: Request) -> Completion:
        if self.monitor.counting:
            return self._counted(
                Event.ATS_REQUEST, request, lambda: self._services.translate(request)
            )
        return self._services.translate(request)

    def page_request(self, message: PageRequest) -> None:
        """Take a "Page Request" message; a response goes out by the fabric."""
        self._services.page_request(message)

    def invalidated(self, *, timeout: bool = False) -> None:
        """A device completed an ATS invalidation, or did not in time."""
        self._commands.answered(timeout=timeout)


def _absent(can: Capabilities) -> frozenset[str]:
    """Registers that are not there, and read zero.

    Spec: RISC-V IOMMU 1.0, Register layout
    """
    absent = {"iommu_qosid"}
    if not can.hpm:
        absent |= {"iocountovf", "iocountinh", "iohpmcycles", "iohpmctr", "iohpmevt"}
    if not can.dbg:
        absent |= {"tr_req_iova", "tr_req_ctl", "tr_response"}
    if not can.ats:
        absent |= {"pqb", "pqh", "pqt", "pqcsr"}
    if can.igs == Interrupts.WSI:
        absent |= {"msi_addr", "msi_data", "msi_vec_ctl"}
    return frozenset(absent)
