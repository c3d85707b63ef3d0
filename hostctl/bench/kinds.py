"""Something that clients do over and over, measured with our server and without."""

from dataclasses import dataclass

from hostctl.bench.rows import each
from hostctl.bench.script import Steps, hello, script
from hostctl.bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing.

    Attributes:
        turn: what a client does over and over.
        parts: how many of that kind a turn has.
        setup: what it does once, after the version was agreed.
        weight: how many times a plain access one turn costs, about, so that it is done less often.
    """

    name: str
    turn: Steps
    parts: int = 1
    setup: Steps = ()
    weight: int = 1


def compare(
    stage: Stage, kind: Kind, rounds: int, count: int, clients: int
) -> tuple[list[float], list[float]]:
    """Nanoseconds of one part in each round, with our server and without."""
    lines = script(hello() + kind.setup, kind.turn)
    turns = max(1, count // (kind.parts * kind.weight * clients))
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        for found, mine in ((ours, True), (floor, False)):
            found.append(each(stage.play(lines, turns, clients, ours=mine), kind.parts))
    return ours, floor
