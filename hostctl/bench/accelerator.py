"""An emulator of an accelerator of the bench's own, and the cores that it and its clients have."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostctl.emulator import Emulator


@dataclass(frozen=True, slots=True)
class Cores:
    """Where processes run.

    Attributes:
        server: the server's core, and its clients' where that is fair.
        clients: another one, for clients that are not to take the server's time; the same
            if there is only one.
    """

    server: int
    clients: int


def pick_cores() -> Cores:
    """Two of the cores that we may use."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores(mine[0], mine[-1])


@contextlib.contextmanager
def running(accelerator: str, core: int) -> Iterator[Emulator]:
    """An emulator on a core for the length of a block; ``accelerator`` is its file's text.

    Raises:
        MdevError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="mdevemu-bench-") as name:
        folder = Path(name)
        file = folder / "accel.toml"
        file.write_text(accelerator)
        emulator = Emulator(file, folder / "run", folder / "emulator.log", os.getpid())
        with contextlib.closing(emulator):
            os.sched_setaffinity(emulator.identity.pid, {core})
            yield emulator


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process has one core to run on for the length of a block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
