"""A session with a device that has a state to move, and that takes its time when it is told to."""

import struct

from tests.protocol.test_migration import set_state, state
from tests.support.movable import Movable
from tests.support.vfio_user import Desk, hello, split


class Mobile(Movable):
    """It comes to rest at once, or when the test says so.

    Attributes:
        busy: from now on it takes its time.
        waiting: who waits for it to be at rest.
    """

    def __init__(self):
        super().__init__()
        self.busy, self.waiting = False, []

    def quiesce(self, done):
        self.log.append(("quiesce",))
        if self.busy:
            self.waiting.append(done)
        else:
            done(None)

    def rest(self, refusal=None):
        """Tell those who wait that it is at rest, or that it cannot be."""
        self.busy = False
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(refusal)


class MobileDesk(Desk):
    """A session with a mobile device.

    Attributes:
        stream: the device's, which remembers what it was told.
    """

    def __init__(self, json=b""):
        super().__init__(Mobile())
        self.tell(hello(json=json))
        self.stream = self.device.migration

    def late(self):
        """(flags, errno, payload) of a reply that was not there at once, or None."""
        if not self.courier.late:
            return None
        data, _ = self.courier.late.pop()
        return split(data)[0][2:]

    def go(self, wanted):
        """Whether it went to that state: (flags, errno); None, not yet."""
        return set_state(self, wanted)

    @property
    def state(self):
        return state(self)


def mig_data(size, data=b"", argsz=None):
    """Payload of MIG_DATA_READ and MIG_DATA_WRITE, and of the reply to the first."""
    return struct.pack("<II", 8 + size if argsz is None else argsz, size) + data
