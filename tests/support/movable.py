"""A device whose state is a stream, and an address space that notes writes."""

import errno

from mdevemu.errors import RequestError
from mdevemu.vfio_user.features_wire import bitmap_size
from tests.support.vfio_user import Device, Space

MARK = b"counter!"


class Stream:
    """A device's state: its BAR0, whole, after a mark.  ``calls`` says what was asked of it."""

    def __init__(self, device):
        self.device = device
        self.calls = []
        self.outgoing = self.incoming = b""
        self.stopping = None
        self.slow = False
        self.refusal = None

    def stop(self, done):
        self.calls.append("stop")
        if self.slow:
            self.stopping = done
        else:
            done(self.refusal)

    def run(self):
        self.calls.append("run")

    def save(self, *, live):
        self.calls.append("save live" if live else "save")
        self.outgoing = MARK + bytes(self.device.bytes[0])

    def read(self, size):
        piece, self.outgoing = self.outgoing[:size], self.outgoing[size:]
        return piece

    def end(self):
        self.calls.append("end")

    def load(self):
        self.calls.append("load")
        self.incoming = b""

    def write(self, data):
        self.incoming += data
        if not MARK.startswith(self.incoming[: len(MARK)]):
            raise RequestError(errno.EINVAL, "not a counter")

    def finish(self):
        self.calls.append("finish")
        if len(self.incoming) != len(MARK) + len(self.device.bytes[0]):
            self.device.bytes[0][:] = bytes(len(self.device.bytes[0]))
            raise RequestError(errno.EINVAL, "not a whole counter")
        self.device.bytes[0][:] = self.incoming[len(MARK) :]


class Movable(Device):
    """A device with a stream."""

    migration = None

    def __init__(self):
        super().__init__()
        self.migration = Stream(self)


class Noting(Space):
    """Windows and a log of writes, which the test makes: ``note`` is the device's write."""

    def __init__(self):
        super().__init__()
        self.pages = None
        self.wanted = None

    @property
    def dirty(self):
        return self

    def start(self, page_size, ranges):
        self.wanted, self.pages = (page_size, list(ranges)), set()
        return 4096

    def stop(self):
        self.pages = None

    def note(self, iova):
        if self.pages is not None:
            self.pages.add(iova >> 12)

    def report(self, iova, length, page_size):
        bits = 0
        for page in sorted(self.pages):
            if iova <= page << 12 < iova + length:
                bits |= 1 << ((page << 12) - iova) // page_size
                self.pages.discard(page)
        return bits.to_bytes(bitmap_size(length, page_size), "little")
