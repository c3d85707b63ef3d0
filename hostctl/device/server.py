"""A connection to any vfio-user server, whose every way to misbehave has a name."""

import contextlib
import os
import stat
from collections.abc import Iterator

from hostctl.errors import HostError, TimedOut
from mdevemu.errors import ConfigError, ProtocolError
from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.wire import RegionIndex

CONFIG_LIMIT = 4096
"""Most bytes of config space that there can be."""


@contextlib.contextmanager
def opened(path: str, timeout: float, *, twin: bool = False) -> Iterator[Client]:
    """A client of the server behind a socket; each request may take ``timeout`` seconds.

    ``twin`` offers the server a socket of its own for what it asks.

    Raises:
        ConfigError: there is no such socket.
        HostError: nobody listens there.
        TimedOut: the server does not answer.
        ProtocolError: it hung up, or what it says makes no sense.
        RequestError: it refuses what no server may refuse.
    """
    check_socket(path)
    try:
        client = Client(path, timeout=timeout, twin=twin)
    except TimeoutError:
        raise TimedOut(f"{path}: the server says nothing", timeout) from None
    except ConnectionRefusedError:
        raise HostError(f"{path}: nobody listens there", "start its server") from None
    except ConnectionError as gone:
        raise ProtocolError(f"{path}: {gone or 'the server hung up'}") from None
    except OSError as wrong:
        raise HostError(f"{path}: {wrong.strerror or wrong}") from None
    with client, named(path, timeout):
        yield client


@contextlib.contextmanager
def named(path: str, timeout: float) -> Iterator[None]:
    """Turn what can happen to a connection into errors of ours; see ``opened``."""
    try:
        yield
    except TimeoutError:
        raise TimedOut(f"{path}: the server does not answer", timeout) from None
    except OSError as gone:
        raise ProtocolError(f"{path}: {gone.strerror or gone}") from None


def config_space(client: Client) -> bytes:
    """All of the config space, in reads that any server takes.

    Raises:
        RequestError, ProtocolError, OSError: as for every request.
    """
    size = min(client.region(RegionIndex.CONFIG).size, CONFIG_LIMIT)
    step = min(client.server.max_data_xfer_size, CONFIG_LIMIT)
    return b"".join(
        client.region_read(RegionIndex.CONFIG, at, min(step, size - at))
        for at in range(0, size, step)
    )


def check_socket(path: str) -> None:
    """Whether there is a socket.

    Raises:
        ConfigError: there is none.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as wrong:
        raise ConfigError(path, getattr(wrong, "strerror", None) or str(wrong)) from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(path, "is no socket (accepted: one that a vfio-user server listens on)")
