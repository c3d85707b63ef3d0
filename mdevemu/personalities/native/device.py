"""The native device as a whole: registers, doorbells, counters, faults."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial

from mdevemu.accel import Identity, Interface, Personality
from mdevemu.accel.hbm import MMU_AT, MMU_END, HbmUse
from mdevemu.accel.operations import Command, Entry, Operation, Status
from mdevemu.accel.operations.cipher import MAX_AAD, TAG_BYTES, AesGcm
from mdevemu.accel.operations.digest import SHA256_BYTES
from mdevemu.accel.saving import Saved
from mdevemu.accel.scheduler import Lane
from mdevemu.accel.sharing import Sharing
from mdevemu.errors import DmaFault, GuestFault
from mdevemu.iommu.port import Port
from mdevemu.layout import Struct, Word
from mdevemu.pci.config import Bar, Doorbell
from mdevemu.personalities.native.buffers import Buffers
from mdevemu.personalities.native.chain import MAX_STAGES, NO_STAGE
from mdevemu.personalities.native.decode import HbmFault, decode
from mdevemu.personalities.native.layout import (
    MAGIC,
    MAX_QUEUES,
    Completion,
    Control,
    CqHead,
    Descriptor,
    DeviceState,
    DoorbellRegs,
    FaultCode,
    Flag,
    HbmCommand,
    HbmOperation,
    HbmStatusCode,
    Invalidate,
    InvalidateKind,
    NativeRegs,
    PageRequest,
    PageRequestControl,
    PageResponse,
    PasidMode,
    PasidTable,
    QueueControl,
    QueueState,
    Shadow,
    SqTail,
)
from mdevemu.personalities.native.memory import CountedMemory, Counters
from mdevemu.personalities.native.paging import Paging
from mdevemu.personalities.native.queue import Queue, QueueFault, setup_of
from mdevemu.personalities.native.state import load, save
from mdevemu.registers import Bank, Slot, size_of

REGISTERS_BAR, DOORBELLS_BAR, HBM_BAR = 0, 2, 4
FAULT_VECTOR = EVENT_VECTOR = 0

PAGE_REQUEST_RING = 0xFFFF
"""What a fault record has for a queue number if the page-request ring is meant."""


class Native(Personality[NativeRegs]):
    """Executes descriptors from up to 16 queues."""

    identity = Identity(vendor=0x1234, device=0xACC1, class_code=0x120000)
    movable = True
    registers = NativeRegs
    interface = Interface(
        maps={REGISTERS_BAR: NativeRegs, DOORBELLS_BAR: DoorbellRegs},
        structs=(Descriptor, Completion, Shadow, AesGcm, PageRequest),
        codes=(
            DeviceState,
            QueueState,
            Operation,
            Status,
            FaultCode,
            Flag,
            PasidMode,
            InvalidateKind,
            HbmOperation,
            HbmStatusCode,
        ),
        numbers={
            "REGISTERS_BAR": REGISTERS_BAR,
            "DOORBELLS_BAR": DOORBELLS_BAR,
            "HBM_BAR": HBM_BAR,
            "MMU_AT": MMU_AT,
            "MMU_END": MMU_END,
            "MAGIC_VALUE": MAGIC,
            "FAULT_VECTOR": FAULT_VECTOR,
            "EVENT_VECTOR": EVENT_VECTOR,
            "AAD_LIMIT": MAX_AAD,
            "TAG_BYTES": TAG_BYTES,
            "DIGEST_BYTES": SHA256_BYTES,
            "MAX_STAGES": MAX_STAGES,
            "NO_STAGE": NO_STAGE,
        },
        operations=Operation,
        statuses=Status,
        faults=FaultCode,
    )

    def start(self) -> None:
        self.counters = Counters()
        self.busy_before = self.slice.flow.busy_ns
        self.queues: dict[int, Queue] = {}
        self.paging = Paging(self)
        self.lanes = [self.lane() for _ in range(self.queue_count)]
        self._doorbells.reset()
        self.buffers = Buffers(self)  # behind the queues, whose lanes have their numbers
        self._introduce()
        self._use_directory(PasidMode.OFF, 0)

    @cached_property
    def _doorbells(self) -> Bank[DoorbellRegs]:
        """What was written to doorbells; one bank for good, for neighbours wait for a reset."""
        bank = Bank(DoorbellRegs, _Doorbells(self))
        bank.missed = partial(self.accesses.missed, DOORBELLS_BAR)
        return bank

    def _introduce(self) -> None:
        """Say in the registers what this slice has."""
        regs = self.regs
        regs.capabilities.queues = self.queue_count
        regs.capabilities.vectors = self.vectors
        regs.capabilities.hbm = regs.capabilities.hbm_buffers = self.hbm_size > 0
        self._show_functions()
        regs.hbm_size.bytes = self.hbm_size
        if self.pasid_bits is not None:
            regs.pasid_capabilities.bits = self.pasid_bits
            regs.pasid_capabilities.page_requests = True

    def _show_functions(self) -> None:
        regs, engines = self.regs, self.slice.engines
        codes = engines.operations | {Operation.CHAIN}
        regs.operations.available = sum(1 << code for code in codes)
        regs.function_set.version = engines.version & 0xFFFF_FFFF

    def functions_changed(self) -> None:
        self._show_functions()
        self.regs.event_status.functions_changed = True
        if not self.rest.holders:
            self.raise_vector(EVENT_VECTOR)

    @property
    def queue_count(self) -> int:
        """Queues that this slice may use."""
        return min(self.slice.queues, MAX_QUEUES)

    @property
    def vectors(self) -> int:
        return 1 + self.queue_count

    @cached_property
    def hbm_size(self) -> int:
        """Bytes of HBM in this slice."""
        return self.slice.hbm.size if self.slice.hbm else 0

    @property
    def pasid_bits(self) -> int | None:
        """Width of the guest's PASIDs, None if it has none."""
        return self.slice.pasids.bits if self.slice.pasids else None

    @property
    def bars(self) -> Sequence[Bar]:
        registers = Bar(REGISTERS_BAR, size_of(NativeRegs))
        doorbells = Bar(DOORBELLS_BAR, size_of(DoorbellRegs), wide=True)
        if not self.slice.hbm:
            return registers, doorbells
        aperture = Bar(
            HBM_BAR,
            1 << (self.hbm_size - 1).bit_length(),
            wide=True,
            prefetchable=True,
            memory=self.slice.hbm.file,
            memory_size=self.hbm_size,
        )
        return registers, doorbells, aperture

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        return (Doorbell(DOORBELLS_BAR, 0, size_of(DoorbellRegs)),)

    def counts(self) -> Mapping[str, int]:
        return {name.replace("_", "-"): count for name, count in asdict(self.counters).items()}

    # Registers.

    def read(self, bar: int, offset: int, length: int) -> bytes:
        if bar == REGISTERS_BAR:
            return self._bank.read(offset, length)
        if bar == HBM_BAR and self.slice.hbm:
            held = max(0, min(length, self.hbm_size - offset))
            data = self.slice.hbm.backing.read(offset, held) if held else b""
            return data.ljust(length, b"\0")
        if bar == DOORBELLS_BAR:
            return self._doorbells.read(offset, length)
        return bytes(length)

    def write(self, bar: int, offset: int, data: bytes) -> None:
        if bar == REGISTERS_BAR:
            self._bank.write(offset, data)
        elif bar == HBM_BAR and self.slice.hbm:
            if held := data[: max(0, self.hbm_size - offset)]:
                self.slice.hbm.backing.write(offset, held)
        elif bar == DOORBELLS_BAR:
            self._doorbells.write(offset, data)

    @NativeRegs.control.written
    def _switch(self, control: Control) -> None:
        if control.reset:
            self.reset()
        elif control.enable:
            self.regs.status.state = DeviceState.READY
        else:
            self.regs.status.state = DeviceState.DISABLED
            for number in range(self.queue_count):
                self.regs.queue_control[number].enable = False
                self._disable(number)

    @NativeRegs.queue_control.written
    def _switch_queue(self, number: int, control: QueueControl) -> None:
        if not control.enable:
            self._disable(number)
        elif number not in self.queues:
            ready = self.regs.status.state is DeviceState.READY and number < self.queue_count
            if not ready:
                control.enable = False
                raise QueueFault(FaultCode.QUEUE_CONFIG, number, int(control), 0)
            self.queues[number] = Queue(self, number, setup_of(self.regs, number))
            self.queues[number].show()

    def _disable(self, number: int) -> None:
        """Switch a queue off; one that failed is then as good as new."""
        if queue := self.queues.pop(number, None):
            queue.stop()
        status = self.regs.queue_status[number]
        status.state, status.fault = QueueState.DISABLED, FaultCode.NONE

    def rang(self, slot: Slot, word: Word) -> None:
        """The driver wrote a doorbell; a GuestFault ends here."""
        self.counters.doorbells += 1
        queue = self.queues.get(slot.index)
        try:
            if queue is None:
                raise QueueFault(FaultCode.QUEUE_DISABLED, slot.index, int(word), 0)
            if isinstance(word, SqTail):
                queue.announce(word.index)
            elif isinstance(word, CqHead):
                queue.take(word.index)
        except GuestFault as fault:
            self._failed(fault)

    @NativeRegs.completed.reading
    @NativeRegs.failed.reading
    @NativeRegs.bytes_read.reading
    @NativeRegs.bytes_written.reading
    @NativeRegs.interrupts.reading
    @NativeRegs.doorbells.reading
    @NativeRegs.faults.reading
    @NativeRegs.busy_ns.reading
    @NativeRegs.hbm_bytes.reading
    @NativeRegs.weight.reading
    @NativeRegs.hbm_used.reading
    @NativeRegs.hbm_high_water.reading
    @NativeRegs.hbm_scrubbing.reading
    @NativeRegs.hbm_imported.reading
    def refresh(self) -> None:
        """Bring the monitoring page up to date."""
        regs, counters, flow = self.regs, self.counters, self.slice.flow
        regs.completed.value = counters.completed
        regs.failed.value = counters.failed
        regs.bytes_read.value = counters.bytes_read
        regs.bytes_written.value = counters.bytes_written
        regs.interrupts.value = counters.interrupts
        regs.doorbells.value = counters.doorbells
        regs.faults.value = counters.faults
        regs.busy_ns.value = flow.busy_ns - self.busy_before
        regs.hbm_bytes.value = self.hbm_size
        regs.weight.value = flow.weight
        use = self.hbm_use
        regs.hbm_used.value = use.used
        regs.hbm_high_water.value = use.high_water
        regs.hbm_scrubbing.value = use.scrubbing
        regs.hbm_imported.value = use.imported

    # Buffers.

    @property
    def sharing(self) -> Sharing:
        """What this slice shares with others."""
        return self.slice.sharing

    @property
    def hbm_use(self) -> HbmUse:
        buffers = self.buffers
        imported = self.sharing.imported_bytes
        return HbmUse(buffers.used, buffers.high_water, buffers.scrubber.left, imported)

    @NativeRegs.hbm_command.written
    def _about_buffers(self, command: HbmCommand) -> None:
        self.buffers.execute(command)

    def reset(self) -> None:
        self.sharing.reset()
        self.slice.mmu.clear()
        dirty = self.buffers.dirty
        super().reset()
        self.buffers.scrub(dirty)

    # Commands.

    def memory(self, port: Port, lane: Lane) -> CountedMemory:
        """What a command of a lane works on; its operands are addresses of ``port``."""
        return CountedMemory(port, self.port, self.slice.hbm_at, self.counters, lane)

    def decode(self, descriptor: Descriptor) -> tuple[Entry, Command]:
        """What a descriptor asks for.

        Raises:
            CommandFault: with the status that the completion shall have.
        """
        return decode(descriptor, self.hbm_size, self.check_hbm)

    def check_hbm(self, address: int, count: int) -> None:
        """See that bytes are in the slice's aperture, or mapped by its MMU.

        Raises:
            HbmFault: they are not.
        """
        if address + count <= self.hbm_size:
            return
        if not MMU_AT <= address < MMU_END:
            raise HbmFault(Status.HBM_RANGE, address, count)
        missing = self.slice.mmu.missing(address, count)
        if missing is not None:
            raise HbmFault(Status.HBM_UNMAPPED, missing, count)

    def operand_fault(self, fault: DmaFault) -> tuple[Status, int]:
        """What to say of a fault under way: the address as the descriptor named it."""
        status = Status.WRITE_FAULT if fault.write else Status.READ_FAULT
        offset = fault.address - self.slice.hbm_at
        if 0 <= offset < self.hbm_size:
            return status, offset
        if MMU_AT <= offset < MMU_END:
            mapped = self.slice.mmu.missing(offset, 1) is None
            return status if mapped else Status.HBM_UNMAPPED, offset
        return status, fault.address

    # PASIDs of the guest.

    def _use_directory(self, mode: PasidMode, base: int) -> None:
        if self.slice.pasids:
            self.slice.pasids.set_directory(mode, base)

    @NativeRegs.pasid_table.written
    def _point(self, table: PasidTable) -> None:
        self._use_directory(table.mode, table.page << 12)

    @NativeRegs.invalidate.written
    def _invalidate(self, wanted: Invalidate) -> None:
        pasids = self.slice.pasids
        if pasids is None:
            return
        which = None if wanted.all else wanted.id
        match wanted.kind:
            case InvalidateKind.CONTEXT:
                pasids.invalidate_process(wanted.id)
            case InvalidateKind.SPACE:
                pasids.invalidate_pages(which, None)
            case InvalidateKind.PAGE:
                pasids.invalidate_pages(which, self.regs.invalidate_address.address)
            case InvalidateKind.NOTHING:
                pass

    @NativeRegs.page_request_control.written
    def _switch_page_requests(self, control: PageRequestControl) -> None:
        if not self.paging.switch():
            control.enable = False
            raise QueueFault(FaultCode.QUEUE_CONFIG, PAGE_REQUEST_RING, int(control), 0)

    @NativeRegs.page_response.written
    def _respond(self, response: PageResponse) -> None:
        if self.slice.pasids:
            self.slice.pasids.respond(response.pasid, response.group, response.code)

    def page_wanted(self, pasid: int, iova: int, group: int, *, write: bool) -> None:
        self.paging.wanted(pasid, iova, group, write=write)

    def answered(self, group: int, code: int) -> None:
        self.paging.answered(group, code)

    # A move to another device.

    def save(self) -> Iterable[Struct]:
        return save(self)

    def load(self, saved: Saved) -> None:
        regs, before = self.regs, self.regs.function_set.version
        theirs = regs.operations.available
        self._introduce()
        if theirs != regs.operations.available or before != regs.function_set.version:
            regs.event_status.functions_changed = True
        load(self, saved)
        self._point(self.regs.pasid_table)

    def resume(self) -> None:
        if self.regs.event_status.functions_changed:
            self.raise_vector(EVENT_VECTOR)
        for queue in self.queues.values():
            queue.resume()
        self.buffers.scrubber.resume()

    # Interrupts and faults.

    def raise_vector(self, vector: int) -> None:
        """Interrupt the driver."""
        self.counters.interrupts += 1
        self.interrupt(vector)

    def pend(self, vector: int) -> None:
        self.regs.interrupt_status.vectors |= 1 << vector

    @property
    def pending_intx(self) -> bool:
        return int(self._bank.regs.interrupt_status) != 0

    def fault(self, fault: GuestFault) -> None:
        assert isinstance(fault, QueueFault), f"unexpected {fault!r}"
        self.counters.faults += 1
        regs, code = self.regs, FaultCode(fault.code)
        if code in (FaultCode.RING_READ, FaultCode.COMPLETION_WRITE, FaultCode.SHADOW_ACCESS):
            self._fail(fault.queue, code)
        elif code is FaultCode.QUEUE_CONFIG and fault.queue < MAX_QUEUES:
            regs.queue_control[fault.queue].enable = False
        if regs.fault_status.valid:
            regs.fault_status.overflow = True
        else:
            regs.fault_status.valid = True
            regs.fault_status.code = code
            regs.fault_status.queue = fault.queue
            regs.fault_cause.cause = fault.cause
            regs.fault_address.address = fault.address
            regs.fault_index.index = fault.index
        self.raise_vector(FAULT_VECTOR)

    def _fail(self, number: int, code: FaultCode) -> None:
        """A queue cannot go on until it is switched off and on again."""
        if queue := self.queues.pop(number, None):
            queue.stop(code)
        self.regs.queue_control[number].enable = False


class _Doorbells:
    """Hooks of the doorbell pages."""

    def __init__(self, device: Native) -> None:
        self._device = device

    def reading(self, slot: Slot) -> None:
        """Doorbells cannot be read."""

    def written(self, slot: Slot, word: Word) -> None:
        """A doorbell rang."""
        self._device.rang(slot, word)
