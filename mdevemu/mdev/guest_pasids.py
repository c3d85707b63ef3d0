"""What a slice with a device id of its own does at the IOMMU, for its guest."""

from mdevemu.iommu import Iommu
from mdevemu.iommu.ats import PageRequest
from mdevemu.iommu.formats import PageRequestPayload
from mdevemu.mdev.attachment import OwnDevice


class GuestPasids:
    """PASIDs that belong to a guest: process directory and first stages are its own.

    Attributes:
        bits: width of a PASID.
    """

    def __init__(self, iommu: Iommu, device: OwnDevice, bits: int) -> None:
        self._iommu = iommu
        self._device = device
        self.bits = bits

    def set_directory(self, mode: int, base: int) -> None:
        """Use the guest's process directory at guest-physical ``base``; mode 0 is none."""
        self._device.set_directory(mode, base)

    def invalidate_process(self, pasid: int) -> None:
        """The guest changed the process context of a PASID."""
        self._device.invalidate_process(pasid)

    def invalidate_pages(self, pscid: int | None, address: int | None) -> None:
        """The guest changed first-stage entries: of a soft context or all, a page or any."""
        self._device.invalidate_pages(pscid, address)

    def ask(self, pasid: int, iova: int, group: int, *, write: bool) -> None:
        """Send a "Page Request" message, the only one of its group.

        Spec: PCIe 5.0 §10.4.1
        """
        payload = PageRequestPayload()
        payload.r, payload.w, payload.last = not write, write, True
        payload.index, payload.address = group, iova >> 12
        self._iommu.page_request(
            PageRequest(
                rid=self._device.device_id,
                segment=None,
                pasid=pasid,
                privileged=False,
                execute=False,
                payload=int(payload),
            )
        )

    def respond(self, pasid: int, group: int, code: int) -> None:
        """Have the IOMMU send a "Page Request Group Response" message."""
        self._device.respond(pasid, group, code)
