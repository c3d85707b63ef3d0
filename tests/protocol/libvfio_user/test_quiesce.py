"""A quiet moment: what waits for one, and what is as ever until it has come.

libvfio-user asks for one before it maps as well; to lend memory disturbs nobody.
"""

import errno

import pytest

from mdevemu.errors import RequestError
from tests.protocol.test_migration import RUNNING, STOP
from tests.support.bench import COMMAND, CONFIG, MEMORY_AND_BUS_MASTER
from tests.support.vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    OK,
    RESET,
    WRITE,
    access,
    dma_map,
    dma_unmap,
    memfd,
    refused,
)
from tests.unit.pci import DEVICE_CONTROL

PAGE = 0x1000
WINDOW = dma_map(0x10000, PAGE)
UNMAP = dma_unmap(0x10000, PAGE)


@pytest.fixture
def slow(slow):
    """It was lent a window, and takes its time from now on."""
    assert slow.ask(DMA_MAP, WINDOW, [memfd()]) == (OK, 0, b"")
    slow.device.log.clear()
    return slow


def lent(desk):
    """The window is there, and its bytes."""
    return desk.space.windows != {} and desk.space.read(0x10000, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("command", [DMA_UNMAP, RESET])
def test_device_quiesce_error(slow, command):
    """What keeps a device from being quiet is the errno of the request that needs it to be."""
    slow.device.quiesce = lambda done: done(RequestError(errno.ENOTTY, "never quiet"))
    payload = UNMAP if command == DMA_UNMAP else b""
    assert slow.ask(command, payload) == refused(errno.ENOTTY)
    assert lent(slow)
    assert slow.device.log == []


@pytest.mark.parametrize("command", [DMA_UNMAP, RESET])
def test_device_quiesce_error_after_busy(slow, command):
    """Likewise if that is only known later."""
    slow.device.busy = True
    assert slow.ask(command, UNMAP if command == DMA_UNMAP else b"") is None
    slow.device.rest(RequestError(errno.ENOTTY, "not quiet after all"))
    assert slow.late() == refused(errno.ENOTTY)
    assert lent(slow)
    assert slow.device.log == [("quiesce",)]


def test_allowed_funcs_in_quiesced_dma_register(slow):
    """A window is there when it is answered."""
    assert lent(slow)


def test_allowed_funcs_in_quiesced_dma_unregister(slow):
    """The device is asked to be quiet while it still has the window."""
    asked = []

    def quiesce(done):
        asked.append(lent(slow))
        done(None)

    slow.device.quiesce = quiesce
    assert slow.ask(DMA_UNMAP, UNMAP) == (OK, 0, UNMAP)
    assert asked == [True]
    assert slow.space.windows == {}


def test_allowed_funcs_in_quiesced_dma_register_busy(slow):
    """A window that is lent next is there once it is answered."""
    slow.device.busy = True
    assert slow.ask(RESET) is None
    slow.device.rest()
    assert slow.late() == (OK, 0, b"")
    assert slow.ask(DMA_MAP, dma_map(0x20000, PAGE)) == (OK, 0, b"")
    assert set(slow.space.windows) == {0x10000, 0x20000}


def test_allowed_funcs_in_quiesced_dma_unregister_busy(slow):
    slow.device.busy = True
    assert slow.ask(DMA_UNMAP, UNMAP) is None
    assert lent(slow)
    slow.device.rest()
    assert slow.late() == (OK, 0, UNMAP)
    assert slow.space.windows == {}


def test_allowed_funcs_in_quiesced_migration(slow):
    """A device that stops keeps its windows."""
    assert slow.go(STOP) == (OK, 0)
    assert slow.stream.calls == ["stop"]
    assert lent(slow)


def test_allowed_funcs_in_quiesced_migration_busy(slow):
    """And has them while it comes to rest; it is in the new state when that is answered."""
    slow.stream.slow = True
    assert slow.go(STOP) is None
    assert lent(slow)
    slow.stream.stopping(None)
    assert slow.late()[:2] == (OK, 0)
    assert slow.state == STOP
    assert lent(slow)


def test_allowed_funcs_in_quiesced_reset(slow):
    """Windows outlive a reset."""
    assert slow.ask(RESET) == (OK, 0, b"")
    assert slow.device.log == [("quiesce",), ("reset",)]
    assert slow.state == RUNNING
    assert lent(slow)


def test_allowed_funcs_in_quiesced_reset_busy(slow):
    slow.device.busy = True
    assert slow.ask(RESET) is None
    assert slow.device.log == [("quiesce",)]
    slow.device.rest()
    assert slow.late() == (OK, 0, b"")
    assert slow.device.log == [("quiesce",), ("reset",)]
    assert lent(slow)


def test_flr(tenant):
    """So do they a function-level reset, which is a write that is answered at once."""
    tenant.map(tenant.at, PAGE, memfd(PAGE))
    for offset, data in [(DEVICE_CONTROL, b"\x00\x80"), (COMMAND, MEMORY_AND_BUS_MASTER)]:
        request = access(CONFIG, offset, len(data))
        assert tenant.desk.ask(WRITE, request + data) == (OK, 0, request)
    tenant.restart()
    assert tenant.run("fill", destination=tenant.at, length=8, operand=1).status == 0
