"""How an mdev sits in the IOMMU: behind a PASID of the accelerator, or as a device of its own.

mode   requester                       stages
pasid  (accelerator, a host's PASID)   first: Iova to Hpa, both the host's
rid    (its own id, a guest's PASIDs)  first: the guest's; second: Gpa to Hpa, the host's
"""

from collections.abc import Callable
from typing import Protocol

from mdevemu.iommu.formats import Ats, GuestTranslation, Opcode, TablePointer, TranslationControl
from mdevemu.mdev.commands import (
    command,
    device_changed,
    guest_pages_changed,
    pages_changed,
    process_changed,
    second_stage_changed,
)
from mdevemu.mdev.host_iommu import HostIommu
from mdevemu.mdev.tables import Exhausted, PageTable
from mdevemu.units import HBM_GPA, HBM_IOVA

MAX_TABLES = 8192
"""Tables of one mdev: enough for 16 GiB in 4 KiB pages."""

SV48X4 = 9


class Attachment(Protocol):
    """A place at the IOMMU."""

    @property
    def table(self) -> PageTable:
        """What it reaches; whoever changes it submits ``invalidation`` afterwards."""

    @property
    def device_id(self) -> int:
        """Whom the IOMMU sees behind an access."""

    @property
    def pasid(self) -> int | None:
        """With which PASID; None if those are the guest's own."""

    @property
    def hbm_at(self) -> int:
        """Where its HBM is mapped."""

    def invalidation(self, address: int = 0, size: int = 0) -> int:
        """The command after entries of ``size`` bytes at ``address``, or any, were cleared."""

    def replace(self, then: Callable[[], None]) -> None:
        """Use the table's new root instead of the one before, in one step.

        ``then`` runs when the one before is not used any more.
        """

    def detach(self, then: Callable[[], None]) -> None:
        """Give the place up; every access faults from now on.

        ``then`` runs when nothing of the table is used any more; its frames are back.
        """


class SharedDevice:
    """A PASID of the accelerator: real tables are behind it, and they are the host's."""

    hbm_at = HBM_IOVA

    def __init__(self, host: HostIommu, device_id: int) -> None:
        """Take the lowest free PASID.

        Raises:
            Exhausted: no PASID, or no frame for tables, is left; nothing changed.
        """
        self._host = host
        self.device_id = device_id
        self.table = PageTable(host.frames, MAX_TABLES)
        try:
            self.pasid = host.attach(device_id, self.table.root)
        except Exhausted:
            self.table.close()
            raise

    def invalidation(self, address: int = 0, size: int = 0) -> int:
        return pages_changed(self.pasid, address, size)

    def replace(self, then: Callable[[], None]) -> None:
        self._host.replace(self.device_id, self.pasid, self.table.root, then)

    def detach(self, then: Callable[[], None]) -> None:
        def forgotten() -> None:
            self.table.close()
            then()

        self._host.detach(self.device_id, self.pasid, forgotten)


class OwnDevice:
    """A device id of its own: the guest's directory and first stage, on the host's second stage.

    The guest's soft-context ids mean something in this guest alone: every
    command about them carries the guest's GSCID, which is the device id.
    """

    hbm_at = HBM_GPA
    pasid: int | None = None

    def __init__(self, host: HostIommu, device_id: int) -> None:
        """Enter the device, with a second stage that maps nothing and no PASID.

        Raises:
            Exhausted: no frame for tables is left; nothing changed.
        """
        self._host = host
        self.device_id = device_id
        self.table = PageTable(host.frames, MAX_TABLES, second=True)
        try:
            self._context = host.frames.word(host.context(device_id))
        except Exhausted:
            self.table.close()
            raise
        tc = TranslationControl()
        tc.v = tc.en_ats = tc.en_pri = tc.prpr = tc.sade = True
        self._tc = tc
        host.guests.add(device_id)
        words = host.frames.words
        words[self._context + 1], words[self._context + 2] = self._second_stage(), 0
        self._point(0, 0)

    def _second_stage(self) -> int:
        """The iohgatp of the device context."""
        stage = GuestTranslation()
        stage.mode, stage.gscid, stage.ppn = SV48X4, self.device_id, self.table.root >> 12
        return int(stage)

    def set_directory(self, mode: int, base: int) -> None:
        """Use the guest's process directory at guest-physical ``base``; mode 0 is none.

        ``mode`` is a ``DirectoryMode``; ``base`` is a multiple of 4 KiB.
        """
        if not mode and not self._tc.pdtv:
            return  # there was none: nobody knows anything of it
        self._point(mode, base)
        self._host.submit(*self._context_changed())

    def _context_changed(self) -> tuple[int, int, int]:
        """Spec: RISC-V IOMMU 1.0, Changing device directory table entry"""
        device_id = self.device_id
        return (
            device_changed(device_id),
            guest_pages_changed(device_id),
            second_stage_changed(device_id),
        )

    def _point(self, mode: int, base: int) -> None:
        """Spec: RISC-V IOMMU 1.0, Device-context fields: tc.PDTV, fsc.pdtp"""
        pointer = TablePointer()
        pointer.mode, pointer.ppn = mode, base >> 12
        self._tc.pdtv = mode != 0
        words = self._host.frames.words
        words[self._context + 3] = int(pointer)
        words[self._context] = int(self._tc)

    def invalidate_process(self, pasid: int) -> None:
        """The guest changed the process context of a PASID of its own."""
        self._host.submit(process_changed(self.device_id, pasid))

    def invalidate_pages(self, pscid: int | None, address: int | None) -> None:
        """The guest changed first-stage entries: of a soft context or of all, one page or any."""
        self._host.submit(guest_pages_changed(self.device_id, pscid, address))

    def respond(self, pasid: int | None, group: int, code: int) -> None:
        """Answer a page request group."""
        self._host.submit(
            command(
                Ats(),
                opcode=Opcode.ATS,
                func3=1,
                rid=self.device_id,
                pv=int(pasid is not None),
                pid=pasid or 0,
                payload=group << 32 | code << 44,
            )
        )

    def invalidation(self, address: int = 0, size: int = 0) -> int:
        return second_stage_changed(self.device_id, address, size)

    def replace(self, then: Callable[[], None]) -> None:
        self._host.frames.words[self._context + 1] = self._second_stage()
        self._host.submit(*self._context_changed(), then=then)

    def detach(self, then: Callable[[], None]) -> None:
        def forgotten() -> None:
            self._host.guests.discard(self.device_id)
            self.table.close()
            then()

        self._host.frames.words[self._context] = 0
        self._host.submit(*self._context_changed(), then=forgotten)
