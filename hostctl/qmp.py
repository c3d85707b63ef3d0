"""A QMP client that is called like a function: QEMU's monitor, and the emulator's control."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from qemu.qmp import ExecuteError, QMPClient, QMPError

from hostctl.errors import HostError
from mdevemu.errors import ConfigError

_CONNECT_SECONDS = 5.0
_REPLY_SECONDS = 20.0


class Qmp:
    """One connection to a QMP server; used by one thread at a time."""

    def __init__(self, path: Path | str, peer: str) -> None:
        """Connect to the Unix socket at ``path``; ``peer`` is what messages call the server.

        Raises:
            HostError: nobody answers there.
        """
        self._peer = peer
        self._client = QMPClient(peer)
        self._client.logger.disabled = True
        self._runner = asyncio.Runner()
        try:
            self._runner.run(asyncio.wait_for(self._client.connect(str(path)), _CONNECT_SECONDS))
        except (QMPError, OSError, TimeoutError) as error:
            self._runner.close()
            raise HostError(f"{peer} does not answer at {path}: {_reason(error)}") from None

    def execute(self, command: str, **arguments: object) -> object:
        """Run a command and return what it returns; ``_`` in argument names becomes ``-``.

        Arguments that are None are left out.

        Raises:
            ConfigError: the server refused; it changed nothing.
            HostError: the connection is gone.
        """
        given = {
            key.replace("_", "-"): value for key, value in arguments.items() if value is not None
        }
        call = self._client.execute(command, given or None)
        try:
            return self._runner.run(asyncio.wait_for(call, _REPLY_SECONDS))
        except ExecuteError as error:
            raise ConfigError(f"{self._peer}, {command}", str(error)) from None
        except (QMPError, OSError, TimeoutError) as error:
            raise HostError(f"{self._peer} does not answer {command}: {_reason(error)}") from None

    def close(self) -> None:
        """Hang up."""
        try:
            self._runner.run(self._client.disconnect())
        except (QMPError, OSError, EOFError):
            # The server was first; there is nothing left to hang up.
            pass
        finally:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _reason(error: BaseException) -> str:
    """The first line of an error, or its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
