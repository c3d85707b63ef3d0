"""The host's end of the command queue: what it owes the IOMMU, and what waits for a fence.

Whatever the IOMMU may still use, tables, files, PASIDs, is given back by a callback
that runs once a fence behind the invalidation has completed, and not before.

A queue that does not complete its fence is started anew, with everything invalidated.
If that does not help either, translation is turned off: every access then faults, so
that nothing stale is reachable, and what was to be given back waits.  Each later
command tries to start the queue again.

Spec: RISC-V IOMMU 1.0, Command-Queue; Guidelines for invalidations
"""

from collections.abc import Callable

from mdevemu.iommu import Iommu
from mdevemu.iommu.formats import Iodir, Iofence, Iotinval, Opcode
from mdevemu.iommu.registers import CommandQueueCsr, IommuRegisters, QueueBase
from mdevemu.layout import Word
from mdevemu.mdev.tables import Frames
from mdevemu.units import PAGE

LOG2_ENTRIES = 10
_ENTRIES = 1 << LOG2_ENTRIES
_SIZE = 16
_AT_ONCE = _ENTRIES // 2
_U64 = (1 << 64) - 1


class Commands:
    """Queues commands, each batch with a fence behind it.

    Attributes:
        halted: the IOMMU did not complete a fence, and translation is off.
        guests: GSCIDs in use; no command takes the first stages of all of them.
    """

    def __init__(self, iommu: Iommu, frames: Frames, translate: Callable[[bool], None]) -> None:
        """``translate`` turns translation on or off.

        Raises:
            Exhausted: no frames are left for queue and fence.
        """
        self._iommu = iommu
        self._frames = frames
        self._translate = translate
        self._queue = frames.allocate_run(_ENTRIES * _SIZE // PAGE)
        self._fence = frames.allocate()
        self._fences = 0
        self._tail = 0
        self._owed: list[Callable[[], None]] = []
        self.halted = False
        self.guests: set[int] = set()

    def start(self) -> None:
        """Turn the queue on, empty; its error bits clear.

        Spec: RISC-V IOMMU 1.0, Guidelines for initialization
        """
        base, control = QueueBase(), CommandQueueCsr()
        base.log2sz_1 = LOG2_ENTRIES - 1
        base.ppn = self._queue >> 12
        map_ = IommuRegisters
        self._write(map_.cqcsr.offset, int(control), map_.cqcsr.length)
        self._write(map_.cqb.offset, int(base), map_.cqb.length)
        self._tail = 0
        self._write(map_.cqt.offset, 0, map_.cqt.length)
        control.cqen = True
        self._write(map_.cqcsr.offset, int(control), map_.cqcsr.length)

    def submit(self, *commands: int, then: Callable[[], None] | None = None) -> None:
        """Queue commands and a fence; ``then`` runs once the IOMMU has completed it.

        That is before this returns, unless the IOMMU is halted.  If it is, nothing is
        reachable at all, and the commands may be lost: all that they could invalidate
        is invalidated before anything is reachable again.
        """
        if then is not None:
            self._owed.append(then)
        if self.halted and not self.resume():
            return
        left = commands
        for _ in range(len(commands) + 2):  # each try but the first executes one, or drops it
            first = self._tail
            if self._run(left):
                self._settle()
                return
            left = left[self._executed(first) :]
            self.start()
            if not self._run(self._everything()):
                break
        self.halted = True
        self._translate(False)

    def resume(self) -> bool:
        """Start a queue that had halted the IOMMU; whether it is running now."""
        if self.halted:
            self.start()
            if not self._run(self._everything()):
                return False
            self.halted = False
            self._translate(True)
            self._settle()
        return True

    def _settle(self) -> None:
        """A fence completed, and with it everything that was queued before."""
        if self._owed:
            owed, self._owed = self._owed, []
            for give_back in owed:
                give_back()

    def _run(self, commands: tuple[int, ...]) -> bool:
        """Queue commands and a fence; whether the fence completed."""
        self._fences = self._fences + 1 & 0xFFFF_FFFF
        fence = _FENCE | self._fences << 32 | self._fence >> 2 << 64
        for at in range(0, len(commands), _AT_ONCE):
            if at:
                self._ring()
            for command in commands[at : at + _AT_ONCE]:
                self._put(command)
        self._put(fence)
        self._ring()
        done = self._frames.words[self._frames.word(self._fence)]
        return done == self._fences

    def _put(self, command: int) -> None:
        words, at = self._frames.words, self._frames.word(self._queue) + self._tail * 2
        words[at], words[at + 1] = command & _U64, command >> 64
        self._tail = self._tail + 1 & _ENTRIES - 1

    def _ring(self) -> None:
        self._write(IommuRegisters.cqt.offset, self._tail, IommuRegisters.cqt.length)

    def _executed(self, first: int) -> int:
        """How many commands since index ``first`` need no repetition.

        The one that is illegal is among them: it would be so again.
        """
        head = self._read(IommuRegisters.cqh.offset, IommuRegisters.cqh.length)
        csr = CommandQueueCsr(self._read(IommuRegisters.cqcsr.offset, IommuRegisters.cqcsr.length))
        return (head - first & _ENTRIES - 1) + csr.cmd_ill

    def _everything(self) -> tuple[int, ...]:
        return (
            command(Iodir(), opcode=Opcode.IODIR),
            _VMA,
            command(Iotinval(), opcode=Opcode.IOTINVAL, func3=1),
            *(guest_pages_changed(gscid) for gscid in sorted(self.guests)),
        )

    def _read(self, offset: int, length: int) -> int:
        return int.from_bytes(self._iommu.read_register(offset, length), "little")

    def _write(self, offset: int, value: int, length: int) -> None:
        self._iommu.write_register(offset, value.to_bytes(length, "little"))


def command(word: Word, **fields: int) -> int:
    """A command with some of its fields."""
    for name, value in fields.items():
        setattr(word, name, value)
    return int(word)


def device_changed(device_id: int) -> int:
    """IODIR.INVAL_DDT of one device; its process contexts are forgotten as well."""
    return command(Iodir(), opcode=Opcode.IODIR, dv=1, did=device_id)


def process_changed(device_id: int, pasid: int) -> int:
    """IODIR.INVAL_PDT of one process context."""
    return _PDT | device_id << Iodir.did.low | pasid << Iodir.pid.low


def pages_changed(pscid: int | None, iova: int = 0, size: int = 0) -> int:
    """IOTINVAL.VMA of the host's own spaces: all of them if ``pscid`` is None.

    ``size`` is one page or a naturally aligned power of two of them, in bytes; 0 is
    every page, and the tables that lead to them.
    """
    found = _VMA
    if pscid is not None:
        found |= Iotinval.pscv.mask | pscid << Iotinval.pscid.low
    return found | _range(iova, size)


def guest_pages_changed(gscid: int, pscid: int | None = None, address: int | None = None) -> int:
    """IOTINVAL.VMA of a guest: of one soft context of it or all, of one page or any."""
    found = _VMA | Iotinval.gv.mask | gscid << Iotinval.gscid.low
    if pscid is not None:
        found |= Iotinval.pscv.mask | pscid << Iotinval.pscid.low
    if address is not None:
        found |= _range(address & _U64 & -PAGE, PAGE)
    return found


def second_stage_changed(gscid: int, gpa: int = 0, size: int = 0) -> int:
    """IOTINVAL.GVMA of a guest; ``size`` as of ``pages_changed``."""
    return _GVMA | gscid << Iotinval.gscid.low | _range(gpa, size)


def _range(address: int, size: int) -> int:
    """Spec: RISC-V IOMMU 1.0, Address range invalidation"""
    if not size:
        return 0
    page, pages = address >> 12, size >> 12
    if pages == 1:
        return Iotinval.av.mask | page << Iotinval.addr.low
    # NAPOT: the bits below the lowest zero tell the size.
    page |= (pages >> 1) - 1
    return Iotinval.av.mask | Iotinval.s.mask | page << Iotinval.addr.low


_VMA = command(Iotinval(), opcode=Opcode.IOTINVAL)
_GVMA = command(Iotinval(), opcode=Opcode.IOTINVAL, func3=1, gv=1)
_PDT = command(Iodir(), opcode=Opcode.IODIR, func3=1, dv=1)
_FENCE = command(Iofence(), opcode=Opcode.IOFENCE, av=1, pr=1, pw=1)
