"""A client's own memory that a device reaches by asking: the other end of DMA by message."""

import errno
from bisect import bisect_right, insort
from collections.abc import Callable

from mdevemu.errors import RequestError
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.wire import DMA, Command, MapFlags

_NOTHING = memoryview(b""), MapFlags(0)


class Kept:
    """Ranges of memory without a file, by Iova."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: dict[int, tuple[memoryview, MapFlags]] = {}

    def add(self, iova: int, memory: memoryview, prot: MapFlags) -> None:
        """Answer for these bytes; ``prot`` is what the device may do with them."""
        insort(self._starts, iova)
        self._ranges[iova] = memory, prot

    def remove(self, iova: int) -> None:
        """Do not answer for the range that starts here, if there is one."""
        if self._ranges.pop(iova, None):
            self._starts.remove(iova)

    def clear(self) -> None:
        """Answer for nothing."""
        self._starts.clear()
        self._ranges.clear()

    def answer(self, message: Message) -> bytes:
        """Do what a server asks for; the reply's payload.

        Raises:
            RequestError: ENOSYS, EINVAL, E2BIG, EFAULT (no such memory) or EPERM.
        """
        serve: dict[int, Callable[[int, int, bytes], bytes]] = {
            Command.DMA_READ: self._read,
            Command.DMA_WRITE: self._write,
        }
        command, payload = message.command, message.payload
        if command not in serve:
            raise RequestError(errno.ENOSYS, f"command {command} from a server")
        if len(payload) < DMA.size or message.fds:
            raise RequestError(errno.EINVAL, f"command {command} with {len(payload)} bytes")
        iova, count = DMA.unpack_from(payload)
        if count > wire.MAX_TRANSFER:
            raise RequestError(errno.E2BIG, f"DMA of {count} bytes")
        return payload[: DMA.size] + serve[command](iova, count, payload[DMA.size :])

    def _read(self, iova: int, count: int, data: bytes) -> bytes:
        if data:
            raise RequestError(errno.EINVAL, f"DMA_READ with {len(data)} bytes")
        return bytes(self._find(iova, count, MapFlags.READ))

    def _write(self, iova: int, count: int, data: bytes) -> bytes:
        if len(data) != count:
            raise RequestError(errno.EINVAL, f"DMA_WRITE of {count} bytes with {len(data)}")
        self._find(iova, count, MapFlags.WRITE)[:] = data
        return b""

    def _find(self, iova: int, count: int, need: MapFlags) -> memoryview:
        at = bisect_right(self._starts, iova) - 1
        start = self._starts[max(at, 0)] if self._starts else 0
        memory, prot = self._ranges.get(start, _NOTHING)
        if iova < start or iova + count > start + len(memory) or not memory:
            raise RequestError(errno.EFAULT, f"no memory is {iova:#x}+{count:#x}")
        if not prot & need:
            raise RequestError(errno.EPERM, f"no {need.name} of {iova:#x}")
        return memory[iova - start : iova - start + count]
