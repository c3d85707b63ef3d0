"""Functions and mdevs of ours behind a session."""

import struct

import pytest

from mdevemu.layout import Word, bits
from mdevemu.pci.config import Bar, Identity
from mdevemu.pci.function import CONFIG, Function
from mdevemu.registers import Reg, RegisterMap
from mdevemu.trace import Trace
from mdevemu.vfio_user import device
from tests.protocol.libvfio_user.logger import Logger
from tests.protocol.libvfio_user.mobile import MobileDesk
from tests.protocol.libvfio_user.tenant import Tenant
from tests.support.vfio_user import READ, WRITE, Desk, access, hello, open_fds
from tests.unit.pci import BARS, IDENTITY, Board

SERIAL = 0x0008_0007_0006_0005


class Notes(Word, width=32):
    """A register of a device's own."""

    value = bits(31, 0)


class Extra(RegisterMap, size=0x1000):
    """What a device adds to its configuration space."""

    note = Reg(0xF0, Notes)
    extended_note = Reg(0x200, Notes)


class Endpoint(Function, device.Function):
    """A function that goes away with its session; nothing of it takes time or moves."""

    def close(self):
        self.disconnect()


class Slot(Desk):
    """A session with a PCI function behind it.

    Attributes:
        board: the device behind the function, which records what it is told.
    """

    def __init__(self, bars=BARS, vectors=4):
        identity = Identity(IDENTITY.vendor, IDENTITY.device, IDENTITY.class_code, serial=SERIAL)
        self.board = Board(vectors, bars, identity, Extra)
        super().__init__(Endpoint(self.board, Trace(lambda: 0), "slot"))
        self.tell(hello())

    def read(self, offset, count=4):
        """Bytes of configuration space."""
        flags, error, payload = self.ask(READ, access(CONFIG, offset, count))
        assert (flags, error) == (1, 0)
        return payload[16:]

    def write(self, offset, data):
        """Write configuration space, which never is an error."""
        request = access(CONFIG, offset, len(data))
        assert self.ask(WRITE, request + data) == (1, 0, request)

    def capability(self, wanted):
        """Where a capability is."""
        return dict(self.capabilities())[wanted]

    def capabilities(self):
        """(id, offset) of each capability, in the order of the list."""
        at = self.read(0x34, 1)[0]
        while at:
            id, following = self.read(at, 2)
            yield id, at
            at = following

    def extended(self):
        """(id, offset) of each extended capability, in the order of the list."""
        at = 0x100
        while at:
            id, following = struct.unpack("<HH", self.read(at))
            yield id, at
            at = following >> 4

    def sizes(self):
        """Bytes of each BAR, as a driver finds them: write ones, read back, write what was."""
        found, at = [0] * 6, 0
        while at < 6:
            low, place = self._sized(at), 0x10 + 4 * at
            wide = low & 0b111 == 0b100
            mask = low & ~0xF & 0xFFFF_FFFF
            if wide:
                mask |= self._sized(at + 1) << 32
            if mask:
                found[at] = (~mask & (2**64 - 1 if wide else 2**32 - 1)) + 1
            assert self.read(place) == bytes([low & 0xF, 0, 0, 0])
            at += 1 + wide
        return found

    def _sized(self, index):
        place = 0x10 + 4 * index
        before = self.read(place)
        self.write(place, b"\xff" * 4)
        (after,) = struct.unpack("<I", self.read(place))
        self.write(place, before)
        return after


@pytest.fixture
def slot_with():
    """Make slots with certain BARs."""
    made = []

    def make(*bars):
        made.append(Slot(tuple(Bar(**bar) for bar in bars)))
        return made[-1]

    yield make
    for slot in made:
        slot.close()


def kept_clean(make):
    """What ``make`` makes, closed at the end, with no descriptor left behind."""
    before = open_fds()
    made = make()
    yield made
    made.close()
    assert open_fds() == before


@pytest.fixture
def slot():
    yield from kept_clean(Slot)


@pytest.fixture
def tenant():
    yield from kept_clean(Tenant)


@pytest.fixture
def logger():
    yield from kept_clean(Logger)


@pytest.fixture
def slow():
    """A session with a device that can be told to take its time."""
    yield from kept_clean(MobileDesk)
