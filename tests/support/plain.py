"""Memory without translation: nothing is above its end, and no byte of ``holes`` can be reached."""

from mdevemu.errors import DmaFault


def now(work):
    """What a part of work returns that never waits."""
    try:
        next(work)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


class Waiting:
    """The same as what work can wait for; it never has to."""

    def __init__(self, memory):
        self._memory = memory

    def read(self, iova, length):
        return self._memory.read(iova, length)
        yield

    def write(self, iova, data):
        self._memory.write(iova, data)
        return
        yield

    def copy(self, source, destination, length):
        self._memory.copy(source, destination, length)
        return
        yield


class PlainMemory:
    """Bytes from address 0 on, reached as a port is."""

    def __init__(self, size=4096):
        self.bytes = bytearray(size)

    def read(self, iova, length):
        self._check(iova, length, 13, write=False)
        return bytes(self.bytes[iova : iova + length])

    def write(self, iova, data):
        self._check(iova, len(data), 15, write=True)
        self.bytes[iova : iova + len(data)] = data

    def copy(self, source, destination, length):
        self.write(destination, self.read(source, length))

    def _check(self, iova, length, cause, *, write):
        if iova + length > len(self.bytes):
            raise DmaFault(max(iova, len(self.bytes)), length, cause, write=write)
