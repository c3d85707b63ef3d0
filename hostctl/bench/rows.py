"""What was measured, put in relation: numbers of ours beside those of the floor."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

Times = Sequence[int]
"""When a client's first turn began, and when each turn was over, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a number should not exceed.

    Attributes:
        limit: the largest ratio that is as it should be.
        of: what the ratio is to, in words.
        ratio: the one that was measured.
    """

    limit: float
    of: str
    ratio: float

    @property
    def held(self) -> bool:
        """The ratio is as it should be."""
        return self.ratio <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured.

    Attributes:
        clients: how many did it at the same time.
        ours: nanoseconds of one, with our server.
        floor: nanoseconds of the same bytes between two C programs.
        ratio: ours to floor; each is a median of rounds, and so is the ratio.
    """

    name: str
    clients: int
    ours: float
    floor: float
    ratio: float
    aim: Aim | None = None


def each(clients: Sequence[Times], per_turn: int) -> float:
    """Nanoseconds of one thing, when clients that ran together did ``per_turn`` a turn."""
    turns = sum(len(times) - 1 for times in clients)
    span = max(times[-1] for times in clients) - min(times[0] for times in clients)
    return span / (turns * per_turn)


def percentile(times: Times, percent: int) -> float:
    """The turn, in nanoseconds, that so many of a hundred do not exceed."""
    turns = sorted(after - before for before, after in pairwise(times))
    return float(turns[max(0, -(-len(turns) * percent // 100) - 1)])


def relation(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios: what slows a whole round cancels out."""
    return statistics.median(one / other for one, other in zip(ours, others, strict=True))


def row(
    name: str, clients: int, ours: Sequence[float], floor: Sequence[float], aim: Aim | None = None
) -> Row:
    """A row from the numbers of each round."""
    medians = statistics.median(ours), statistics.median(floor)
    return Row(name, clients, *medians, relation(ours, floor), aim)


COLUMNS = ("what", "clients", "us each", "floor", "ratio", "aim")


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it; times in microseconds."""
    aim = ""
    if row.aim is not None:
        verdict = "held" if row.aim.held else "missed"
        aim = f"{row.aim.limit:g} of {row.aim.of}: {row.aim.ratio:.2f}, {verdict}"
    numbers = (f"{row.ours / 1000:.2f}", f"{row.floor / 1000:.2f}", f"{row.ratio:.2f}")
    return (row.name, str(row.clients), *numbers, aim)


def record(row: Row) -> dict[str, object]:
    """A row as JSON has it."""
    aim = None if row.aim is None else {**asdict(row.aim), "held": row.aim.held}
    return {
        "name": row.name,
        "clients": row.clients,
        "ours-ns": row.ours,
        "floor-ns": row.floor,
        "ratio": row.ratio,
        "aim": aim,
    }
