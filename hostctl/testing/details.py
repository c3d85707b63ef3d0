"""Has an emulator make detailed events, for those who look at its trace later."""

import json
import os
import socket
from pathlib import Path

from hostctl.errors import HostError

_SECONDS = 10.0
_WORDS = ("qmp_capabilities", "trace-follow")


class Details:
    """A follower that reads nothing: it costs the emulator what its socket holds, and no more."""

    def __init__(self, control: Path | str) -> None:
        """Follow everything, by the control socket at that path, until closed.

        Raises:
            HostError: the emulator does not answer.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS)
        try:
            self._socket.connect(os.fspath(control))
            with self._socket.makefile("r") as lines:
                lines.readline()  # the greeting
                for word in _WORDS:
                    self._socket.sendall(json.dumps({"execute": word}).encode() + b"\n")
                    while "return" not in json.loads(lines.readline()):
                        pass  # an event of somebody else's making
        except (OSError, ValueError) as error:
            self._socket.close()
            raise HostError(f"the emulator does not answer at {control}: {error}") from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
