"""The end of a server."""

import os

from mdevemu.fds import Fd
from tests.support.vfio_user import (
    DMA_MAP,
    OK,
    SET_IRQS,
    Raw,
    dma_map,
    hello,
    irqs,
    memfd,
)


def test_destroy_ctx(host):
    """The client is hung up on, what it lent is let go, the socket is gone; nothing is reset."""
    with Raw(host.path) as raw, memfd() as file, Fd(os.eventfd(0)) as event:
        raw.send(hello())
        raw.reply()
        assert raw.ask(DMA_MAP, dma_map(0, 0x1000), [file])[2] == OK
        assert raw.ask(SET_IRQS, irqs(0x24, 2, 0, 1), [event])[2] == OK
        host.halt()
        host.server.close()
        assert raw.reply() is None
    assert not host.path.exists()
    assert host.space.windows == {}
    assert host.device.eventfds == {}
    assert host.device.log[-1] == ("disconnect",)
    assert ("reset",) not in host.device.log
