"""``python3 -m guest --port NAME``: serve the host over a virtio-serial port."""

import os
import sys
import time

from guest.agent import Agent
from guest.benches import Benches
from guest.errors import NotThere
from guest.link import Link, find_port
from guest.protocol import PORT

_USAGE = "usage: python3 -m guest [--port NAME | --path FILE]"
_WAIT = 30.0  # seconds for the port to appear
_PAUSE = 0.05


def main(argv: list[str]) -> int:
    """Run the agent; gives the exit status."""
    match argv:
        case []:
            path = wait_for_port(PORT)
        case ["--port", name]:
            path = wait_for_port(name)
        case ["--path", path]:
            pass
        case _:
            print(_USAGE, file=sys.stderr)
            return 2
    if path is None:
        return 1
    benches = Benches()
    link = Link(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    Agent(link, benches).run()
    return 0


def wait_for_port(name: str) -> str | None:
    """The port's device file, once the kernel has found it; None if it never does."""
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            return find_port(name)
        except NotThere as error:
            if time.monotonic() > deadline:
                print(f"mdevemu agent: {error}", file=sys.stderr)
                return None
        time.sleep(_PAUSE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
