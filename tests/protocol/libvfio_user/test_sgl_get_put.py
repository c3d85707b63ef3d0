"""What the device reaches of the windows that it was lent."""

import pytest

from tests.protocol.libvfio_user.tenant import DMA_READ
from tests.support.bench import Ram
from tests.support.native import DATA
from tests.support.vfio_user import DMA_UNMAP, OK, dma_unmap

PAGE = 0x1000


@pytest.fixture
def three(tenant):
    """Three windows side by side, each the first page of a file of its own."""
    files = [Ram(PAGE) for _ in range(3)]
    for number, ram in enumerate(files):
        ram.write(0, bytes([number + 1]) * PAGE)
        tenant.map(tenant.at + number * PAGE, PAGE, ram.file())
    yield files
    for ram in files:
        ram.close()


def test_sgl_get_without_fd(tenant):
    """A window without a descriptor has no bytes at hand: they are asked for."""
    tenant.map(tenant.at, PAGE)
    tenant.kept[:8] = b"far away"
    assert tenant.run("copy", source=tenant.at, destination=DATA, length=8).status == 0
    assert tenant.ram.read(DATA, 8) == b"far away"
    assert tenant.asked == [(DMA_READ, tenant.at, 8)]


def test_get_multiple_sge(tenant, three):
    """One access may go through several windows."""
    assert tenant.run("copy", source=tenant.at, destination=DATA, length=3 * PAGE).status == 0
    assert tenant.ram.read(DATA, 3 * PAGE) == b"\1" * PAGE + b"\2" * PAGE + b"\3" * PAGE


def test_sgl_put(tenant, three):
    """Windows go without a trace of what the device did to them getting lost."""
    tenant.ram.write(DATA, bytes(range(256)) * 48)
    assert tenant.run("copy", source=DATA, destination=tenant.at, length=3 * PAGE).status == 0
    for number in range(3):
        gone = dma_unmap(tenant.at + number * PAGE, PAGE)
        assert tenant.desk.ask(DMA_UNMAP, gone) == (OK, 0, gone)
    assert b"".join(ram.read(0, PAGE) for ram in three) == bytes(range(256)) * 48
