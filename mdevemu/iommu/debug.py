"""The translation-request interface: software asks how an Iova is translated.

Spec: RISC-V IOMMU 1.0, Debug support
"""

from collections.abc import Callable

from mdevemu.iommu.caches import Line
from mdevemu.iommu.causes import ACCESS_FAULT, Access, Fault
from mdevemu.iommu.registers import IommuRegisters
from mdevemu.iommu.requests import Request
from mdevemu.layout.words import put_raw

_PHYSICAL_BITS = 56


class DebugRequests:
    """tr_req_iova, tr_req_ctl and tr_response at work: answered before the write returns."""

    def __init__(
        self,
        regs: IommuRegisters,
        translate: Callable[[Request], Line],
        report: Callable[[Request, Fault], None],
    ) -> None:
        """``translate`` reports the faults that it raises."""
        self._regs = regs
        self._translate = translate
        self._report = report

    def controlled(self) -> None:
        """Software wrote tr_req_ctl."""
        control, response = self._regs.tr_req_ctl, self._regs.tr_response
        if not control.go_busy:
            return
        control.go_busy = False
        put_raw(response, 0)
        access = Access.WRITE
        if control.exe:
            access = Access.EXECUTE
        elif control.nw:
            access = Access.READ
        request = Request(
            device_id=control.did,
            process_id=control.pid if control.pv else None,
            iova=self._regs.tr_req_iova.vpn << 12,
            access=access,
            supervisor=control.priv,
        )
        try:
            line = self._translate(request)
        except Fault:
            response.fault = True
            return
        address = request.iova + line.delta
        if address >> _PHYSICAL_BITS:
            # Untranslated, and wider than any physical address: the access would fault.
            self._report(request, Fault(ACCESS_FAULT[access]))
            response.fault = True
            return
        response.pbmt = line.pbmt
        pages = line.high - line.low >> 12
        if 1 < pages < 1 << 52:
            # The lowest zero bit of PPN tells the size.
            response.s = True
            response.ppn = address >> 12 & ~(pages - 1) | (pages >> 1) - 1
        else:
            response.ppn = address >> 12
