"""An mdev of ours, with its IOMMU and all, behind a session without a socket."""

import json as jsonlib
import os
import struct

from mdevemu.fds import Fd
from mdevemu.vfio_user import Message
from tests.support.bench import Bench, Ram
from tests.support.native import CONTROL, Guest
from tests.support.vfio_user import DMA_MAP, OK, QEMU_JSON, REFUSED, Desk, dma_map, hello, split

DMA_READ, DMA_WRITE = 11, 12


class Tenant(Guest):
    """A driver whose rings are in memory that its VMM lends, from address 0 on.

    Attributes:
        kept: memory at ``at`` that the VMM keeps to itself, so that it is asked for it.
        asked: (command, address, bytes) of each time that it was.
        refusal: an errno to answer with from now on, or 0.
        twin: what was agreed about a twin socket, over which it is asked then.
    """

    at = 0x1000_0000

    def __init__(self, json=QEMU_JSON):
        self.bench = Bench()
        self.mdev = self.bench.mdev()
        self.desk = Desk(self.mdev.function, self.mdev.space)
        self.kept, self.asked, self.refusal = bytearray(0x1_0000), [], 0
        self._pair = self.desk.courier.pair = Fd(os.eventfd(0))
        reply, passed = self.desk.tell(hello(json=json))
        agreed = jsonlib.loads(reply[20:-1])["capabilities"]
        self.twin = agreed.get("twin_socket", {"supported": False})
        assert passed == ([self._pair] if self.twin["supported"] else [])
        super().__init__(self.mdev.function, Ram(0x40_0000))
        self.map(0, self.ram.size, self.ram.file())
        self.restart()

    def restart(self):
        """Start the device, which was reset."""
        self.write(CONTROL, 1, 4)

    def map(self, iova, size, file=None, offset=0):
        """Lend a file, or keep memory to ourselves."""
        fds = [] if file is None else [file]
        assert self.desk.ask(DMA_MAP, dma_map(iova, size, offset), fds) == (OK, 0, b"")

    def work(self):
        self.bench.work()
        while self.desk.courier.sent:
            self._answer(self.desk.courier.sent.pop(0))
            self.bench.work()

    def _answer(self, data):
        [(number, command, flags, error, payload)] = split(data)
        assert (flags, error) == (0, 0)
        iova, count = struct.unpack_from("<QQ", payload)
        self.asked.append((command, iova, count))
        if self.refusal:
            self._reply(number, command, error=self.refusal)
            return
        first = iova - self.at
        assert 0 <= first <= first + count <= len(self.kept)
        if command == DMA_WRITE:
            self.kept[first : first + count] = payload[16:]
            found = b""
        else:
            found = bytes(self.kept[first : first + count])
        self._reply(number, command, payload[:16] + found)

    def _reply(self, number, command, payload=b"", error=0):
        """Answer where we were asked."""
        flags = REFUSED if error else OK
        message = Message(number, command, flags, error, payload, [])
        if self.twin["supported"]:
            self.desk.session.answered(message)
        else:
            assert self.desk.session.answer(message) == (b"", ())

    def close(self):
        self.desk.session.close()
        self.desk.framer.close()
        self._pair.close()
        super().close()
        self.bench.parent.remove(self.mdev)
