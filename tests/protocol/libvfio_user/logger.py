"""A client that asks a real device which pages it wrote to."""

import struct

from tests.protocol.libvfio_user.tenant import Tenant
from tests.protocol.test_migration import FEATURE, GET, REPORT, SET, START, STOP_LOG, feature
from tests.support.bench import Ram
from tests.support.vfio_user import DMA_UNMAP, OK, dma_unmap

PAGE = 0x1000
PAGES = 0x20
"""Pages of a window."""


class Logger(Tenant):
    """A driver with a window at ``at``; pages are counted from there."""

    def __init__(self):
        super().__init__()
        self._files = []
        self.lend(0)

    def lend(self, page):
        """One more window, from a page on."""
        ram = Ram(PAGES * PAGE)
        self._files.append(ram)
        self.map(self.at + page * PAGE, ram.size, ram.file())

    def take(self, page):
        """Take a window back."""
        gone = dma_unmap(self.at + page * PAGE, PAGES * PAGE)
        assert self.desk.ask(DMA_UNMAP, gone) == (OK, 0, gone)

    def dirty(self, page, count=1):
        """Have the device write to pages."""
        place = self.at + page * PAGE
        assert self.run("fill", destination=place, length=count * PAGE, operand=1).status == 0

    def start(self, page_size=PAGE, ranges=()):
        """(flags, errno, page size) of the reply."""
        data = struct.pack("<QII", page_size, len(ranges), 0)
        data += b"".join(struct.pack("<QQ", *each) for each in ranges)
        flags, error, reply = self.desk.ask(FEATURE, feature(SET | START, data))
        if error:
            return flags, error, 0
        assert (reply[:8], reply[16:]) == (feature(SET | START, data)[:8], data[8:])
        return flags, error, struct.unpack_from("<Q", reply, 8)[0]

    def stop(self):
        """(flags, errno) of the reply."""
        data = struct.pack("<QII", PAGE, 0, 0)
        return self.desk.ask(FEATURE, feature(SET | STOP_LOG, data))[:2]

    def ask(self, iova, length, page_size=PAGE, room=4096):
        """(flags, errno, payload) of the reply to a DMA_LOGGING_REPORT."""
        where = struct.pack("<QQQ", iova, length, page_size)
        return self.desk.ask(FEATURE, feature(GET | REPORT, where, room))

    def report(self, page=0, count=PAGES, page_size=PAGE):
        """The bitmap of pages, as a number."""
        iova, length = self.at + page * PAGE, count * PAGE
        flags, error, reply = self.ask(iova, length, page_size)
        assert (flags, error) == (OK, 0)
        bits = reply[32:]
        where = struct.pack("<QQQ", iova, length, page_size)
        assert reply[:32] == feature(GET | REPORT, where, 32 + len(bits))
        assert len(bits) == -(-length // page_size // 64) * 8
        return int.from_bytes(bits, "little")

    def close(self):
        for ram in self._files:
            ram.close()
        super().close()
