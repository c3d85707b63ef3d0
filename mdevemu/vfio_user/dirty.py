"""DMA logging: what a client may ask about the pages that a device wrote to."""

import errno
from collections.abc import Sequence

from mdevemu.errors import RequestError
from mdevemu.units import PAGE
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.features_wire import bitmap_size
from mdevemu.vfio_user.windows import DirtyLog, Windows


class Logging:
    """The log of one session; it ends with it."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._on = False

    @property
    def offered(self) -> bool:
        """The device can say what it wrote to."""
        return self._windows.dirty is not None

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> int:
        """Note writes into these (address, bytes); the page size that is used.

        Raises:
            RequestError: EINVAL, no such page size or ranges, or it was started; ENOTSUP.
        """
        log = self._log()
        if self._on:
            raise RequestError(errno.EINVAL, "DMA_LOGGING_START, a second time")
        if page_size.bit_count() != 1:
            raise RequestError(errno.EINVAL, f"DMA_LOGGING_START with pages of {page_size} bytes")
        end = 0
        for iova, length in sorted(ranges):
            _check_range("DMA_LOGGING_START", iova, length)
            if iova < end:
                raise RequestError(errno.EINVAL, f"DMA_LOGGING_START of {iova:#x} twice")
            end = iova + length
        chosen = log.start(max(page_size, PAGE), ranges)
        self._on = True
        return chosen

    def stop(self) -> None:
        """Note nothing more.

        Raises:
            RequestError: EINVAL, it was not started; ENOTSUP.
        """
        self._running("DMA_LOGGING_STOP").stop()
        self._on = False

    def check_report(self, what: str, iova: int, length: int, page_size: int) -> int:
        """How many bytes a bitmap has that could be reported now.

        Raises:
            RequestError: EINVAL, it is not started or there is no such range or page
                size; E2BIG, for one message; ENOTSUP.
        """
        self._running(what)
        if page_size.bit_count() != 1:
            raise RequestError(errno.EINVAL, f"{what} with pages of {page_size} bytes")
        _check_range(what, iova, length)
        size = bitmap_size(length, page_size)
        if size > wire.MAX_TRANSFER:
            raise RequestError(errno.E2BIG, f"{what} with {size} bytes of bitmap")
        return size

    def report(self, iova: int, length: int, page_size: int) -> bytes:
        """The bitmap of what ``check_report`` allowed, whose pages then count as clean."""
        bitmap = self._running("a report").report(iova, length, page_size)
        assert len(bitmap) == bitmap_size(length, page_size)
        return bitmap

    def close(self) -> None:
        """The client is gone."""
        if self._on:
            self.stop()

    def _running(self, what: str) -> DirtyLog:
        log = self._log()
        if not self._on:
            raise RequestError(errno.EINVAL, f"{what} without DMA_LOGGING_START")
        return log

    def _log(self) -> DirtyLog:
        log = self._windows.dirty
        if log is None:
            raise RequestError(errno.ENOTSUP, "the device's writes are not logged")
        return log


def _check_range(what: str, iova: int, length: int) -> None:
    if not length or iova + length > 1 << 64:
        raise RequestError(errno.EINVAL, f"{what} of {iova:#x}+{length:#x}")
