"""What a guest's register accesses cost, alone, in a crowd, and beside somebody busy."""

from collections.abc import Iterator

from guest import native
from hostctl.bench.kinds import Kind, compare
from hostctl.bench.rows import Aim, Row, Times, percentile, relation, row
from hostctl.bench.script import hello, posted, read, script, write, write_multi
from hostctl.bench.stage import CLIENTS, Stage

_BAR, _SCRATCH = native.REGISTERS_BAR, native.SCRATCH  # a register that does nothing
_DATA = b"\x01\x02\x03\x04"
_BURST = 128  # posted writes between two reads
_WRITES = 200  # of one REGION_WRITE_MULTI: what QEMU sends

_READ = read(_BAR, _SCRATCH, len(_DATA))
_WRITE = write(_BAR, _SCRATCH, _DATA)
# A read behind them, so that they were not only sent.
_POSTED = posted(_BAR, _SCRATCH, _DATA) * _BURST + _READ
_MULTI = write_multi([(_BAR, _SCRATCH, _DATA)] * _WRITES) + _READ

_KINDS = (
    Kind("read of 4 bytes", _READ),
    Kind("write of 4 bytes", _WRITE),
    Kind("posted write", _POSTED, _BURST),
    Kind("write in a REGION_WRITE_MULTI", _MULTI, _WRITES),
)


def measure(stage: Stage, rounds: int, count: int) -> Iterator[Row]:
    """Every row; each number comes from ``rounds`` rounds of about ``count`` accesses."""
    for clients in (1, CLIENTS):
        reads: list[float] = []
        for kind in _KINDS:
            ours, floor = compare(stage, kind, rounds, count, clients)
            aim = None
            if kind.turn is _READ:
                reads = ours
                aim = Aim(1.4, "the floor", relation(ours, floor)) if clients == 1 else None
            elif kind.turn is _POSTED:
                aim = Aim(0.2, "a read", relation(ours, reads))
            yield row(kind.name, clients, ours, floor, aim)
    yield from _neighbours(stage, rounds, count)


_BUSY = {
    "alone": None,
    "beside reads": script(hello(), _READ),
    "beside posted writes": script(hello(), posted(_BAR, _SCRATCH, _DATA) * _BURST),
}


def _neighbours(stage: Stage, rounds: int, count: int) -> Iterator[Row]:
    """A read's median, and the slowest of a hundred, of one whose neighbour is busy."""
    quiet = script(hello(), _READ)
    cases = [(beside, mine) for beside in _BUSY for mine in (True, False)]
    times: dict[tuple[str, bool], list[Times]] = {case: [] for case in cases}
    for _ in range(rounds):
        for beside, mine in cases:
            found = stage.beside(_BUSY[beside], quiet, count, ours=mine)
            times[beside, mine].append(found)
    for percent in (50, 99):
        alone: list[float] = []
        for beside in _BUSY:
            ours, floor = (
                [percentile(each, percent) for each in times[beside, mine]]
                for mine in (True, False)
            )
            alone = alone or ours
            clients = 1 if beside == "alone" else 2
            # The slowest are the kernel's doing as much as the server's: see the floor's.
            judged = clients == 2 and percent == 50
            aim = Aim(1.5, "alone", relation(ours, alone)) if judged else None
            yield row(f"read {beside}, p{percent}", clients, ours, floor, aim)
