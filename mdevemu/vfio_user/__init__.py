"""vfio-user: the protocol without a socket in it, a server for the loop, a blocking client."""

from mdevemu.vfio_user.carrier import Carrier
from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.device import Doorbell, Function, Migration, Region, RegionShape
from mdevemu.vfio_user.features_wire import MigState
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.server import Server
from mdevemu.vfio_user.session import Session
from mdevemu.vfio_user.stepper import Stepper
from mdevemu.vfio_user.watcher import Watcher
from mdevemu.vfio_user.windows import DirtyLog, Windows
from mdevemu.vfio_user.wire import Irq, RegionIndex

__all__ = [
    "Carrier",
    "Client",
    "DirtyLog",
    "Doorbell",
    "Function",
    "Irq",
    "Message",
    "MigState",
    "Migration",
    "Region",
    "RegionIndex",
    "RegionShape",
    "Server",
    "Session",
    "Stepper",
    "Watcher",
    "Windows",
]
