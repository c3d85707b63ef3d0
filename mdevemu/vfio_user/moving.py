"""A device's state moves from one server to another: both clients are ours."""

from mdevemu.errors import RequestError
from mdevemu.units import KIB
from mdevemu.vfio_user.client import Client
from mdevemu.vfio_user.features_wire import MigState

ROUND = 64 * KIB
"""A pass over a live device's memory that brings no more than this is the last."""


def move(source: Client, destination: Client, *, live: bool = True, passes: int = 8) -> int:
    """Move the state of one device to another, which is left stopped; the bytes of it.

    With ``live``, its memory moves first while it works, in at most so many ``passes``.
    The source is left stopped.  Whoever lent memory to the one lends it to the other,
    and then has it run.

    Raises:
        RequestError: one of them refused; the source runs on, the destination is as reset
            or in ERROR.
    """
    destination.migration.set_state(MigState.RESUMING)
    moved = 0
    try:
        if live:
            source.migration.set_state(MigState.PRE_COPY)
            for _ in range(passes):
                brought = _copy(source, destination)
                moved += brought
                if brought <= ROUND:
                    break
        source.migration.set_state(MigState.STOP_COPY)
        moved += _copy(source, destination)
        destination.migration.set_state(MigState.STOP)
        source.migration.set_state(MigState.STOP)
    except RequestError:
        source.migration.set_state(MigState.RUNNING)
        raise
    return moved


def _copy(source: Client, destination: Client) -> int:
    """Pass on all that there is now; how many bytes."""
    moved = 0
    for piece in source.migration.stream():
        destination.migration.write(piece)
        moved += len(piece)
    return moved
