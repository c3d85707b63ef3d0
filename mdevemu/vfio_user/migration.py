"""The migration state machine of one device: which arcs there are, and what each has it do.

Spec: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, Direct and Complex State Transitions
"""

import contextlib
import errno
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from mdevemu.errors import RequestError
from mdevemu.vfio_user.device import Migration
from mdevemu.vfio_user.features_wire import MigState
from mdevemu.vfio_user.pending import Pending
from mdevemu.vfio_user.wire import Command

ERROR, STOP, RUNNING = MigState.ERROR, MigState.STOP, MigState.RUNNING
STOP_COPY, RESUMING, PRE_COPY = MigState.STOP_COPY, MigState.RESUMING, MigState.PRE_COPY

ARCS: Mapping[MigState, Sequence[MigState]] = {
    ERROR: (),
    STOP: (RUNNING, STOP_COPY, RESUMING),
    RUNNING: (STOP, PRE_COPY),
    STOP_COPY: (STOP,),
    RESUMING: (STOP,),
    PRE_COPY: (RUNNING, STOP_COPY),
}
"""Direct transitions."""

SAVING = (PRE_COPY, STOP_COPY)
"""States in which there is a stream to read: where a path begins or ends, and nothing between."""

NEVER = (STOP_COPY, PRE_COPY)
"""The transition that is not made, though there is a path."""

_ALWAYS = frozenset(
    {
        Command.DMA_MAP,
        Command.DMA_UNMAP,
        Command.DEVICE_GET_INFO,
        Command.DEVICE_GET_REGION_INFO,
        Command.DEVICE_GET_REGION_IO_FDS,
        Command.DEVICE_GET_IRQ_INFO,
        Command.DEVICE_SET_IRQS,
        Command.DEVICE_RESET,
        Command.DEVICE_FEATURE,
    }
)
_ACCESS = frozenset({Command.REGION_READ, Command.REGION_WRITE, Command.REGION_WRITE_MULTI})

ALLOWED: Mapping[MigState, frozenset[Command]] = {
    ERROR: _ALWAYS,
    STOP: _ALWAYS | _ACCESS,
    RUNNING: _ALWAYS | _ACCESS,
    STOP_COPY: _ALWAYS | {Command.MIG_DATA_READ},
    RESUMING: _ALWAYS | {Command.MIG_DATA_WRITE},
    PRE_COPY: _ALWAYS | _ACCESS | {Command.MIG_DATA_READ},
}
"""Commands of each state.  While a stream tells of a stopped device, nobody may touch it."""


def _paths() -> dict[tuple[MigState, MigState], Sequence[MigState]]:
    """The states that lead from each state to each other that can be reached."""
    found: dict[tuple[MigState, MigState], Sequence[MigState]] = {}
    for start in MigState:
        found[start, start] = ()
        queue = deque([start])
        while queue:
            here = queue.popleft()
            if here in SAVING and here is not start:
                continue
            for there in ARCS[here]:
                if (start, there) not in found:
                    found[start, there] = (*found[start, here], there)
                    queue.append(there)
    del found[NEVER]
    return found


PATHS = _paths()
"""Shortest ways, by (from, to).  There is none from ERROR, and none to it."""


class Mover:
    """Where one device is, whoever its client is.

    A client that leaves ends the stream that it had; a device that it stopped stays so.

    Attributes:
        state: as the specification names it.
    """

    def __init__(self, device: Migration) -> None:
        """The device runs."""
        self.state = RUNNING
        self._device = device
        self._stopping = False

    def move(self, wanted: int, pending: Pending) -> None:
        """Go to a state, by way of others if need be, and settle what is pending.

        An arc that fails leaves the device in the state before it; but one that could
        not become what a stream said is in ERROR.

        Raises:
            RequestError: EINVAL, no way leads there; EBUSY, an earlier stop is under way.
        """
        path = PATHS.get((self.state, MigState(wanted))) if wanted in _STATES else None
        if path is None:
            raise RequestError(errno.EINVAL, f"no way from {self.state.name} to state {wanted}")
        if self._stopping:
            raise RequestError(errno.EBUSY, "the device is still coming to rest")
        self._walk(list(path), pending)

    def read(self, size: int) -> bytes:
        """The next bytes of the stream, ``size`` at most."""
        return self._device.read(size)

    def write(self, data: bytes) -> None:
        """The next bytes of the stream.

        Raises:
            RequestError: they make no sense.
        """
        self._device.write(data)

    def end_stream(self) -> None:
        """Its client left, or the device is to be reset: what it was saving or loading is over."""
        if self.state in (PRE_COPY, STOP_COPY, RESUMING):
            # In ERROR, whoever comes next sees that it could not.
            with contextlib.suppress(RequestError):
                self._arc(RUNNING if self.state is PRE_COPY else STOP)

    def after_reset(self) -> None:
        """Run, as a device does that was reset."""
        if self.state is not RUNNING:
            self.state = RUNNING
            self._device.run()

    def _walk(self, path: list[MigState], pending: Pending) -> None:
        while path:
            if (self.state, path[0]) in ((RUNNING, STOP), (PRE_COPY, STOP_COPY)):
                self._stopping = True
                self._device.stop(partial(self._stopped, path, pending))
                return
            try:
                self._arc(path.pop(0))
            except RequestError as failed:
                pending.settle(failed)
                return
        pending.settle()

    def _stopped(self, path: list[MigState], pending: Pending, failed: RequestError | None) -> None:
        """The device came to rest, or could not."""
        self._stopping = False
        if failed is not None:
            pending.settle(failed)
        elif pending.over:
            self._device.run()  # nobody heard of it
        else:
            if path[0] is STOP_COPY:
                self._device.save(live=False)
            self.state = path.pop(0)
            self._walk(path, pending)

    def _arc(self, to: MigState) -> None:
        """One transition that takes no time.

        Raises:
            RequestError: the device could not; see ``move``.
        """
        arc = self.state, to
        if arc == (STOP, RUNNING):
            self._device.run()
        elif arc in ((STOP_COPY, STOP), (PRE_COPY, RUNNING)):
            self._device.end()
        elif to in SAVING:
            self._device.save(live=to is PRE_COPY)
        elif to is RESUMING:
            self._device.load()
        else:
            assert arc == (RESUMING, STOP)
            try:
                self._device.finish()
            except RequestError:
                self.state = ERROR
                raise
        self.state = to


_STATES = frozenset(MigState)
