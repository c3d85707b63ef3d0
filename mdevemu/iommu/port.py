"""Hop 8, Iova to bytes: what a device holds instead of memory.

A port names its requester, and is the only way to bytes.  It looks like
memory; what it reaches is decided by the IOMMU alone, each time.
"""

import struct
from collections.abc import Callable, Sequence

from mdevemu.errors import DmaFault, Elsewhere
from mdevemu.iommu.causes import ACCESS_FAULT, PAGE_FAULT, Access, Cause, Fault
from mdevemu.iommu.iommu import Iommu
from mdevemu.iommu.requesters import BATCH
from mdevemu.iommu.requests import Request
from mdevemu.memory import Lender, Miss, PhysicalMemory
from mdevemu.units import PAGE, Hpa, Iova

_END = 1 << 64
_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")

PAGES_WORTH_A_BATCH = 8

NOT_ALLOWED = 0
"""Cause of an access that never left the device: bus mastering is off."""


class Piece:
    """Some bytes of an access whose backing cannot be viewed: they are read or written."""

    __slots__ = ("_at", "_iova", "_length", "_port", "_write")

    def __init__(self, port: "Port", iova: Iova, at: Hpa, length: int, write: bool) -> None:
        self._port = port
        self._iova = iova
        self._at = at
        self._length = length
        self._write = write

    def __len__(self) -> int:
        return self._length

    def read(self) -> bytes:
        """All of the piece.

        Raises:
            DmaFault: its file shrank meanwhile.
        """
        return self._port.load(self._iova, self._at, self._length)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the piece.

        Raises:
            DmaFault: its file shrank meanwhile.
        """
        assert self._write, "a piece that was asked for reading"
        assert len(data) == self._length
        self._port.store(self._iova, self._at, data)


Guard = Callable[["Port", Iova, int, Access], None]
"""Looks at an access (address, bytes) before it is translated; raises a DmaFault to end it."""


class Gate:
    """Whether a function may be a bus master; all ports of it have the same one.

    Attributes:
        enabled: it may.
        guards: who looks at each access first.
        open: it may, and nobody looks: accesses need not ask.
    """

    __slots__ = ("enabled", "guards", "open")

    def __init__(self) -> None:
        self.enabled = self.open = False
        self.guards: tuple[Guard, ...] = ()

    def set(self, *, enabled: bool) -> None:
        """Let accesses through, or not any more."""
        self.enabled = enabled
        self.open = enabled and not self.guards

    def watch(self, *guards: Guard) -> None:
        """Have these look at each access, and nobody else."""
        self.guards = guards
        self.open = self.enabled and not guards


class Port:
    """Memory as one requester sees it.

    Attributes:
        gate: says whether the function may be a bus master; if not, every access faults.
        device_id, process_id: whom the IOMMU sees.
    """

    def __init__(
        self, iommu: Iommu, memory: PhysicalMemory, device_id: int, process_id: int | None
    ) -> None:
        self.gate = Gate()
        self.device_id = device_id
        self.process_id = process_id
        self._iommu = iommu
        self._memory = memory
        self._requester = iommu.requester(device_id, process_id)
        self._readable = self._requester.pages[Access.READ]
        self._writable = self._requester.pages[Access.WRITE]

    @property
    def enabled(self) -> bool:
        """The function may be a bus master."""
        return self.gate.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.gate.set(enabled=value)

    def tagged(self, process_id: int) -> "Port":
        """Memory as another PASID of the same function sees it."""
        port = Port(self._iommu, self._memory, self.device_id, process_id)
        port.gate = self.gate
        return port

    def read(self, iova: Iova, length: int) -> bytes:
        """Read ``length`` bytes.

        Raises:
            DmaFault: a byte of it may not be read.
            Elsewhere: it may be read, and a client has to be asked for some of it.
        """
        delta = self._readable.get(iova >> 12)
        if delta is not None and self.gate.open and 0 < length <= PAGE - (iova & PAGE - 1):
            try:
                return self._memory.read(iova + delta, length)
            except Miss:
                at = iova + delta
                raise self._missed(iova, length, iova, at, length, Access.READ) from None
        if self.gate.open and length > 0 and iova + length <= _END:
            try:
                line = self._requester.line(iova, 1)
                if iova + length <= line.high:
                    return self._memory.read(iova + line.delta, length)
            except Fault as fault:
                raise DmaFault(iova, length, fault.cause, write=False) from None
            except Miss:
                at = iova + line.delta
                raise self._missed(iova, length, iova, at, length, Access.READ) from None
        runs = self._runs(iova, length, Access.READ)
        return b"".join([self.load(at, to, count) for at, to, count in runs])

    def write(self, iova: Iova, data: bytes | bytearray | memoryview) -> None:
        """Write ``data``: all of it, or nothing.

        Raises:
            DmaFault: a byte of it may not be written; none was.
            Elsewhere: it may be written, and a client has to be asked; none was.
        """
        length = len(data)
        delta = self._writable.get(iova >> 12)
        if delta is not None and self.gate.open and 0 < length <= PAGE - (iova & PAGE - 1):
            try:
                self._memory.write(iova + delta, data)
            except Miss:
                at = iova + delta
                raise self._missed(iova, length, iova, at, length, Access.WRITE) from None
            return
        if self.gate.open and length > 0 and iova + length <= _END:
            try:
                line = self._requester.line(iova, 2)
                if iova + length <= line.high:
                    self._memory.write(iova + line.delta, data)
                    return
            except Fault as fault:
                raise DmaFault(iova, length, fault.cause, write=True) from None
            except Miss:
                at = iova + line.delta
                raise self._missed(iova, length, iova, at, length, Access.WRITE) from None
        whole = memoryview(data)
        runs = self._runs(iova, length, Access.WRITE)
        if len(runs) > 1 and any(self._memory.lender(to) for _, to, _ in runs):
            raise Elsewhere(iova, length, ACCESS_FAULT[Access.WRITE], write=True)
        for at, to, count in runs:
            done = at - iova
            self.store(at, to, whole[done : done + count])

    def views(self, iova: Iova, length: int, write: bool) -> list[memoryview | Piece]:
        """The bytes of an access themselves, in order, as few runs as there are.

        Everything is translated before this returns.  A view is good until the
        piece of work ends that asked for it: the window may be gone in the next.

        Raises:
            DmaFault: a byte of it may not be reached.
        """
        access = Access.WRITE if write else Access.READ
        found: list[memoryview | Piece] = []
        for at, to, count in self._runs(iova, length, access):
            view = self._memory.view(to, count, write=write)
            found.append(Piece(self, at, to, count, write) if view is None else view)
        return found

    def first(
        self, iova: Iova, length: int, *, write: bool
    ) -> tuple[int, tuple[Lender, int] | None]:
        """Where an access begins: how many bytes lie together, and whom to ask for them.

        That is None if they are here, else the client and the Iova that it knows them
        by.  The whole access is translated, as ``read`` and ``write`` do it.

        Raises:
            DmaFault: a byte of it may not be reached.
        """
        runs = self._runs(iova, length, Access.WRITE if write else Access.READ)
        _, to, count = runs[0]
        return count, self._memory.lender(to)

    def places(self, iova: Iova, length: int, *, write: bool) -> list[tuple[Hpa, int]]:
        """Where an access would end: runs of physical memory, (first address, bytes).

        Raises:
            DmaFault: a byte of it may not be reached.
        """
        runs = self._runs(iova, length, Access.WRITE if write else Access.READ)
        return [(to, count) for _, to, count in runs]

    def granted(self, iova: Iova, *, write: bool) -> bool:
        """What ATS says of a page; nothing is moved, and a page that is absent is no fault."""
        if not self.gate.enabled:
            return True  # the access itself will fault, and not for want of a page
        access = Access.WRITE if write else Access.READ
        answer = self._iommu.ask(Request(self.device_id, self.process_id, iova, access, asks=True))
        return answer.write if write else answer.read

    def check(self, iova: Iova, length: int, *, write: bool) -> None:
        """Raise the DmaFault that an access would end with, and move nothing."""
        self._runs(iova, length, Access.WRITE if write else Access.READ)

    def read_u16(self, iova: Iova) -> int:
        """Little-endian, 2 bytes."""
        value: int = _U16.unpack(self.read(iova, 2))[0]
        return value

    def read_u32(self, iova: Iova) -> int:
        """Little-endian, 4 bytes."""
        value: int = _U32.unpack(self.read(iova, 4))[0]
        return value

    def read_u64(self, iova: Iova) -> int:
        """Little-endian, 8 bytes."""
        value: int = _U64.unpack(self.read(iova, 8))[0]
        return value

    def write_u16(self, iova: Iova, value: int) -> None:
        """Little-endian, 2 bytes."""
        self.write(iova, _U16.pack(value))

    def write_u32(self, iova: Iova, value: int) -> None:
        """Little-endian, 4 bytes."""
        self.write(iova, _U32.pack(value))

    def write_u64(self, iova: Iova, value: int) -> None:
        """Little-endian, 8 bytes."""
        self.write(iova, _U64.pack(value))

    def load(self, iova: Iova, at: Hpa, length: int) -> bytes:
        """Read one run that ``iova`` was translated to."""
        try:
            return self._memory.read(at, length)
        except Miss:
            raise self._missed(iova, length, iova, at, length, Access.READ) from None

    def store(self, iova: Iova, at: Hpa, data: bytes | bytearray | memoryview) -> None:
        """Write one run that ``iova`` was translated to."""
        try:
            self._memory.write(at, data)
        except Miss:
            raise self._missed(iova, len(data), iova, at, len(data), Access.WRITE) from None

    def _runs(self, iova: Iova, length: int, access: Access) -> list[tuple[Iova, Hpa, int]]:
        """Translate a whole access, if it is let through; see ``translated``."""
        if not self.gate.enabled:
            raise DmaFault(iova, length, NOT_ALLOWED, write=access == Access.WRITE)
        for guard in self.gate.guards:
            guard(self, iova, length, access)
        return self.translated(iova, length, access)

    def translated(self, iova: Iova, length: int, access: Access) -> list[tuple[Iova, Hpa, int]]:
        """Where an access ends: runs (first Iova, first physical address, bytes).  For guards.

        Raises:
            DmaFault: a byte of it may not be reached.
        """
        write = access == Access.WRITE
        end = iova + length
        if end > _END:
            # No address space reaches further; a bus would have wrapped.
            raise self.refused(iova, length, PAGE_FAULT[access], access)
        runs: list[tuple[Iova, Hpa, int]] = []
        at = int(iova)
        while at < end:
            try:
                following = self._next(at, end, access)
            except Fault as fault:
                # A batch tells which page it stopped at; those before it are there.
                first = at if fault.iova is None else fault.iova
                self._all_present(at, first, iova, length, access)
                raise DmaFault(first, end - first, fault.cause, write=write) from None
            for to, count in following:
                if not self._memory.present(to, count, write=write):
                    raise self._missed(iova, length, at, to, count, access)
                if runs and runs[-1][1] + runs[-1][2] == to:
                    first, before, had = runs[-1]
                    # Two ranges of memory may touch by chance; a run lies in one.
                    if self._memory.present(before, had + count, write=write):
                        runs[-1] = first, before, had + count
                        at += count
                        continue
                runs.append((Iova(at), Hpa(to), count))
                at += count
        return runs

    def _next(self, at: int, end: int, access: Access) -> list[tuple[int, int]]:
        """The next runs of an access to ``at`` to ``end`` - 1: physical address and length.

        One run if the translation around ``at`` is large; as many pages at once as a
        batch has if the tables are made of pages.

        Raises:
            Fault: it was reported.
        """
        line = self._requester.line(at, access)
        count = min(line.high, end) - at
        if end - at - count < PAGES_WORTH_A_BATCH * PAGE or line.high - line.low > PAGE:
            return [(at + line.delta, count)]
        pages = range(at + count, min(end & -PAGE, at + count + BATCH * PAGE), PAGE)
        return [
            (at + line.delta, count),
            *_joined(self._requester.translate_many(pages, access)),
        ]

    def _all_present(self, at: int, end: int, iova: int, length: int, access: Access) -> None:
        """Raise the fault of the first page of some translated ones that has no memory."""
        while at < end:
            count = min(PAGE - (at & PAGE - 1), end - at)
            to = self._requester.translate(at, access)
            if not self._memory.present(to, count, write=access == Access.WRITE):
                raise self._missed(iova, length, at, to, count, access)
            at += count

    def _missed(
        self, iova: int, length: int, at: int, to: int, count: int, access: Access
    ) -> DmaFault:
        """Nothing is behind a run at ``to``: an access fault at its first missing page.

        Unless a client has it: then nothing is wrong, and nothing is reported.
        """
        write = access == Access.WRITE
        if self._memory.lender(to):
            return Elsewhere(at, iova + length - at, ACCESS_FAULT[access], write=write)
        first = at
        for page in range(at & -PAGE, at + count, PAGE):
            first = max(page, at)
            last = min(page + PAGE, at + count)
            if not self._memory.present(to + first - at, last - first, write=write):
                break
        return self.refused(Iova(first), iova + length - first, ACCESS_FAULT[access], access)

    def refused(self, iova: Iova, length: int, cause: Cause, access: Access) -> DmaFault:
        """Have the IOMMU report a fault of ``length`` bytes at ``iova``; what is to be raised."""
        self._iommu.report(Request(self.device_id, self.process_id, iova, access), Fault(cause))
        return DmaFault(iova, length, cause, write=access == Access.WRITE)


def _joined(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of whole pages that stand side by side in physical memory."""
    runs: list[tuple[int, int]] = []
    first = last = -PAGE
    for page in pages:
        if page != last + PAGE:
            if last >= 0:
                runs.append((first, last + PAGE - first))
            first = page
        last = page
    if last >= 0:
        runs.append((first, last + PAGE - first))
    return runs
