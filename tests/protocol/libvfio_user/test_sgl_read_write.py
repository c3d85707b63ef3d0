"""DMA by message, and that there is none where the memory is at hand."""

import errno

import pytest

from tests.protocol.libvfio_user.tenant import DMA_READ, DMA_WRITE, Tenant
from tests.support.bench import Ram
from tests.support.native import DATA, READ_FAULT
from tests.support.vfio_user import memfd

SIZE = 0x1_0000
NO_TWIN = {"supported": False}
SMALL = b'{"capabilities":{"max_data_xfer_size":4096,"twin_socket":{"supported":%s}}}\0'


@pytest.fixture(params=[True, False], ids=["twin", "alone"])
def small(request):
    """A client that takes 4 KiB at a time, over a twin socket or beside its own requests."""
    tenant = Tenant(SMALL % (b"true" if request.param else b"false"))
    assert tenant.twin == ({"supported": True, "fd_index": 0} if request.param else NO_TWIN)
    yield tenant
    tenant.close()


def sealed():
    """A file that cannot shrink, so it is mapped."""
    ram = Ram(SIZE)
    file = ram.file()
    ram.close()
    return file


def shrinkable():
    """A file that may shrink, so it is read and written."""
    return memfd(SIZE)


def nothing():
    """No file: the client is asked."""


def there_and_back(tenant, length):
    """Copy a pattern out to the window and in again; what came back."""
    tenant.ram.write(DATA, bytes(range(251)) * (length // 251 + 1))
    place = tenant.at + 0x1000
    assert tenant.run("copy", source=DATA, destination=place, length=length).status == 0
    back = DATA + 0x10_0000
    assert tenant.run("copy", source=place, destination=back, length=length).status == 0
    return tenant.ram.read(back, length) == tenant.ram.read(DATA, length)


@pytest.mark.parametrize("give", [nothing, sealed, shrinkable])
def test_dma_read_write(small, give):
    """Memory is asked for by message only where there is no other way to it.

    A client without a twin socket has to read a byte before it is given any to write.
    """
    small.map(small.at, SIZE, give())
    assert there_and_back(small, 64)
    place = small.at + 0x1000
    proof = [] if small.twin["supported"] else [(DMA_READ, place, 1)]
    asked = [*proof, (DMA_WRITE, place, 64), (DMA_READ, place, 64)]
    assert small.asked == (asked if give is nothing else [])


@pytest.mark.parametrize("give", [nothing, sealed, shrinkable])
def test_dma_read_write_large(small, give):
    """A transfer is cut to what the client takes in one message."""
    small.map(small.at, SIZE, give())
    assert there_and_back(small, 2 * 4096 + 42)
    for command in (DMA_READ, DMA_WRITE):
        counts = [count for asked, _, count in small.asked if asked == command]
        assert all(count <= 4096 for count in counts)
        assert sum(counts) >= (2 * 4096 + 42 if give is nothing else 0)


def test_dma_read_write_error(small):
    """What the client refuses is the fault of one command, and the session goes on."""
    small.map(small.at, SIZE)
    small.refusal = errno.EIO
    assert small.run("copy", source=small.at, destination=DATA, length=64).status == READ_FAULT
    small.refusal = 0
    assert there_and_back(small, 64)
