"""What an accelerator with very many mdevs costs, next to one with few."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.bench.accelerator import pick_cores, running
from hostctl.control import Control

AIM_SECONDS = 20.0
"""How long a thousand may take."""
AIMED = 1000
MAX_MDEVS = 4096

_TYPE = "mdevemu-bench"
_ACCELERATOR = f"""
[accelerator]
name = "bench"
hbm = "{MAX_MDEVS * 2}MiB"

[[engine]]
name = "dma0"
operations = ["nop", "copy"]

[[type]]
name = "bench"
description = "2 MiB of HBM, one queue"
hbm = "2MiB"
queues = 1
instances = {MAX_MDEVS}
"""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Scale:
    """An accelerator with so many mdevs.

    Attributes:
        create, remove: seconds, all of them one after the other.
        slowest: seconds that the last tenth took to create for each second of the first; 1 if
            the number that there is already costs nothing.
        memory: bytes of the emulator that each mdev took while idle.
        cpu: seconds of a core per second, while all are idle.
        listed: seconds to list them all.
    """

    mdevs: int
    create: float
    slowest: float
    remove: float
    memory: float
    cpu: float
    listed: float

    @property
    def held(self) -> bool | None:
        """A thousand were created in time; None if there were fewer."""
        return None if self.mdevs < AIMED else self.create <= AIM_SECONDS * self.mdevs / AIMED


def measure(mdevs: int, idle: float) -> Scale:
    """Create that many, watch them being idle for so many seconds, remove them.

    Raises:
        MdevError: the emulator does not start, or refuses an mdev.
    """
    with running(_ACCELERATOR, pick_cores().server) as emulator:
        control, pid = emulator.control, emulator.identity.pid
        _create(control, 1)  # what the first one loads is nobody's share
        before, begin = _memory(pid), time.monotonic()
        made, after_each = _create(control, mdevs)
        create = time.monotonic() - begin
        memory = (_memory(pid) - before) / mdevs
        time.sleep(min(idle, 0.1))
        used, watched = _cpu(pid), time.monotonic()
        time.sleep(idle)
        cpu = (_cpu(pid) - used) / (time.monotonic() - watched)
        begin = time.monotonic()
        control.mdevs()
        listed = time.monotonic() - begin
        begin = time.monotonic()
        for uuid in made:
            control.remove(uuid)
        remove = time.monotonic() - begin
    tenth = max(1, mdevs // 10)
    slowest = sum(after_each[-tenth:]) / sum(after_each[:tenth])
    return Scale(mdevs, create, slowest, remove, memory, cpu, listed)


def _create(control: Control, mdevs: int) -> tuple[Sequence[str], Sequence[float]]:
    """UUIDs, and the seconds that each took."""
    made, took = [], []
    for _ in range(mdevs):
        begin = time.monotonic()
        made.append(control.create(_TYPE, name=None, uuid=None, weight=None).uuid)
        took.append(time.monotonic() - begin)
    return made, took


def _memory(pid: int) -> int:
    """Bytes that only this process has.  Spec: Linux, Documentation/filesystems/proc.rst."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = (line.split() for line in lines if line.startswith("Private_"))
    return sum(int(words[1]) * 1024 for words in private)


def _cpu(pid: int) -> float:
    """Seconds that a process has used: utime and stime.  Spec: proc_pid_stat(5)."""
    behind = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(behind[11]) + int(behind[12])) / _TICKS
