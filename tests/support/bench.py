"""An accelerator on the table: its mdevs, memory that its VMMs lent, and no sockets."""

import fcntl
import os
from typing import ClassVar

from mdevemu.fds import Fd
from mdevemu.mdev.parent import Parent
from mdevemu.profile import parse
from mdevemu.trace import Trace
from mdevemu.units import MIB

ALL = ["nop", "copy", "fill", "compare", "crc32c", "sha256", "deflate", "inflate"]
ALL += ["aes_gcm_encrypt", "aes_gcm_decrypt"]

BASE = {
    "accelerator": {"name": "bench", "hbm": "16MiB"},
    "engine": [{"name": "all", "operations": ALL}],
    "type": [
        {"name": "native", "personality": "native", "hbm": "4MiB", "queues": 4},
        {"name": "adder", "personality": "adder"},
        {"name": "ioat", "personality": "ioat"},
        {"name": "rid", "hbm": "4MiB", "queues": 4, "attach": "rid", "pasid-bits": 20},
    ],
}

CONFIG, COMMAND = 7, 4
MEMORY_AND_BUS_MASTER = b"\x06\x00"


class Ram:
    """Memory of a guest: a memfd, sealed as QEMU seals it."""

    def __init__(self, size=MIB):
        self.size = size
        self.number = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.number, size)
        fcntl.fcntl(self.number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def file(self):
        """A descriptor to lend."""
        return Fd(os.dup(self.number))

    def read(self, at, length):
        return os.pread(self.number, length, at)

    def write(self, at, data):
        os.pwrite(self.number, data, at)

    def close(self):
        os.close(self.number)


class Clock:
    """Nanoseconds: one for each look, and as many as a test skips."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now


class Bench:
    """One accelerator; every mdev's function may be a bus master."""

    made: ClassVar[list] = []
    """Every one that was not closed, for ``tests/conftest.py``."""

    def __init__(self, spec=None):
        self.made.append(self)
        self.clock = Clock()
        self.trace = Trace(self.clock)
        self.parent = Parent(parse("bench.toml", spec or BASE), self.trace, self.clock)

    def close(self):
        """Remove every mdev: their HBM is as many descriptors."""
        self.made.remove(self)
        for mdev in list(self.parent.mdevs.values()):
            self.parent.remove(mdev)

    def mdev(self, kind="native", weight=None, **wanted):
        """A new mdev of a type, by the type's short name."""
        mdev = self.parent.create(f"mdevemu-{kind}", **wanted)
        if weight is not None:
            self.parent.set_weight(mdev, weight)
        mdev.function.write(CONFIG, COMMAND, MEMORY_AND_BUS_MASTER)
        return mdev

    def lend(self, mdev, ram, iova=0, offset=0, size=None, readable=True, writable=True):
        """Map guest memory for an mdev, as a VMM does."""
        mdev.space.map(
            iova,
            size or ram.size,
            ram.file(),
            offset,
            readable=readable,
            writable=writable,
        )

    def work(self, limit=100_000):
        """Let the engines run until nothing is left to do."""
        for _ in range(limit):
            if not self.parent.step():
                return
        raise AssertionError(f"still working after {limit} pieces")

    def skip(self, nanoseconds):
        """Let time pass, and what is due happen."""
        self.clock.now += nanoseconds
        self.parent.scheduler.ring_due()

    def faults(self):
        """What the IOMMU reported since the last look."""
        return list(self.parent.host.read_faults())
