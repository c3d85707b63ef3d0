"""A device's state moves from one server to another: both clients are ours.

Spec: vfio-user, VFIO_USER_DEVICE_FEATURE, VFIO_USER_MIG_DATA_READ, VFIO_USER_MIG_DATA_WRITE
"""

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.layout import pack, sizeof, unpack
from mdevemu.units import KIB
from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.features_wire import (
    FEATURE,
    MIG_DATA,
    DeviceState,
    Feature,
    MigState,
    Operation,
)
from mdevemu.vfio_user.wire import Command

PART = 256 * KIB
"""Bytes of state that are asked for at once, if both sides take as many."""

ROUND = 64 * KIB
"""A pass over a live device's memory that brings less than this is the last."""


class Moving:
    """The migration state of the device behind one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.part = min(PART, client.server.max_data_xfer_size - MIG_DATA.size)

    @property
    def state(self) -> MigState:
        """Where the device is.

        Raises:
            RequestError: its state cannot be moved.
        """
        asked = FEATURE.pack(
            FEATURE.size + sizeof(DeviceState), Operation.GET | Feature.MIG_DEVICE_STATE
        )
        reply = self._client.ask(Command.DEVICE_FEATURE, asked)
        try:
            return MigState(unpack(DeviceState, reply, FEATURE.size).device_state)
        except ValueError as wrong:
            raise ProtocolError(f"MIG_DEVICE_STATE: {wrong}") from None

    def to(self, state: MigState) -> None:
        """Bring the device to a state.

        Raises:
            RequestError: no way leads there, or the device could not; it is where it was.
        """
        size = FEATURE.size + sizeof(DeviceState)
        flags = Operation.SET | Feature.MIG_DEVICE_STATE
        wanted = FEATURE.pack(size, flags) + pack(DeviceState(state, 0))
        self._client.ask(Command.DEVICE_FEATURE, wanted)

    def read(self) -> bytes:
        """The next bytes of the stream; fewer than ``part`` are all there is now.

        Raises:
            RequestError: there is no stream.
        """
        asked = MIG_DATA.pack(MIG_DATA.size + self.part, self.part)
        reply = self._client.ask(Command.MIG_DATA_READ, asked)
        size = len(reply) - MIG_DATA.size
        if size < 0 or MIG_DATA.unpack_from(reply)[1] != size or size > self.part:
            raise ProtocolError(f"MIG_DATA_READ of {self.part} bytes answered with {len(reply)}")
        return reply[MIG_DATA.size :]

    def write(self, data: bytes) -> None:
        """The next bytes of the stream.

        Raises:
            RequestError: they are refused.
        """
        for at in range(0, len(data), self.part):
            part = data[at : at + self.part]
            size = MIG_DATA.size + len(part)
            self._client.ask(Command.MIG_DATA_WRITE, MIG_DATA.pack(size, len(part)) + part)


def move(source: Client, destination: Client, *, live: bool = True, passes: int = 8) -> int:
    """Move the state of one device to another, which is left stopped; the bytes of it.

    With ``live``, its memory moves first while it works, in at most so many ``passes``.
    The source is left stopped.  Whoever lent memory to the one lends it to the other,
    and then has it run.

    Raises:
        RequestError: one of them refused; the source runs on, the destination is as reset
            or in ERROR.
    """
    there, here = Moving(destination), Moving(source)
    there.to(MigState.RESUMING)
    moved = 0
    try:
        if live:
            here.to(MigState.PRE_COPY)
            for _ in range(passes):
                brought = _copy(here, there)
                moved += brought
                if brought < ROUND:
                    break
        here.to(MigState.STOP_COPY)
        moved += _copy(here, there)
        there.to(MigState.STOP)
        here.to(MigState.STOP)
    except RequestError:
        here.to(MigState.RUNNING)
        raise
    return moved


def _copy(here: Moving, there: Moving) -> int:
    """Pass on all that there is now; how many bytes."""
    moved = 0
    while True:
        part = here.read()
        there.write(part)
        moved += len(part)
        if len(part) < here.part:
            return moved
