"""The command queue: fetch, decode, check, execute.

Spec: RISC-V IOMMU 1.0, Command-Queue
"""

from collections.abc import Callable

from mdevemu.iommu.ats import Fabric, Invalidation, PageResponse
from mdevemu.iommu.caches import HOST, DirectoryCache, Iotlb
from mdevemu.iommu.contexts import DeviceContext, Directories
from mdevemu.iommu.formats import Ats, Iodir, Iofence, Iotinval, Opcode, reserved
from mdevemu.iommu.interrupts import InterruptLogic, Source
from mdevemu.iommu.observing import Observer
from mdevemu.iommu.queues import bounded
from mdevemu.iommu.registers import CommandQueueCsr, IommuRegisters, Mode
from mdevemu.iommu.walk import Space
from mdevemu.memory import Miss, PhysicalMemory

COMMAND = 16
_IOTINVAL_RESERVED = reserved(Iotinval)
_IOFENCE_RESERVED = reserved(Iofence)
_IODIR_RESERVED = reserved(Iodir)
_ATS_RESERVED = reserved(Ats)
_ERRORS = CommandQueueCsr.cqmf.mask | CommandQueueCsr.cmd_to.mask | CommandQueueCsr.cmd_ill.mask
_NOTICES = _ERRORS | CommandQueueCsr.fence_w_ip.mask
_RUNNING = _ERRORS | CommandQueueCsr.cqon.mask


class Illegal(Exception):
    """A command uses a reserved encoding, or a function that is not there."""


class CommandQueue:
    """Executes commands in order, each as soon as it is there."""

    def __init__(
        self,
        memory: PhysicalMemory,
        regs: IommuRegisters,
        directories: Directories,
        devices: DirectoryCache[DeviceContext],
        processes: DirectoryCache[Space],
        iotlb: Iotlb,
        interrupts: InterruptLogic,
        fabric: Fabric,
        changed: Callable[[], None],
        observer: Observer,
    ) -> None:
        """``changed`` is called once a command took something out of a cache."""
        self._memory = memory
        self._base, self._head, self._tail = regs.cqb, regs.cqh, regs.cqt
        self._csr, self._fctl, self._ddtp = regs.cqcsr, regs.fctl, regs.ddtp
        self._can_ats = bool(regs.capabilities.ats)
        self._directories = directories
        self._devices = devices
        self._processes = processes
        self._iotlb = iotlb
        self._interrupts = interrupts
        self._fabric = fabric
        self._changed = changed
        self._observer = observer
        self.outstanding = 0  # ATS invalidations that no device has answered yet
        self.timed_out = False  # one of them never was
        self._busy = False  # commands run now; a device may answer before its command is done
        self._execute: dict[int, Callable[[int], None]] = {
            Opcode.IOTINVAL: self._iotinval,
            Opcode.IOFENCE: self._iofence,
            Opcode.IODIR: self._iodir,
            Opcode.ATS: self._ats,
        }
        can = regs.capabilities
        self._iotinval_reserved = _IOTINVAL_RESERVED
        self._iotinval_reserved |= 0 if can.nl else Iotinval.nl.mask
        self._iotinval_reserved |= 0 if can.s else Iotinval.s.mask
        # process ids wider than the widest directory there is
        self._process_bits = 20 if can.pd20 else 17 if can.pd17 else 8 if can.pd8 else 0

    def controlled(self, before: int) -> None:
        """Software wrote cqcsr, which held ``before``."""
        csr = self._csr
        if csr.cqen and not before & 1:
            self._head.index = 0
            csr.cmd_ill = csr.cmd_to = csr.cqmf = csr.fence_w_ip = False
            self.timed_out = False  # those still outstanding are answered some time
        csr.cqon = csr.cqen
        self.remind()
        self.run()

    def moved(self) -> None:
        """Software wrote cqt or cqb: only the tail's low bits can be other than 0."""
        bounded(self._base)
        self._tail.index &= (2 << self._base.log2sz_1) - 1
        self.run()

    def run(self) -> None:
        """Execute commands until the queue is empty, or something stops it."""
        csr = self._csr
        if self._busy or int(csr) & _RUNNING != CommandQueueCsr.cqon.mask:
            return
        self._busy = True
        mask = (2 << self._base.log2sz_1) - 1
        base = self._base.ppn << 12
        head, tail = self._head.index, self._tail.index & mask
        order = "big" if self._fctl.be else "little"
        while head != tail:
            command = None
            outcome = "done"
            try:
                data = self._memory.read(base + head * COMMAND, COMMAND)
                command = int.from_bytes(data[:8], order) | int.from_bytes(data[8:], order) << 64  # type: ignore[arg-type]
                execute = self._execute.get(command & 0x7F)
                if execute is None:
                    raise Illegal
                if command & 0x7F == Opcode.IOFENCE and self._waiting():
                    outcome = "waits"
                else:
                    execute(command)
            except Illegal:
                csr.cmd_ill = True
                outcome = "illegal"
            except Miss:
                csr.cqmf = True
                outcome = "memory fault"
            if command is not None:
                self._observer.command(command, outcome)
            if outcome != "done":
                break
            head = head + 1 & mask
        self._head.index = head
        self._busy = False
        self.remind()

    def remind(self) -> None:
        """Interrupt if an error or a finished fence is there to be seen."""
        if self._csr.cie and int(self._csr) & _NOTICES:
            self._interrupts.raise_(Source.COMMAND_QUEUE)

    def answered(self, *, timeout: bool) -> None:
        """A device answered an ATS invalidation, or never will."""
        if not self.outstanding:
            return  # an unexpected completion: whoever sent it is not waited for
        self.outstanding -= 1
        self.timed_out |= timeout
        self.run()

    def _waiting(self) -> bool:
        """A fence must wait for ATS invalidations, or tell that one timed out."""
        if self.outstanding:
            return True
        if self.timed_out:
            self.timed_out = False
            self._csr.cmd_to = True
            return True
        return False

    def _iotinval(self, raw: int) -> None:
        """Spec: RISC-V IOMMU 1.0, Page-Table cache invalidation; Non-leaf; Address Range"""
        command = Iotinval(raw)
        if raw & self._iotinval_reserved or command.func3 > 1:
            raise Illegal
        self._changed()
        if command.func3 == 1:
            if command.pscv:
                raise Illegal
            self._iotlb.invalidate_second(command.gscid if command.gv else None)
            return
        low, high = 0, 1 << 64
        if command.av:
            pages = 1
            page = command.addr
            if command.s:
                # A NAPOT range: the lowest zero bit of ADDR tells its size.
                pages = (page ^ page + 1) + 1
            low = (page & ~(pages - 1)) << 12
            high = low + (pages << 12)
        pscid = command.pscid if command.pscv else None
        self._iotlb.invalidate_first(command.gscid if command.gv else HOST, pscid, low, high)

    def _iofence(self, raw: int) -> None:
        """Spec: RISC-V IOMMU 1.0, Command-queue Fence commands

        Everything before it is done when it is fetched: commands run in order, and
        the accesses of devices are calls that have returned.
        """
        command = Iofence(raw)
        wires = self._fctl.wsi
        if raw & _IOFENCE_RESERVED or command.func3 or (command.wsi and not wires):
            raise Illegal
        if command.av:
            order = "big" if self._fctl.be else "little"
            self._memory.write(command.addr << 2, command.data.to_bytes(4, order))  # type: ignore[arg-type]
        if command.wsi:
            self._csr.fence_w_ip = True

    def _iodir(self, raw: int) -> None:
        """Spec: RISC-V IOMMU 1.0, Directory cache invalidation commands"""
        command = Iodir(raw)
        if raw & _IODIR_RESERVED or command.func3 > 1:
            raise Illegal
        self._changed()
        device_id, process_id = command.did, command.pid
        mode = self._ddtp.iommu_mode
        if command.dv and mode > Mode.BARE and not self._directories.fits(device_id, mode):
            raise Illegal
        if command.func3 == 1:
            if not command.dv or process_id >> self._process_bits:
                raise Illegal
            key = device_id << 20 | process_id
            self._processes.entries.pop(key, None)
        elif process_id:
            raise Illegal
        elif command.dv:
            self._devices.entries.pop(device_id, None)
            self._processes.drop(lambda key: key >> 20 == device_id)
        else:
            self._devices.drop()
            self._processes.drop()

    def _ats(self, raw: int) -> None:
        """Spec: RISC-V IOMMU 1.0, PCIe ATS commands"""
        command = Ats(raw)
        if not self._can_ats or raw & _ATS_RESERVED or command.func3 > 1:
            raise Illegal
        segment = command.dseg if command.dsv else None
        pasid = command.pid if command.pv else None
        if command.func3 == 0:
            self.outstanding += 1
            message = Invalidation(command.rid, segment, pasid, command.payload)
            if not self._fabric.invalidate(message):
                self.outstanding -= 1
                self.timed_out = True
        else:
            index, code = command.payload >> 32 & 0x1FF, command.payload >> 44 & 0xF
            self._fabric.respond(PageResponse(command.rid, segment, pasid, code, index))
