"""What a file of recorded answers comes to: counted, and told to people and programs."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mdevemu.iommu.replay import Mismatch, replay
from mdevemu.iommu.vectors import Command, Message, Translate, scenarios

SHOWN = 100


@dataclass(slots=True)
class Tally:
    """What was replayed of a file, and what differed.

    Attributes:
        different: scenarios with a mismatch.
        mismatches: the first one of each of those, as far as there is room.
    """

    file: str
    scenarios: int = 0
    requests: int = 0
    commands: int = 0
    messages: int = 0
    seconds: float = 0.0
    different: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)


def verify(path: Path) -> Tally:
    """Replay every scenario of a file.

    Raises:
        ConfigError: it is no such file.
    """
    tally = Tally(str(path))
    begun = time.monotonic()
    for scenario in scenarios(path):
        mismatch = replay(scenario)
        if mismatch is not None:
            tally.different += 1
            if len(tally.mismatches) < SHOWN:
                tally.mismatches.append(mismatch)
        tally.scenarios += 1
        for action in scenario.actions:
            tally.requests += isinstance(action, Translate)
            tally.commands += isinstance(action, Command)
            tally.messages += isinstance(action, Message)
    tally.seconds = time.monotonic() - begun
    return tally


def record(tally: Tally) -> dict[str, object]:
    """As JSON has it."""
    return dataclasses.asdict(tally)


def lines(tally: Tally) -> Iterator[str]:
    """As people read it: the counts, and the first mismatch with its walk."""
    found = tally.different
    yield (
        f"{tally.file}: {tally.scenarios} scenarios, {tally.requests} requests, "
        f"{tally.commands} commands, {tally.messages} page requests, "
        f"{found} mismatch{'' if found == 1 else 'es'} ({tally.seconds:.1f} s)"
    )
    if tally.mismatches:
        yield from _mismatch(tally.mismatches[0])


def _mismatch(mismatch: Mismatch) -> Iterator[str]:
    yield f"first mismatch: {mismatch.scenario} step {mismatch.step}: {mismatch.what}"
    yield f"  expected  {_shown(mismatch.expected)}"
    yield f"  got       {_shown(mismatch.got)}"
    if mismatch.request is None:
        return
    yield f"  request   {_shown(dataclasses.asdict(mismatch.request))}"
    for depth, step in enumerate(mismatch.walk):
        yield (
            f"  {'  ' * depth}{step.table} {step.level}  index {step.index}"
            f"  at {step.address:#x}: {step.raw:#018x}  {' '.join(step.flags)}"
            f"{'  leaf' if step.leaf else ''}"
        )


def _shown(value: object) -> str:
    """Numbers in hexadecimal."""
    if isinstance(value, dict):
        return " ".join(f"{name}={_shown(each)}" for name, each in value.items()) or "nothing"
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "nothing"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{int(value):#x}"
    return str(value)
