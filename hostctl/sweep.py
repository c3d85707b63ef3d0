"""What dead owners left behind: processes by their recorded identity, and folders."""

import fcntl
import os
from dataclasses import dataclass

from hostctl.runtime import Folder, folders

_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class Corpse:
    """A lab whose owner is gone.

    Attributes:
        name: the lab's.
        folder: its folder.
        processes: roles and pids of processes of it that still run.
    """

    name: str
    folder: str
    processes: dict[str, int]


def _held(folder: Folder) -> bool:
    """Somebody who lives holds the folder as its owner."""
    try:
        handle = os.open(folder.path / "owner.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def corpse(folder: Folder) -> Corpse | None:
    """What is left of a lab; None if its owner lives, or if there is nothing."""
    if not folder.path.exists() or _held(folder):
        return None
    record = folder.read()
    processes = record.processes if record is not None else {}
    if "owner" in processes and processes["owner"].alive:
        return None
    alive = {role: process.pid for role, process in processes.items() if process.alive}
    return Corpse(folder.name, str(folder.path), alive)


def corpses() -> list[Corpse]:
    """Every lab whose owner is gone."""
    return [found for folder in folders() if (found := corpse(folder)) is not None]


def sweep(folder: Folder) -> Corpse | None:
    """End what is left of a lab and remove its folder; says what was there.

    Only processes whose number *and* start time were recorded are touched.
    """
    found = corpse(folder)
    if found is None:
        return None
    record = folder.read()
    if record is not None:
        for role, process in record.processes.items():
            if role != "owner":
                process.end(_PATIENCE)
    folder.remove()
    return found
