"""The RISC-V IOMMU: a request's ids and Iova become a physical address, or a fault record.

Spec: RISC-V IOMMU 1.0, Process to translate an IOVA
"""

from collections.abc import Callable

from mdevemu.iommu.ats import (
    PAGE_REQUEST,
    Completion,
    Fabric,
    PageRequest,
    Services,
    Silence,
)
from mdevemu.iommu.caches import Line
from mdevemu.iommu.causes import ALWAYS_REPORTED, Cause, Fault, TransactionType
from mdevemu.iommu.commands import CommandQueue
from mdevemu.iommu.contexts import DeviceContext, Directories
from mdevemu.iommu.formats import FaultHeader, FaultRecord
from mdevemu.iommu.interrupts import InterruptLogic, Source
from mdevemu.iommu.queues import RecordQueue
from mdevemu.iommu.registers import (
    Capabilities,
    Interrupts,
    IommuRegisters,
    Mode,
    can_choose_rv32,
)
from mdevemu.iommu.requests import Request
from mdevemu.iommu.translation import EVERYTHING, Translator
from mdevemu.iommu.walk import Step, Walker
from mdevemu.layout import Word, pack
from mdevemu.layout.words import put_raw
from mdevemu.memory import PhysicalMemory
from mdevemu.registers import Bank, Slot
from mdevemu.trace import Trace


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


class Iommu:
    """Registers, caches and queues of one IOMMU.

    Attributes:
        regs: the live registers; software comes through ``read_register`` and
            ``write_register``.
        iotlb, devices, processes: the caches.
        interrupts: where its own interrupts go.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        trace: Trace,
        *,
        capabilities: Capabilities | None = None,
        fabric: Fabric | None = None,
    ) -> None:
        self._memory = memory
        self._trace = trace
        self._bank = Bank(IommuRegisters, self)
        self.regs = regs = self._bank.regs
        can = capabilities or capabilities_of()
        lacking = can.hpm, can.dbg, can.qosid, can.msi_mrif, can.amo_mrif
        assert not any(lacking), "counters, debug requests, QoS ids and MRIFs are not there"
        put_raw(regs.capabilities, int(can))
        if regs.capabilities.igs == Interrupts.WSI:
            regs.fctl.wsi = True
        self._walker = Walker(memory, regs.capabilities)
        directories = Directories(memory, self._walker, regs.capabilities, regs.fctl)
        self._translator = Translator(memory, regs, self._walker, directories)
        self.iotlb = self._translator.iotlb
        self.devices = self._translator.devices
        self.processes = self._translator.processes
        self.interrupts = InterruptLogic(regs, memory)
        self.interrupts.failed = self._message_failed
        self._faults = RecordQueue(
            memory,
            regs.fqb,
            regs.fqh,
            regs.fqt,
            regs.fqcsr,
            32,
            lambda: self.interrupts.raise_(Source.FAULT_QUEUE),
        )
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
        )
        self._services = Services(
            self._translator,
            self._page_requests,
            fabric or Silence(),
            self.report,
            self._message_fault,
        )
        self._absent = _absent(regs.capabilities)
        self._before: dict[str, int] = {}
        self._written: dict[str, Callable[[], None]] = {
            "cqcsr": lambda: self._commands.controlled(self._before["cqcsr"]),
            "cqt": self._commands.moved,
            "fqcsr": lambda: self._faults.controlled(self._before["fqcsr"]),
            "fqh": self._faults.moved,
            "pqcsr": lambda: self._page_requests.controlled(self._before["pqcsr"]),
            "pqh": self._page_requests.moved,
            "ddtp": self._mode_written,
            "fctl": self._features_written,
            "ipsr": self._interrupts_cleared,
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
            "ipsr": int(regs.ipsr),
            "ddtp": int(regs.ddtp),
            "fctl": int(regs.fctl),
        }
        self._bank.write(offset, data)

    def reading(self, slot: Slot) -> None:
        """No register changes when it is read."""

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
        self._translator.live = ddtp.iommu_mode > Mode.BARE

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

    def _interrupts_cleared(self) -> None:
        self.interrupts.cleared(self._before["ipsr"])
        self._commands.remind()
        self._faults.remind()
        self._page_requests.remind()

    # What devices ask.

    def line(self, device_id: int, process_id: int, iova: int, access: int) -> Line:
        """Translate an untranslated user request with a process id: the path of every DMA.

        Raises:
            Fault: it was reported.
        """
        found = self._translator.hit(device_id, process_id, iova, access)
        if found is not None:
            return found
        return self.translate(Request(device_id, process_id, iova, access))

    def translate(self, request: Request) -> Line:
        """Translate any access; the line that comes back holds at least ``request.iova``.

        Raises:
            Fault: it was reported, unless the device's context says not to (DTF).
        """
        context: DeviceContext | None = None
        try:
            context = self._translator.device(request.device_id)
            return self._translator.resolve(request, context)
        except Fault as fault:
            self.report(request, fault, context)
            raise

    def explain(self, request: Request) -> tuple[list[Step], Line | None, Fault | None]:
        """Walk as a request would, from memory alone: nothing is cached, changed or reported."""
        steps: list[Step] = []
        try:
            context = self._translator.device(request.device_id, steps)
            return steps, self._translator.resolve(request, context, steps), None
        except Fault as fault:
            return steps, None, fault

    def ask(self, request: Request) -> Completion:
        """Answer a PCIe ATS Translation Request."""
        return self._services.translate(request)

    def page_request(self, message: PageRequest) -> None:
        """Take a "Page Request" message; a response goes out by the fabric."""
        self._services.page_request(message)

    def invalidated(self, *, timeout: bool = False) -> None:
        """A device completed an ATS invalidation, or did not in time."""
        self._commands.answered(timeout=timeout)

    # Faults.

    def report(self, request: Request, fault: Fault, context: DeviceContext | None = None) -> None:
        """Write the fault record of a request, unless its context does not want it (DTF)."""
        if context is None or not context.dtf or fault.cause in ALWAYS_REPORTED:
            self._record(
                fault.cause,
                request.kind,
                request.device_id,
                request.process_id,
                request.privileged,
                request.iova & EVERYTHING - 1,
                fault.iotval2,
            )

    def _message_fault(
        self, message: PageRequest, fault: Fault, context: DeviceContext | None
    ) -> None:
        if context is None or not context.dtf or fault.cause in ALWAYS_REPORTED:
            self._record(
                fault.cause,
                TransactionType.PCIE_MESSAGE_REQUEST,
                message.device_id,
                message.pasid,
                message.privileged and message.pasid is not None,
                PAGE_REQUEST,
                0,
            )

    def _message_failed(self, address: int) -> None:
        self._record(
            Cause.IOMMU_MSI_WRITE_ACCESS_FAULT, TransactionType.NONE, 0, None, False, address, 0
        )

    def _record(
        self,
        cause: Cause,
        kind: TransactionType,
        device_id: int,
        process_id: int | None,
        supervisor: bool,
        iotval: int,
        iotval2: int,
    ) -> None:
        header = FaultHeader()
        header.cause = cause
        header.ttyp = kind
        header.did = device_id
        header.pv = process_id is not None
        header.pid = process_id or 0
        header.priv = supervisor
        record = pack(FaultRecord(header=int(header), custom=0, iotval=iotval, iotval2=iotval2))
        if self.regs.fctl.be:
            record = b"".join(record[n : n + 8][::-1] for n in range(0, 32, 8))
        kept = self._faults.push(record)
        self._trace.emit(
            "iommu.fault",
            device_id=device_id,
            pasid=process_id,
            cause=int(cause),
            cause_name=cause.title,
            ttyp=int(kind),
            iova=iotval,
            recorded=kept,
        )


def _absent(can: Capabilities) -> frozenset[str]:
    """Registers that are not there, and read zero.

    Spec: RISC-V IOMMU 1.0, Register layout
    """
    absent = {"iocountovf", "iocountinh", "iohpmcycles", "iohpmctr", "iohpmevt"}
    absent |= {"tr_req_iova", "tr_req_ctl", "tr_response", "iommu_qosid"}
    if not can.ats:
        absent |= {"pqb", "pqh", "pqt", "pqcsr"}
    if can.igs == Interrupts.WSI:
        absent |= {"msi_addr", "msi_data", "msi_vec_ctl"}
    return frozenset(absent)
