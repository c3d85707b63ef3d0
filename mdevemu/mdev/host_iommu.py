"""The host's driver of the IOMMU: directories, PASIDs, commands and faults.

The hardware helps it with nothing: an entry that it changes without the
invalidation that belongs to it stays in use.

Spec: RISC-V IOMMU 1.0, Software guidelines
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mdevemu.iommu import Access, Fault, Iommu, Port, Request, Step
from mdevemu.iommu.formats import (
    Directory,
    DirectoryMode,
    FaultRecord,
    PageRequestRecord,
    ProcessAttributes,
    TablePointer,
    TranslationControl,
)
from mdevemu.iommu.registers import (
    Capabilities,
    DirectoryPointer,
    IommuRegisters,
    Mode,
    QueueBase,
    RecordQueueCsr,
)
from mdevemu.layout import Word
from mdevemu.mdev.commands import Commands, device_changed, pages_changed, process_changed
from mdevemu.mdev.records import (
    FaultReport,
    PageReport,
    RecordReader,
    fault_report,
    page_report,
)
from mdevemu.mdev.tables import Exhausted, Frames
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.registers import Reg
from mdevemu.units import GIB, Hpa, Iova

TABLES = Hpa(0x8000_0000)
"""Where the memory of tables and queues starts."""
FILES = Hpa(1 << 44)
"""Where the files that VMMs lend are, each aligned to 1 GiB."""
FILES_END = Hpa(1 << 55)
FAR_END = Hpa(1 << 56)
"""From the end of the files to here is what VMMs keep to themselves; nothing is stored there."""
SV48 = 9
_LOG2_ENTRIES = 10
PASIDS = 1 << 20

W = TypeVar("W", bound=Word)


@dataclass(frozen=True, slots=True)
class Walk:
    """What the tables say about one Iova now.

    Attributes:
        steps: every entry on the way, in order.
        hpa: where it leads, or None.
        size: of the page, in bytes; 0 without one.
        fault: why it leads nowhere, or None.
        cached: where the IOTLB says that it leads; None if it does not know.
        outdated: directory caches, DDT and PDT, that hold what tables no longer say.
    """

    steps: Sequence[Step]
    hpa: Hpa | None
    size: int
    fault: Fault | None
    cached: Hpa | None
    outdated: Sequence[str]

    @property
    def stale(self) -> bool:
        """An access would not be answered as the tables say."""
        return bool(self.outdated) or self.cached not in (None, self.hpa)


@dataclass(slots=True)
class _Device:
    """A device id in use.

    Attributes:
        context: where its device context stands.
        directory: root of its process directory.
        frames: every table of that directory.
        users: PASIDs in it.
    """

    context: Hpa
    directory: Hpa
    frames: list[Hpa]
    users: int = 0


class HostIommu:
    """Owner of an IOMMU's registers, directories and queues.

    Attributes:
        frames: the memory of tables.
    """

    def __init__(self, iommu: Iommu, memory: PhysicalMemory, *, tables: int = GIB) -> None:
        """Turn ``iommu`` on; ``tables`` is how much memory there is for tables, in bytes."""
        self._iommu = iommu
        self.memory = memory
        self._ram = Ram(tables)
        memory.add(TABLES, self._ram, tables)
        self.frames = Frames(TABLES, self._ram)
        self._can = Capabilities(self._read(IommuRegisters.capabilities))
        self._devices: dict[int, _Device] = {}
        self._free: list[int] = []
        self._next = 1
        self._far: set[int] = set()
        self._files: list[tuple[int, int]] = []  # (base, end) of lent files, ascending
        self._commands = Commands(iommu, self.frames, self._translate)
        faults = self.frames.allocate_run(32 << _LOG2_ENTRIES >> 12)
        pages = self.frames.allocate_run(16 << _LOG2_ENTRIES >> 12)
        self._faults = RecordReader(iommu, memory, faults, _LOG2_ENTRIES, FaultRecord)
        self._pages = RecordReader(iommu, memory, pages, _LOG2_ENTRIES, PageRequestRecord)
        self._directory = self.frames.allocate()
        self._start(faults, pages)

    def _start(self, faults: Hpa, pages: Hpa) -> None:
        """Spec: RISC-V IOMMU 1.0, Guidelines for initialization"""
        base = QueueBase()
        base.log2sz_1 = _LOG2_ENTRIES - 1
        self._commands.start()
        on = RecordQueueCsr()
        on.enable = True
        base.ppn = faults >> 12
        self._write(IommuRegisters.fqb, base)
        self._write(IommuRegisters.fqcsr, on)
        base.ppn = pages >> 12
        self._write(IommuRegisters.pqb, base)
        self._write(IommuRegisters.pqcsr, on)
        self._translate(True)

    def _translate(self, on: bool) -> None:
        """Use the device directory, or refuse every access."""
        root = DirectoryPointer()
        root.iommu_mode = Mode.THREE_LEVELS if on else Mode.OFF
        root.ppn = self._directory >> 12
        self._write(IommuRegisters.ddtp, root)

    # PASIDs.  The soft-context id of a PASID is the PASID itself.

    def attach(self, device_id: int, root: Hpa) -> int:
        """Give a new PASID of a device the Sv48 table at ``root``.

        Raises:
            Exhausted: no PASID, or no frame for a directory, is left; nothing changed.
        """
        device = self._devices.get(device_id) or self._enter(device_id)
        pasid = 0
        try:
            pasid = self._take()
            place = self._process(device, pasid)
        except Exhausted:
            if pasid:
                heapq.heappush(self._free, pasid)
            self._leave(device_id)
            raise
        ta = ProcessAttributes()
        ta.v = True
        ta.pscid = pasid
        words, at = self.frames.words, self.frames.word(place)
        words[at + 1] = _first_stage(root)
        words[at] = int(ta)
        device.users += 1
        return pasid

    def replace(
        self, device_id: int, pasid: int, root: Hpa, then: Callable[[], None] | None = None
    ) -> None:
        """Move a PASID from the table that it has to the Sv48 table at ``root``, in one step.

        One aligned store changes the context, which stays valid: an access is
        translated by the one table or by the other, and never by none.  Only the new
        one is used once this returns.  ``then`` runs when the old one is not used any
        more, as in ``submit``.
        """
        at = self.frames.word(self._process(self._devices[device_id], pasid))
        self.frames.words[at + 1] = _first_stage(root)
        self.submit(process_changed(device_id, pasid), pages_changed(pasid), then=then)

    def detach(self, device_id: int, pasid: int, then: Callable[[], None] | None = None) -> None:
        """Take a PASID's table away; ``then`` runs when it is not used any more.

        The PASID is free again once the IOMMU forgot it.
        """
        device = self._devices[device_id]
        at = self.frames.word(self._process(device, pasid))

        def forgotten() -> None:
            self.frames.words[at + 1] = 0
            heapq.heappush(self._free, pasid)
            if then is not None:
                then()

        self.frames.words[at] = 0
        self.submit(process_changed(device_id, pasid), pages_changed(pasid), then=forgotten)
        device.users -= 1
        self._leave(device_id)

    def port(self, device_id: int, pasid: int | None) -> Port:
        """Memory as (device id, PASID) sees it; not enabled yet."""
        return Port(self._iommu, self.memory, device_id, pasid)

    # Commands.

    def submit(self, *commands: int, then: Callable[[], None] | None = None) -> None:
        """Queue commands and a fence; ``then`` runs once the IOMMU has completed it.

        That is before this returns, unless the IOMMU is ``halted``.
        """
        self._commands.submit(*commands, then=then)

    @property
    def halted(self) -> bool:
        """The IOMMU did not complete a fence: every access faults, until it does."""
        return self._commands.halted

    @property
    def guests(self) -> set[int]:
        """GSCIDs in use; whoever uses one adds it, and takes it out when it is forgotten."""
        return self._commands.guests

    # Faults and page requests.

    @property
    def faulted(self) -> bool:
        """The fault queue holds records, or stopped."""
        return self._faults.waiting

    @property
    def asked(self) -> bool:
        """The page-request queue holds records, or stopped."""
        return self._pages.waiting

    @property
    def lost_faults(self) -> int:
        """Times that the fault queue overflowed."""
        return self._faults.lost

    @property
    def lost_page_requests(self) -> int:
        """Times that the page-request queue overflowed."""
        return self._pages.lost

    def read_faults(self) -> list[FaultReport]:
        """Take every record out of the fault queue, oldest first.

        Accesses that a halted IOMMU refused are among them: it is started again, if it can be.
        """
        self._commands.resume()
        return [fault_report(record) for record in self._faults.take()]

    def read_page_requests(self) -> list[PageReport]:
        """Take every record out of the page-request queue, oldest first."""
        return [page_report(record) for record in self._pages.take()]

    def walk(
        self, device_id: int, pasid: int | None, iova: Iova, access: Access = Access.READ
    ) -> Walk:
        """What the tables in memory say about an Iova, and what the caches still say.

        Changes and reports nothing.
        """
        request = Request(device_id, pasid, iova, access)
        steps, line, fault = self._iommu.explain(request)
        known = self._iommu.cached(request)
        return Walk(
            steps=steps,
            hpa=None if line is None else Hpa(iova + line.delta),
            size=0 if line is None else line.high - line.low,
            fault=fault,
            cached=None if known is None else Hpa(iova + known.delta),
            outdated=self._iommu.outdated(request),
        )

    # The files that VMMs lend.

    def reserve(self, size: int) -> Hpa:
        """Physical addresses for ``size`` bytes of a lent file, aligned to 1 GiB.

        Raises:
            Exhausted: there is no gap that large.
        """
        base = int(FILES)
        for at, (low, high) in enumerate(self._files):
            if base + size <= low:
                self._files.insert(at, (base, base + size))
                return Hpa(base)
            base = -(-high // GIB) * GIB
        if base + size > FILES_END:
            raise Exhausted
        self._files.append((base, base + size))
        return Hpa(base)

    def restore(self, base: Hpa) -> None:
        """Give physical addresses back."""
        self._files = [entry for entry in self._files if entry[0] != base]

    def reserve_far(self, size: int) -> Hpa | None:
        """Physical addresses for ``size`` bytes that a VMM keeps; None if none are left.

        Whoever asks always asks for the same size, a power of two.
        """
        places = range(FILES_END, FAR_END, size)
        base = next((Hpa(base) for base in places if base not in self._far), None)
        if base is not None:
            self._far.add(base)
        return base

    def restore_far(self, base: Hpa) -> None:
        """Give physical addresses back."""
        self._far.remove(base)

    # Directories.

    def _enter(self, device_id: int) -> _Device:
        """Write the device context of a device that has none."""
        context = self.context(device_id)
        directory = self.frames.allocate()
        tc = TranslationControl()
        tc.v = tc.pdtv = True
        fsc = TablePointer()
        fsc.mode = DirectoryMode.PD20
        fsc.ppn = directory >> 12
        words, at = self.frames.words, self.frames.word(context)
        words[at + 3] = int(fsc)
        words[at] = int(tc)
        device = self._devices[device_id] = _Device(context, directory, [directory])
        return device

    def context(self, device_id: int) -> Hpa:
        """Where the device context of a device id stands.

        Raises:
            Exhausted: a table on the way is missing and no frame is left for it.
        """
        low = 6 if self._can.msi_flat else 7
        indices = [device_id >> low + 9, device_id >> low & 0x1FF]
        table = self._descend(self._directory, indices, [])
        return Hpa(table + (device_id & (1 << low) - 1) * (64 if self._can.msi_flat else 32))

    def _leave(self, device_id: int) -> None:
        """Take the device context away with the last PASID."""
        device = self._devices[device_id]
        if device.users:
            return
        self.frames.words[self.frames.word(device.context)] = 0
        del self._devices[device_id]

        def forgotten() -> None:
            for frame in device.frames:
                self.frames.release(frame)

        self.submit(device_changed(device_id), pages_changed(None), then=forgotten)

    def _process(self, device: _Device, pasid: int) -> Hpa:
        """Where the process context of a PASID stands."""
        indices = [pasid >> 17, pasid >> 8 & 0x1FF]
        table = self._descend(device.directory, indices, device.frames)
        return Hpa(table + (pasid & 0xFF) * 16)

    def _descend(self, root: Hpa, indices: Sequence[int], made: list[Hpa]) -> Hpa:
        """The last table on a way through a directory; adds to ``made`` what was missing.

        Raises:
            Exhausted: a table is missing and no frame is left for it.
        """
        table, words = root, self.frames.words
        for index in indices:
            at = self.frames.word(table) + index
            if not words[at]:
                child = self.frames.allocate()
                made.append(child)
                entry = Directory()
                entry.v = True
                entry.ppn = child >> 12
                words[at] = int(entry)
            table = Hpa(Directory(words[at]).ppn << 12)
        return table

    def _take(self) -> int:
        """The lowest free PASID."""
        if self._free:
            return heapq.heappop(self._free)
        if self._next == PASIDS:
            raise Exhausted
        self._next += 1
        return self._next - 1

    def _read(self, register: Reg[W]) -> int:
        data = self._iommu.read_register(register.offset, register.length)
        return int.from_bytes(data, "little")

    def _write(self, register: Reg[W], word: W) -> None:
        self._iommu.write_register(register.offset, int(word).to_bytes(register.length, "little"))


def _first_stage(root: Hpa) -> int:
    """The fsc of a process context."""
    fsc = TablePointer()
    fsc.mode = SV48
    fsc.ppn = root >> 12
    return int(fsc)
