"""The steps from a request to an address, with the caches in between.

Spec: RISC-V IOMMU 1.0, Process to translate an IOVA; step numbers are its own
"""

import contextlib

from mdevemu.iommu.caches import CacheSizes, DirectoryCache, Iotlb, Line
from mdevemu.iommu.causes import Cause, Fault
from mdevemu.iommu.contexts import PROCESS_BITS, DeviceContext, Directories
from mdevemu.iommu.monitoring import Subject
from mdevemu.iommu.msi import interrupt_file, msi_leaf
from mdevemu.iommu.registers import IommuRegisters, Mode
from mdevemu.iommu.requests import Request
from mdevemu.iommu.walk import Leaf, Space, Step, Walker, line_of
from mdevemu.memory import PhysicalMemory

EVERYTHING = 1 << 64


class Translator:
    """Translates, or raises ``Fault``; reporting the fault is its owner's business.

    Wherever ``steps`` are given, tables alone are looked at, each entry is added
    to them, and neither a cache nor an entry changes.

    Attributes:
        iotlb, devices, processes: the caches.
        found: the address space that a request last turned out to be about.
        live: the hit path may trust the caches, for translation is on, and nobody
            counts requests.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        regs: IommuRegisters,
        walker: Walker,
        directories: Directories,
        sizes: CacheSizes,
    ) -> None:
        self._memory = memory
        self._ddtp, self._fctl = regs.ddtp, regs.fctl
        self._walker = walker
        self._directories = directories
        self.iotlb = Iotlb(sizes.spaces, sizes.lines)
        self.devices: DirectoryCache[DeviceContext] = DirectoryCache(sizes.devices)
        self.processes: DirectoryCache[Space] = DirectoryCache(sizes.processes)
        self.found: Space | None = None
        self.live = False

    def hit(self, device_id: int, process_id: int, iova: int, access: int) -> Line | None:
        """The cached answer to an untranslated user request with a process id."""
        if self.live:
            space = self.processes.entries.get(device_id << 20 | process_id)
            if space is not None:
                lines = self.iotlb.by_tag.get(space.tag)
                if lines is not None:
                    by_page = lines.by_page
                    for shift in lines.shifts:
                        line = by_page.get(iova >> shift << 6 | shift)
                        if line is not None and line.grants & access:
                            return line
        return None

    def device(self, device_id: int, steps: list[Step] | None = None) -> DeviceContext | None:
        """Steps 1 to 6: the device context; None if no translation is on (Bare).

        Raises:
            Fault: causes 256 to 260.
        """
        mode = self._ddtp.iommu_mode
        # 1.
        if mode == Mode.OFF:
            raise Fault(Cause.ALL_INBOUND_TRANSACTIONS_DISALLOWED)
        # 2.
        if mode == Mode.BARE:
            return None
        context = self.devices.entries.get(device_id) if steps is None else None
        if context is None:
            # 3. to 5. The device id is wider than the mode allows.
            if not self._directories.fits(device_id, mode):
                raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
            # 6.
            context = self._directories.device(mode, self._ddtp.ppn << 12, device_id, steps)
            if steps is None:
                self.devices.fill(device_id, context)
        return context

    def outdated(self, request: Request) -> list[str]:
        """The directory caches, DDT and PDT, that hold another context than memory does now.

        A request is answered by what they hold, until an invalidation.
        """
        found = []
        device: DeviceContext | None = None
        with contextlib.suppress(Fault):
            device = self.device(request.device_id, [])
        context = self.devices.entries.get(request.device_id, device)
        if context != device:
            found.append("DDT")
        if context is not None and context.pdtv and (request.process_id is not None or context.dpe):
            space = self.processes.entries.get(request.device_id << 20 | (request.process_id or 0))
            now: Space | None = None
            if space is not None:
                with contextlib.suppress(Fault):
                    now = self.space(request, context, [])
                if space != now:
                    found.append("PDT")
        return found

    def resolve(
        self, request: Request, context: DeviceContext | None, steps: list[Step] | None = None
    ) -> Line:
        """Steps 7 to 20, for an access; the line holds at least ``request.iova``.

        Raises:
            Fault: any that the process can end with.
        """
        if self.passes(request, context):
            return identity()
        assert context is not None
        # 9. A translated request with T2GPA carries a GPA.
        space = context.untagged if request.translated else self.space(request, context, steps)
        self.found = space
        if space.first is None and space.second is None:
            return identity()
        iova, access = request.iova, request.access
        if steps is None:
            found = self._cached(space, iova, access << _view(request, space))
            if found is not None:
                return found
            self.walked()
        first, second = self.leaves(request, space, steps)
        line, shift = line_of(iova, first, second)
        if steps is None:
            self.iotlb.fill(space.tag, shift, line)
        return line

    def passes(self, request: Request, context: DeviceContext | None) -> bool:
        """Steps 2, 7 and 8: the request may go on, and as True needs no translation.

        Raises:
            Fault: cause 260.
        """
        if context is None:
            if request.translated or request.asks:
                raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
            return True
        # 7.
        if (request.translated or request.asks) and not context.en_ats:
            raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
        if request.process_id is not None:
            if not context.pdtv:
                raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
            if context.directory and request.process_id >> PROCESS_BITS[context.directory]:
                raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
        # 8.
        return request.translated and not context.t2gpa

    def space(
        self, request: Request, context: DeviceContext, steps: list[Step] | None = None
    ) -> Space:
        """Steps 10 to 16: the address space that the request names.

        Raises:
            Fault: causes 260 and 265 to 267, and faults of reading a guest's directory.
        """
        # 10.
        process_id = request.process_id
        if not context.pdtv:
            return context.own
        # 11. and 12.
        if process_id is None:
            if not context.dpe:
                return context.untagged
            process_id = 0
        # 13.
        if not context.directory:
            return context.untagged
        # 14.
        key = request.device_id << 20 | process_id
        space = self.processes.entries.get(key) if steps is None else None
        if space is None:
            space = self._directories.process(context, process_id, request.access, steps)
            if steps is None:
                self.processes.fill(key, space)
        # 15.
        if request.privileged and not space.supervisor:
            raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
        # 16.
        return space

    def leaves(
        self, request: Request, space: Space, steps: list[Step] | None = None
    ) -> tuple[Leaf | None, Leaf | None]:
        """Steps 17 to 19: the leaf entries of both stages; None for a stage that is Bare.

        Raises:
            Fault: any that a walk can end with.
        """
        gpa, access, asks = request.iova, request.access, request.asks
        first = None
        # 17.
        if space.first is not None:
            first = self._walker.first(
                space,
                gpa,
                access,
                supervisor=request.privileged,
                asks=asks,
                steps=steps,
            )
            gpa = first.base | gpa & (1 << first.shift) - 1
        # 18.
        if space.msi is not None:
            number = interrupt_file(space.msi, gpa)
            if number is not None:
                big = self._fctl.be
                return first, msi_leaf(self._memory, space.msi, number, access, big=big)
        # 19.
        if space.second is None:
            return first, None
        return first, self._walker.second(space, gpa, access, asks=asks, steps=steps)

    def cached(self, request: Request) -> Line | None:
        """What the caches alone would answer an untranslated access; None if it would walk."""
        context = self.devices.entries.get(request.device_id)
        if not self._ddtp.iommu_mode > Mode.BARE or context is None:
            return None
        try:
            self.passes(request, context)
            space = self._known(request, context)
        except Fault:
            return None
        if space is None or (request.privileged and not space.supervisor):
            return None
        return self._cached(space, request.iova, request.access << _view(request, space))

    def _known(self, request: Request, context: DeviceContext) -> Space | None:
        """The address space of a request, if no directory need be read for it."""
        if not context.pdtv:
            return context.own
        process_id = request.process_id
        if process_id is None and context.dpe:
            process_id = 0
        if process_id is None or not context.directory:
            return context.untagged
        return self.processes.entries.get(request.device_id << 20 | process_id)

    def walked(self) -> None:
        """The IOTLB had no answer to a request."""
        self._walker.tally.misses += 1

    def subject(self, request: Request) -> Subject:
        """Whom the performance monitor counts a request for."""
        space = self.found
        gscid = pscid = None
        if space is not None:
            gscid = None if space.second is None else space.gscid
            pscid = None if space.first is None else space.pscid
        return Subject(request.device_id, request.process_id, gscid, pscid)

    def _cached(self, space: Space, iova: int, need: int) -> Line | None:
        """A cached translation that grants ``need`` (see ``Line.grants``)."""
        lines = self.iotlb.by_tag.get(space.tag)
        if lines is not None:
            for shift in lines.shifts:
                line = lines.by_page.get(iova >> shift << 6 | shift)
                if line is not None and line.grants & need:
                    return line
        return None


def identity() -> Line:
    """The translation of a request that needs none."""
    return Line(0, EVERYTHING, 0, 0o777, 0, False, 0, EVERYTHING, 0)


def _view(request: Request, space: Space) -> int:
    """Which of the three groups of ``Line.grants`` counts, as a shift."""
    if not request.privileged:
        return 0
    return 6 if space.sum else 3
