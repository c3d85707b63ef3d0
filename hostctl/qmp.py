"""A QMP client that is called like a function: QEMU's monitor, and the emulator's control."""

import asyncio
import contextlib
import errno
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate

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
        # Who wants events listens for them; a stream of all would only grow.
        self._client.events.event_filter = lambda event: False
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
            where, wrong = f"{self._peer}, {command}", str(error)
            raise ConfigError(where, wrong, _number(error)) from None
        except (QMPError, OSError, TimeoutError) as error:
            raise HostError(f"{self._peer} does not answer {command}: {_reason(error)}") from None

    @contextlib.contextmanager
    def listening(
        self, *names: str, seconds: float | None = None
    ) -> Iterator[Iterator[tuple[str, object]]]:
        """Events of these names, (name, data), from the moment that the block is entered.

        They end after ``seconds``, or never; the iterator raises HostError once the
        connection is gone.
        """
        end = None if seconds is None else time.monotonic() + seconds
        with self._client.listener(names) as listener:
            yield self._events(listener, end)

    def _events(self, listener: EventListener, end: float | None) -> Iterator[tuple[str, object]]:
        while (left := None if end is None else end - time.monotonic()) is None or left > 0:
            event = self._runner.run(self._next(listener, left))
            if event is not None:
                yield str(event["event"]), event.get("data")

    async def _next(self, listener: EventListener, seconds: float | None) -> Message | None:
        """The next event; None if there was none in time.

        Raises:
            HostError: the connection ended before it.
        """
        heard = asyncio.ensure_future(listener.get())
        gone = asyncio.ensure_future(self._ended())
        try:
            both = (heard, gone)
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                return heard.result()
            if gone.done():
                raise HostError(f"the {self._peer} is gone")
            return None
        finally:
            heard.cancel()
            gone.cancel()

    async def _ended(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

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


def _number(error: ExecuteError) -> int:
    """The errno of a refusal; servers other than our emulator give none."""
    facts = error.received["error"]
    given = facts.get("errno") if isinstance(facts, Mapping) else None
    numbers = {name: number for number, name in errno.errorcode.items()}
    return numbers.get(given, errno.EINVAL) if isinstance(given, str) else errno.EINVAL


def _reason(error: BaseException) -> str:
    """The first line of an error, or its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
