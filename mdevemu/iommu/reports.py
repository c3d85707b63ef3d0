"""Fault records: who asked for what, and why it was refused.

Spec: RISC-V IOMMU 1.0, Fault/Event-Queue
"""

from mdevemu.iommu.ats import PAGE_REQUEST, PageRequest
from mdevemu.iommu.causes import ALWAYS_REPORTED, Cause, Fault, TransactionType
from mdevemu.iommu.contexts import DeviceContext
from mdevemu.iommu.formats import FaultHeader, FaultRecord
from mdevemu.iommu.queues import RecordQueue
from mdevemu.iommu.registers import FeatureControl
from mdevemu.iommu.requests import Request
from mdevemu.layout import pack
from mdevemu.trace import Trace


class Reporter:
    """Writes fault records, unless the device's context does not want them (DTF)."""

    def __init__(self, queue: RecordQueue, fctl: FeatureControl, trace: Trace) -> None:
        self._queue = queue
        self._fctl = fctl
        self._trace = trace

    def request(self, request: Request, fault: Fault, context: DeviceContext | None = None) -> None:
        """A translation stopped."""
        if _wanted(fault, context):
            self._record(
                fault.cause,
                request.kind,
                request.device_id,
                request.process_id,
                request.privileged,
                request.iova & (1 << 64) - 1,
                fault.iotval2,
            )

    def message(self, message: PageRequest, fault: Fault, context: DeviceContext | None) -> None:
        """A "Page Request" message came from a device that may not send any."""
        if _wanted(fault, context):
            self._record(
                fault.cause,
                TransactionType.PCIE_MESSAGE_REQUEST,
                message.device_id,
                message.pasid,
                message.privileged and message.pasid is not None,
                PAGE_REQUEST,
                0,
            )

    def interrupt(self, address: int) -> None:
        """An MSI of the IOMMU's own could not be written to ``address``."""
        self._record(
            Cause.IOMMU_MSI_WRITE_ACCESS_FAULT, TransactionType.NONE, 0, None, False, address, 0
        )

    def _record(
        self,
        cause: Cause,
        kind: TransactionType,
        device_id: int,
        process_id: int | None,
        supervisor: bool,
        iotval: int,
        iotval2: int,
    ) -> None:
        header = FaultHeader()
        header.cause = cause
        header.ttyp = kind
        header.did = device_id
        header.pv = process_id is not None
        header.pid = process_id or 0
        header.priv = supervisor
        record = pack(FaultRecord(header=int(header), custom=0, iotval=iotval, iotval2=iotval2))
        if self._fctl.be:
            record = b"".join(record[n : n + 8][::-1] for n in range(0, 32, 8))
        kept = self._queue.push(record)
        self._trace.emit(
            "iommu.fault",
            device_id=device_id,
            pasid=process_id,
            cause=int(cause),
            cause_name=cause.title,
            ttyp=int(kind),
            iova=iotval,
            recorded=kept,
        )


def _wanted(fault: Fault, context: DeviceContext | None) -> bool:
    return context is None or not context.dtf or fault.cause in ALWAYS_REPORTED
