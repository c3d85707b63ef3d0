"""DMA_MAP and DMA_UNMAP: the windows of one session, lent and taken back."""

from functools import partial

from mdevemu.errors import RequestError
from mdevemu.layout import pack
from mdevemu.trace import Trace
from mdevemu.vfio_user import messages
from mdevemu.vfio_user.device import Function
from mdevemu.vfio_user.dirty import Logging
from mdevemu.vfio_user.features_wire import BitmapRequest
from mdevemu.vfio_user.lender import Asked
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.pending import Pending, Reply
from mdevemu.vfio_user.windows import Lent, Windows
from mdevemu.vfio_user.wire import DmaUnmap, MapFlags, UnmapFlags


class Memory:
    """What one client lends.

    Attributes:
        asked: what we asked of it by message; None if it cannot be asked.
    """

    def __init__(
        self, function: Function, windows: Windows, logging: Logging, trace: Trace, name: str
    ) -> None:
        """``name`` is the session's, for the trace."""
        self.asked: Asked | None = None
        self._function = function
        self._windows = windows
        self._logging = logging
        self._trace = trace
        self._name = name
        self._lent = Lent()

    def attach(self, asked: Asked | None) -> None:
        """Whom to ask for the bytes of windows without a file."""
        self.asked = asked
        self._windows.attach(asked)

    def close(self) -> None:
        """The client is gone, and everything that it lent."""
        if self.asked:
            self.asked.close()
        self._lent.clear()
        self._windows.clear()
        self.attach(None)

    def forget(self, iova: int = 0, size: int = 1 << 64) -> None:
        """What is asked of these bytes and not answered yet will not be answered."""
        if self.asked:
            self.asked.forget(iova, size)

    def map(self, message: Message) -> Reply:
        """Answer a DMA_MAP.

        Raises:
            RequestError: it cannot be mapped; nothing was.
        """
        request = messages.dma_map(message)
        self._lent.check(request.address, request.size)
        fds = message.take()
        self._windows.map(
            request.address,
            request.size,
            fds[0] if fds else None,
            request.offset if fds else 0,
            readable=MapFlags.READ in request.flags,
            writable=MapFlags.WRITE in request.flags,
        )
        self._lent.add(request.address, request.size)
        self._trace.emit(
            "dma.map",
            session=self._name,
            iova=request.address,
            size=request.size,
            offset=request.offset,
            flags=int(request.flags),
            file=bool(fds),
        )
        return b"", ()

    def unmap(self, message: Message, pending: Pending) -> None:
        """Answer a DMA_UNMAP, once the device has a quiet moment.

        Raises:
            RequestError: there is nothing that could be unmapped so; nothing was.
        """
        request, bitmap = messages.dma_unmap(message)
        if not request.flags & UnmapFlags.ALL:
            self._lent.find(request.address, request.size)
        if bitmap:
            where = request.address, request.size, bitmap.page_size
            size = self._logging.check_report("DMA_UNMAP", *where)
            messages.check_bitmap(request, bitmap, size)
        self._function.quiesce(partial(self._unmap, request, bitmap, pending))

    def _unmap(
        self,
        request: DmaUnmap,
        bitmap: BitmapRequest | None,
        pending: Pending,
        refused: RequestError | None,
    ) -> None:
        """Take windows back in the device's quiet moment."""
        if pending.over or refused is not None:
            pending.settle(refused)
            return
        if request.flags & UnmapFlags.ALL:
            self.forget()
            self._lent.clear()
            self._windows.clear()
        else:
            self.forget(request.address, request.size)
            for iova, size in self._lent.remove(request.address, request.size):
                self._windows.unmap(iova, size)
        pending.reply = pack(request)
        if bitmap:
            bits = self._logging.report(request.address, request.size, bitmap.page_size)
            pending.reply += pack(BitmapRequest(bitmap.page_size, len(bits))) + bits
        self._trace.emit(
            "dma.unmap",
            session=self._name,
            iova=request.address,
            size=request.size,
            flags=int(request.flags),
        )
        pending.settle()
