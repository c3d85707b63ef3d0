"""A driver that keeps its HBM as buffers, and shares them.

Numbers are written out here, not taken from the code under test.
"""

from tests.support.native import DATA, DESTINATION_HBM, SOURCE_HBM, Driver, descriptor

ALLOCATE, FREE, EXPORT, REVOKE, IMPORT, RELEASE, JOIN = range(1, 8)
OK, INVALID, NO_ROOM, NO_BUFFER, DENIED = range(5)
MAPPED = 1 << 8
"""With ALLOCATE."""
WRITABLE = 1 << 63
MMU_AT, MMU_END = 1 << 40, 1 << 44
PAGE = 4096


class Owner(Driver):
    """A driver that keeps its HBM as buffers."""

    def do(self, operation, argument=0, peer=0):
        """(status, result) of a command about buffers."""
        self.write(0xA0, argument)
        self.write(0xA8, peer)
        self.write(0xB0, operation, 4)
        return self.read(0xB4, 4), self.read(0xB8)

    def must(self, operation, argument=0, peer=0):
        status, result = self.do(operation, argument, peer)
        assert status == OK
        return result

    def reset(self):
        """The function is reset, and made ready for work again."""
        self.function.reset()
        self.function.write(7, 4, b"\x06\x00")
        self.write(0x20, 1, 4)

    @property
    def number(self):
        return self.must(JOIN)

    @property
    def used(self):
        """(used, high water, being scrubbed, imported), in bytes."""
        return tuple(self.read(0x1050 + 8 * n) for n in range(4))

    def fill(self, at, length, byte):
        pattern = int.from_bytes(bytes([byte]) * 8, "little")
        done = self.run("fill", DESTINATION_HBM, destination=at, length=length, operand=pattern)
        return done.status

    def begin_copy(self, at, length):
        """The queue of a copy of HBM to memory that is under way, and has moved some of it."""
        queue = self.queue(0)
        copy = descriptor("copy", SOURCE_HBM, source=at, destination=DATA, length=length)
        queue.submit(copy)
        for _ in range(4):
            self.bench.parent.step()
        return queue

    def look(self, at, length=PAGE):
        """(status, bytes) of HBM, as the engines see it."""
        done = self.run("copy", SOURCE_HBM, source=at, destination=DATA, length=length)
        return done.status, self.ram.read(DATA, length)
