"""``python -m hostctl.demo.tenant``: a tenant without a VM, in a process of its own.

It is the guest's own agent, which reaches its device through the vfio-user socket
instead of VFIO; whoever talks to it sees no difference.
"""

import socket
from pathlib import Path

import click

from guest.access import Access
from guest.agent import Agent
from guest.benches import Benches
from guest.errors import DeviceError
from guest.link import Link
from hostctl.socket_access import SocketAccess
from mdevemu.errors import MdevError


@click.command()
@click.argument("device", type=click.Path(path_type=Path))
@click.argument("agent", type=click.Path(path_type=Path))
def main(device: Path, agent: Path) -> None:
    """Serve one host on the socket AGENT; the device is behind the socket DEVICE."""

    def reach(address: str | None, base: int | None) -> Access:
        try:
            access = SocketAccess(device) if base is None else SocketAccess(device, base=base)
        except (MdevError, OSError) as error:
            raise DeviceError(f"{device}: {error}") from None
        return access

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(agent))
        listener.listen(1)
        line, _ = listener.accept()
    benches = Benches(reach)
    try:
        Agent(Link(line.fileno()), benches).run()
    finally:
        benches.close()
        line.close()


if __name__ == "__main__":
    main()
