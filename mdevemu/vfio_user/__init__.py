"""vfio-user: the protocol without a socket in it, a server for the loop, a blocking client."""

from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.server import Server, Watcher
from mdevemu.vfio_user.session import Function, Region, RegionShape, Session, Windows
from mdevemu.vfio_user.wire import Irq, RegionIndex

__all__ = [
    "Client",
    "Function",
    "Irq",
    "Message",
    "Region",
    "RegionIndex",
    "RegionShape",
    "Server",
    "Session",
    "Watcher",
    "Windows",
]
