"""One queue of the native device: from a doorbell to completions."""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mdevemu.accel import CompletionRing, Popped, Reach, Ring, Work
from mdevemu.accel.admission import enter, leave
from mdevemu.accel.operations import Command, Entry, Operation, Pieces, Status
from mdevemu.accel.ring import INDEX_MASK
from mdevemu.errors import CommandFault, DmaFault
from mdevemu.iommu.port import Port
from mdevemu.layout import Struct, members_of, sizeof, u32, u64, unpack
from mdevemu.personalities.native.chain import NO_STAGE, Chain
from mdevemu.personalities.native.decode import HbmFault, named_pasid, operands, pasid_of
from mdevemu.personalities.native.layout import (
    LOG2_MAX_ENTRIES,
    Completion,
    Descriptor,
    FaultCode,
    Flag,
    NativeRegs,
    QueueControl,
    QueuePasid,
    QueueState,
    Shadow,
)
from mdevemu.personalities.native.memory import CountedMemory
from mdevemu.units import KIB, Iova

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native

COMMAND_COST = 96 * KIB
"""Copy-bytes that fetching and completing one command costs: what a copy moves in that time."""

SHADOW = {name: offset for name, offset, _ in members_of(Shadow)}


class QueueFault(CommandFault):
    """A queue cannot go on, or a doorbell is refused.

    Attributes:
        queue: its number.
        address: Iova or doorbell value at fault.
        index: index of the descriptor at hand.
        cause: the IOMMU's, 0 if it had no part in this.
    """

    def __init__(
        self, code: FaultCode, queue: int, address: int, index: int, cause: int = 0
    ) -> None:
        super().__init__(code, f"queue {queue}: {code.name} at {address:#x}")
        self.queue = queue
        self.address = address
        self.index = index
        self.cause = cause


class QueueSetup(Struct):
    """A queue's registers as they were when the driver switched it on, words as numbers."""

    sq_base: u64
    cq_base: u64
    shadow: u64
    log2_entries: u32
    control: u32
    pasid: u32


class QueuePlace(Struct):
    """Where the rings of a queue stand: indices of the next command and record, and the others'."""

    sq_head: u32
    sq_tail: u32
    cq_head: u32
    cq_tail: u32


def setup_of(regs: NativeRegs, number: int) -> QueueSetup:
    """What the registers of a queue say now."""
    return QueueSetup(
        sq_base=regs.queue_sq_base[number].iova,
        cq_base=regs.queue_cq_base[number].iova,
        shadow=regs.queue_shadow[number].iova,
        log2_entries=regs.queue_size[number].log2_entries,
        control=int(regs.queue_control[number]),
        pasid=int(regs.queue_pasid[number]),
    )


def _nothing() -> bool:
    """No command is under way: work can be closed anywhere."""
    return True


class Queue:
    """An enabled queue.  It takes commands in order, one at a time.

    Attributes:
        setup: what it was enabled with.
    """

    def __init__(self, device: "Native", number: int, setup: QueueSetup) -> None:
        """Set up rings; the driver is shown nothing yet.

        Raises:
            QueueFault: QUEUE_CONFIG; nothing was set up.
        """
        log2, control = setup.log2_entries, QueueControl(setup.control)
        bases = setup.sq_base, setup.cq_base, setup.shadow
        self._device = device
        self.number = number
        self.setup = setup
        self._vector = control.vector if control.interrupt else None
        self._shadow = Iova(setup.shadow) if control.event_index else None
        if not 1 <= log2 <= LOG2_MAX_ENTRIES or control.vector >= device.vectors:
            raise self._fault(FaultCode.QUEUE_CONFIG, log2, 0)
        binding = QueuePasid(setup.pasid)
        self._pasid = binding.pasid if binding.user else None
        port = device.port
        if self._pasid is not None:
            if device.pasid_bits is None or self._pasid >> device.pasid_bits:
                raise self._fault(FaultCode.QUEUE_CONFIG, int(binding), 0)
            port = device.port.tagged(self._pasid)
        sizes = sizeof(Descriptor), sizeof(Completion), sizeof(Shadow) if control.event_index else 1
        for base, size in zip(bases, sizes, strict=True):
            if base % size:
                raise self._fault(FaultCode.QUEUE_CONFIG, base, 0)
        self.lane = device.lanes[number]
        self._rung = False
        self._memory = Reach(port, self.lane)
        self.ring = Ring(self._memory, Iova(bases[0]), 1 << log2, Descriptor)
        self.completions = CompletionRing[Completion](
            self._memory, Iova(bases[1]), 1 << log2, Completion
        )

    def show(self) -> None:
        """Tell the driver that it runs, and where."""
        self._show(QueueState.RUNNING)
        self._show_indices()

    # What the driver does.

    def announce(self, tail: int) -> None:
        """The driver rang the doorbell with a new tail.

        Raises:
            QueueFault: DOORBELL_RANGE; nothing changed.
        """
        self._moved(self.ring.announce, tail)
        self._go()

    def take(self, head: int) -> None:
        """The driver says up to where it has taken completions.

        Raises:
            QueueFault: DOORBELL_RANGE; nothing changed.
        """
        self._moved(self.completions.take, head)
        self._go()

    def stop(self, code: FaultCode | None = None) -> None:
        """Do nothing any more: disabled, or failed with a code."""
        self.lane.cancel()
        self._show(QueueState.DISABLED if code is None else QueueState.FAILED, code)

    def _moved(self, accept: Callable[[int], None], index: int) -> None:
        """The driver moved an index of a ring, by doorbell or in the shadow area.

        Raises:
            QueueFault: DOORBELL_RANGE; nothing changed.
        """
        try:
            accept(index)
        except CommandFault:
            raise self._fault(FaultCode.DOORBELL_RANGE, index, self.ring.head) from None

    # A move to another device.

    @property
    def place(self) -> QueuePlace:
        """Where it stands, between two commands."""
        ring, done = self.ring, self.completions
        return QueuePlace(ring.head, ring.tail, done.head, done.tail)

    def put(self, place: QueuePlace) -> None:
        """Go on where another queue with this setup stood.

        Raises:
            StateError: none can stand there; nothing changed.
        """
        self.ring.place(place.sq_head, place.sq_tail)
        self.completions.place(place.cq_head, place.cq_tail)

    def resume(self) -> None:
        """Look for commands."""
        self._go()

    # What the device does.

    def _go(self) -> None:
        self._rung = True
        if not self.lane.busy:
            self.lane.submit(self._run())

    def _run(self) -> Work:
        """Execute what was announced; ends when there is no more, or no room to complete it."""
        self._show(QueueState.RUNNING)
        self.lane.undo = _nothing
        while not self.ring.empty or (yield from self._look_again()):
            if self.completions.full and not (yield from self._room()):
                self._show(QueueState.STALLED)
                return
            admissions = self._device.slice.admissions
            if admissions:
                yield from enter(admissions, self.lane)
            try:
                yield from self._next()
            finally:
                leave(admissions)
            self.lane.undo = _nothing
            yield self.lane.between(COMMAND_COST)

    def _unbegun(self, popped: Popped[Descriptor]) -> bool:
        """Leave in the ring a command that has done nothing."""
        self.ring.put_back(popped)
        return True

    def _undo(
        self, popped: Popped[Descriptor], entry: Entry, command: Command, memory: CountedMemory
    ) -> bool:
        """Leave the command under way in the ring, if it can be done again."""
        if not memory.repeatable(entry, command):
            return False
        memory.forget()
        return self._unbegun(popped)

    def _next(self) -> Work:
        """Take the next command and execute and complete it."""
        try:
            popped = yield from self.ring.pop()
        except DmaFault as fault:
            raise self._dma(FaultCode.RING_READ, self.ring.head, fault) from None
        self.lane.undo = partial(self._unbegun, popped)
        pasid = named_pasid(popped.command, self._pasid)
        self._device.commence(self.lane, popped.command.operation, pasid)
        record = yield from self._execute(popped)
        self.lane.commit()
        try:
            times = yield from self._device.conclude(
                self.lane, popped.command.operation, record.status
            )
        except CommandFault as fault:
            times, record = 1, replace(record, status=fault.code)
        try:
            yield from self._complete(popped, record, times)
        except DmaFault as fault:
            if not popped.settled:
                popped.settle()
            raise self._dma(FaultCode.COMPLETION_WRITE, popped.index, fault) from None

    def _execute(self, popped: Popped[Descriptor]) -> Generator[int, None, Completion]:
        """Do one command; whatever becomes of it is in the record."""
        device, descriptor = self._device, popped.command
        result = address = cause = 0
        status, chain = Status.SUCCESS, None
        try:
            if descriptor.operation == Operation.CHAIN:
                chain = Chain(device, self.lane, self.number, self._port_of(descriptor))
                self.lane.undo = partial(self._undo_chain, popped, chain)
                result = yield from chain.run(descriptor)
            else:
                result = yield from self._single(popped)
        except DmaFault as fault:
            (status, address), cause = device.operand_fault(fault), fault.cause
        except HbmFault as fault:
            status, address = Status(fault.code), fault.address
        except CommandFault as fault:
            status, result = Status(fault.code), fault.result
        if descriptor.operation == Operation.CHAIN and status != Status.SUCCESS:
            result |= (chain.stage if chain else NO_STAGE) << 32
        return Completion(
            cookie=descriptor.cookie,
            result=result,
            address=address,
            index=popped.index & 0xFFFF,
            cause=cause,
            status=status,
            phase=self.completions.phase,
        )

    def _port_of(self, descriptor: Descriptor) -> Port:
        """By which port the addresses of a command are reached.

        Raises:
            CommandFault: INVALID_FIELD, a PASID that it cannot name.
        """
        device = self._device
        pasid = pasid_of(descriptor, device.pasid_bits, self._pasid)
        return device.port if pasid is None else device.port.tagged(pasid)

    def _undo_chain(self, popped: Popped[Descriptor], chain: Chain) -> bool:
        """Leave the chain under way in the ring, if it can be done again."""
        return chain.undo() and self._unbegun(popped)

    def _single(self, popped: Popped[Descriptor]) -> Pieces:
        """Do a command that is no chain; returns its result."""
        device = self._device
        entry, command = device.decode(popped.command)
        port = self._port_of(popped.command)
        use = yield from device.slice.engines.take(entry.code, self.lane)
        if use is None:
            raise CommandFault(Status.UNKNOWN_OPERATION, f"no engine does {entry.code.name}")
        memory = device.memory(port, self.lane)
        return (yield from use.run(self._pieces(popped, entry, command, memory, port)))

    def _pieces(
        self,
        popped: Popped[Descriptor],
        entry: Entry,
        command: Command,
        memory: CountedMemory,
        port: Port,
    ) -> Pieces:
        """Have the pages that a command needs supplied, and do it; returns its result."""
        wanted = operands(entry, command)
        yield from self._device.paging.supply(self.lane, self.number, port, wanted)
        self.lane.undo = partial(self._undo, popped, entry, command, memory)
        return (yield from entry.run(memory, command))

    def _complete(self, popped: Popped[Descriptor], record: Completion, times: int) -> Work:
        """Tell the driver what became of a command: once, or as somebody wants it.

        Raises:
            DmaFault: the record cannot be written.
        """
        if times == 0:
            popped.settle()
            self._show_indices()
            return
        yield from self.completions.put(popped, record)
        self._tell(popped, record)
        if times > 1 and not self.completions.full:
            yield from self.completions.write(replace(record, phase=self.completions.phase))
            self._tell(popped, record)

    def _tell(self, popped: Popped[Descriptor], record: Completion) -> None:
        """Show that a command was completed."""
        device = self._device
        self._show_indices()
        device.counters.completed += 1
        device.counters.failed += record.status != Status.SUCCESS
        if self._vector is not None and not popped.command.flags & Flag.NO_INTERRUPT:
            device.raise_vector(self._vector)

    def _look_again(self) -> Generator[int, None, bool]:
        """With an event index: ask for a doorbell at the next command; maybe one came meanwhile."""
        if self._shadow is None:
            return False
        memory, ring = self._memory, self.ring
        try:
            event = Iova(self._shadow + SHADOW["sq_event"])
            yield from memory.write(event, ring.head.to_bytes(4, "little"))
            shadow = unpack(Shadow, (yield from memory.read(self._shadow, sizeof(Shadow))))
        except DmaFault as fault:
            raise self._dma(FaultCode.SHADOW_ACCESS, ring.head, fault) from None
        # A doorbell may have told more while this was on its way.
        if (shadow.sq_tail - ring.head) & INDEX_MASK > (ring.tail - ring.head) & INDEX_MASK:
            self._moved(ring.announce, shadow.sq_tail)
        return not ring.empty

    def _room(self) -> Generator[int, None, bool]:
        """With an event index: see if the driver has taken completions."""
        if self._shadow is None:
            return False
        self._rung = True
        while self._rung and self.completions.full:
            # Once more if a doorbell rang while the shadow area was on its way.
            self._rung, before = False, self.completions.head
            try:
                data = yield from self._memory.read(self._shadow, sizeof(Shadow))
            except DmaFault as fault:
                raise self._dma(FaultCode.SHADOW_ACCESS, self.ring.head, fault) from None
            if self.completions.head == before:  # else that doorbell said what was taken
                self._moved(self.completions.take, unpack(Shadow, data).cq_head)
        return not self.completions.full

    def _show(self, state: QueueState, code: FaultCode | None = None) -> None:
        status = self._device.regs.queue_status[self.number]
        status.state, status.fault = state, code or FaultCode.NONE

    def _show_indices(self) -> None:
        regs = self._device.regs
        regs.queue_sq_head[self.number].index = self.ring.head
        regs.queue_cq_tail[self.number].index = self.completions.tail

    def _fault(self, code: FaultCode, address: int, index: int) -> QueueFault:
        return QueueFault(code, self.number, address, index)

    def _dma(self, code: FaultCode, index: int, fault: DmaFault) -> QueueFault:
        return QueueFault(code, self.number, fault.address, index, fault.cause)
