"""PCIe Address Translation Services: questions of devices' caches, and page requests.

Spec: RISC-V IOMMU 1.0, PCIe ATS translation request handling; PCIe ATS Page Request handling
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mdevemu.iommu.causes import Access, Cause, Fault
from mdevemu.iommu.contexts import DeviceContext
from mdevemu.iommu.formats import (
    PageRequestHeader,
    PageRequestPayload,
    PageRequestRecord,
)
from mdevemu.iommu.queues import RecordQueue
from mdevemu.iommu.requests import Request
from mdevemu.iommu.translation import Translator
from mdevemu.iommu.walk import grants_of, line_of
from mdevemu.layout import pack

PAGE_REQUEST = 4
"""Message code of a "Page Request".  Spec: PCIe 5.0 §2.2.8.10"""

# Which faults are an answer of their own, and which are "nothing is allowed here".
COMPLETER_ABORT = frozenset(
    {
        Cause.INSTRUCTION_ACCESS_FAULT,
        Cause.READ_ACCESS_FAULT,
        Cause.WRITE_AMO_ACCESS_FAULT,
        Cause.MSI_PTE_LOAD_ACCESS_FAULT,
        Cause.MSI_PTE_MISCONFIGURED,
        Cause.PDT_ENTRY_LOAD_ACCESS_FAULT,
        Cause.PDT_ENTRY_MISCONFIGURED,
    }
)
SUCCESS = frozenset(
    {
        Cause.INSTRUCTION_PAGE_FAULT,
        Cause.READ_PAGE_FAULT,
        Cause.WRITE_AMO_PAGE_FAULT,
        Cause.INSTRUCTION_GUEST_PAGE_FAULT,
        Cause.READ_GUEST_PAGE_FAULT,
        Cause.WRITE_AMO_GUEST_PAGE_FAULT,
        Cause.PDT_ENTRY_NOT_VALID,
        Cause.MSI_PTE_NOT_VALID,
    }
)


class Status(enum.Enum):
    """How a translation request is completed."""

    SUCCESS = "success"
    UNSUPPORTED_REQUEST = "unsupported request"
    COMPLETER_ABORT = "completer abort"


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to a PCIe ATS Translation Request.

    Attributes:
        low, size: of the range that it translates, in bytes.
        address: what ``low`` is translated to; a GPA with T2GPA.
        read, write, execute: what is granted; all False if nothing is.
        privileged, everywhere: Priv and Global of the completion.
    """

    status: Status
    low: int = 0
    size: int = 0
    address: int = 0
    read: bool = False
    write: bool = False
    execute: bool = False
    privileged: bool = False
    everywhere: bool = False


class ResponseCode(enum.IntEnum):
    """Of a "Page Request Group Response".  Spec: PCIe 5.0 §10.4.2.1"""

    SUCCESS = 0
    INVALID_REQUEST = 1
    RESPONSE_FAILURE = 15


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A "Page Request" or "Stop Marker" message.

    Attributes:
        rid: requester id, 16 bits.
        segment: of the requester, or None in a system that has one only.
        pasid: or None without one.
        payload: bytes 8 to 15 of the message.
    """

    rid: int
    segment: int | None
    pasid: int | None
    privileged: bool
    execute: bool
    payload: int

    @property
    def device_id(self) -> int:
        """Who asks, as the IOMMU names it."""
        return (self.segment or 0) << 16 | self.rid


@dataclass(frozen=True, slots=True)
class PageResponse:
    """A "Page Request Group Response" message to a device.

    Attributes:
        index: the page request group's.
    """

    rid: int
    segment: int | None
    pasid: int | None
    code: int
    index: int


@dataclass(frozen=True, slots=True)
class Invalidation:
    """An "Invalidation Request" message to a device.

    Attributes:
        payload: its body.
    """

    rid: int
    segment: int | None
    pasid: int | None
    payload: int


class Fabric(Protocol):
    """The way to the devices, for messages that the IOMMU sends."""

    def invalidate(self, message: Invalidation) -> bool:
        """Deliver it; the device's answer comes back as ``Iommu.invalidated``.

        False: nobody is there to answer, and it has timed out.
        """

    def respond(self, message: PageResponse) -> None:
        """Deliver it."""


class Silence:
    """A fabric whose devices do not speak ATS."""

    def invalidate(self, message: Invalidation) -> bool:
        """Nobody answers."""
        return False

    def respond(self, message: PageResponse) -> None:
        """Nobody listens."""


class Services:
    """Answers translation requests and queues page requests."""

    def __init__(
        self,
        translator: Translator,
        queue: RecordQueue,
        fabric: Fabric,
        report: Callable[[Request, Fault, DeviceContext | None], None],
        message_fault: Callable[[PageRequest, Fault, DeviceContext | None], None],
    ) -> None:
        """``report`` and ``message_fault`` write fault records, if the context wants any."""
        self._translator = translator
        self._queue = queue
        self._fabric = fabric
        self._report = report
        self._message_fault = message_fault

    def translate(self, request: Request) -> Completion:
        """Answer a PCIe ATS Translation Request."""
        context: DeviceContext | None = None
        try:
            context = self._translator.device(request.device_id)
            self._translator.passes(request, context)
            assert context is not None
            return self._granted(request, context)
        except Fault as fault:
            if fault.cause in SUCCESS:
                return Completion(Status.SUCCESS, privileged=request.privileged)
            self._report(request, fault, context)
            if fault.cause in COMPLETER_ABORT:
                return Completion(Status.COMPLETER_ABORT)
            return Completion(Status.UNSUPPORTED_REQUEST)

    def _granted(self, request: Request, context: DeviceContext) -> Completion:
        """Success, with whatever both stages grant of what is asked for."""
        translator, iova = self._translator, request.iova
        space = translator.found = translator.space(request, context)
        translator.walked()
        first, second = translator.leaves(request, space)
        granted = grants_of(first, second)
        granted >>= 0 if not request.privileged else 6 if space.sum else 3
        read = bool(granted & Access.READ)
        low, size, address = iova & ~0xFFF, 4096, iova & ~0xFFF
        everywhere = False
        if first is not None or second is not None:
            to_guest = context.t2gpa and first is not None
            line, _ = line_of(iova, first, None if to_guest else second)
            if context.t2gpa and first is None:
                line, _ = line_of(iova, None, second)
                line.delta = 0
            low, size, address = line.low, line.high - line.low, line.low + line.delta
            everywhere = line.everywhere and request.process_id is not None
        return Completion(
            Status.SUCCESS,
            low=low,
            size=size,
            address=address,
            read=read,
            write=bool(granted & Access.WRITE & request.access),
            execute=read and bool(granted & Access.EXECUTE) and request.execute,
            privileged=request.privileged,
            everywhere=everywhere,
        )

    def page_request(self, message: PageRequest) -> None:
        """Queue a page request, or answer it at once if that cannot be."""
        context: DeviceContext | None = None
        try:
            context = self._translator.device(message.device_id)
            if context is None or not (context.en_ats and context.en_pri):
                raise Fault(Cause.TRANSACTION_TYPE_DISALLOWED)
        except Fault as fault:
            self._message_fault(message, fault, context)
            invalid = fault.cause == Cause.TRANSACTION_TYPE_DISALLOWED
            code = ResponseCode.INVALID_REQUEST if invalid else ResponseCode.RESPONSE_FAILURE
            self._answer(message, context, code)
            return
        queue = self._queue
        if queue.running and queue.push(_record(message)):
            return
        failed = not queue.on or queue.broken
        code = ResponseCode.RESPONSE_FAILURE if failed else ResponseCode.SUCCESS
        self._answer(message, context, code)

    def _answer(
        self, message: PageRequest, context: DeviceContext | None, code: ResponseCode
    ) -> None:
        """Respond for software, if the message needs a response at all."""
        payload = PageRequestPayload(message.payload)
        marker = message.pasid is not None and not payload.r and not payload.w
        if not payload.last or marker:
            return
        tagged = code == ResponseCode.RESPONSE_FAILURE or (context is not None and context.prpr)
        self._fabric.respond(
            PageResponse(
                rid=message.rid,
                segment=message.segment,
                pasid=message.pasid if tagged else None,
                code=code,
                index=payload.index,
            )
        )


def _record(message: PageRequest) -> bytes:
    """A page request as the queue holds it."""
    header = PageRequestHeader()
    header.did = message.device_id
    if message.pasid is not None:
        header.pv = True
        header.pid = message.pasid
        header.priv = message.privileged
        header.exec = message.execute
    return pack(PageRequestRecord(header=int(header), payload=message.payload))
