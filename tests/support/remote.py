"""A guest of an mdev in another process, by our client; without a VMM."""

import os

from mdevemu.fds import Fd
from mdevemu.vfio_user.client import Client
from tests.support.bench import CONFIG, MEMORY_AND_BUS_MASTER
from tests.support.native import Guest
from tests.support.serving import until


class Far:
    """A function behind a socket, with ``read`` and ``write`` of regions."""

    def __init__(self, path):
        self.client = Client(path)

    def read(self, region, offset, length):
        return self.client.region_read(region, offset, length)

    def write(self, region, offset, data):
        self.client.region_write(region, offset, data)


class RemoteGuest(Guest):
    """A driver of the native device behind a socket; its memory is mapped from Iova 0 on."""

    def __init__(self, path, ram):
        super().__init__(None, ram)
        self.vector = None
        self.attach(path)
        self.function.write(CONFIG, 4, MEMORY_AND_BUS_MASTER)
        self.write(0x20, 1, 4)

    def attach(self, path):
        """Be the client of this socket from now on; the device keeps its state."""
        self.function = Far(path)
        with Fd(os.dup(self.ram.number)) as file:
            self.client.map_dma(0, self.ram.size, file)
        self.vector = self.client.interrupt(2, 1)

    @property
    def client(self):
        return self.function.client

    def leave(self):
        """Hang up; the device stays as it is."""
        self.client.close()
        self.vector.close()

    def close(self):
        self.leave()
        super().close()

    def work(self, queue=None):
        """Wait for a completion."""
        until(queue.peek)
