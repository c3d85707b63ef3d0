"""Who gets how much of an accelerator, and how long a tenant waits for its neighbours.

Jain's index is the square of the sum of what each got for its weight, over n times the
sum of the squares: 1 if all got the same, 1/n if one got everything.

Source: R. Jain, D. Chiu and W. Hawe, "A Quantitative Measure of Fairness" (1984)
"""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hostctl.bench.accelerator import on_core, pick_cores, running
from hostctl.bench.rows import Times, percentile, relation
from hostctl.bench.tenant import LENGTHS, Tenant, Wanted, feed_for
from hostctl.control import Control
from hostctl.errors import HostError

SHARE_AIM = 0.05
"""How far a share may be from the weight's, as a part of it."""
LATENCY_AIM = 3.0
"""How much longer a tiny command may take beside a bulk neighbour than without, at p99."""

_ACCELERATOR = """
[accelerator]
name = "bench"
hbm = 0

[[engine]]
name = "dma0"
operations = ["nop", "copy"]

[[type]]
name = "bench"
description = "no HBM, one queue"
hbm = 0
queues = 1
"""
_TYPE = "mdevemu-bench"
_SAMPLES = {"large": 40, "tiny": 1500}
_WARM = 0.2  # seconds before shares are counted


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant got while all of them wanted everything.

    Attributes:
        due: its weight over all weights.
        work: its part of the work, in copy-bytes, that was done.
        time: its part of the time that engines worked.
    """

    tenant: str
    weight: int
    due: float
    work: float
    time: float

    @property
    def off(self) -> float:
        """How far its time is from its due, as a part of that."""
        return abs(self.time / self.due - 1)


@dataclass(frozen=True, slots=True)
class Wait:
    """How long one command of a tenant took.

    Attributes:
        beside: whose rings were full meanwhile, in words.
        p50, p99: nanoseconds; medians of the rounds.
        ratio: p99 to that without neighbours, the median of the rounds' ratios; 1 without.
        aimed: it is what ``LATENCY_AIM`` is about.
    """

    tenant: str
    beside: str
    p50: float
    p99: float
    ratio: float
    aimed: bool

    @property
    def held(self) -> bool:
        """It is no longer than it should be."""
        return not self.aimed or self.ratio <= LATENCY_AIM


@dataclass(frozen=True, slots=True)
class Fairness:
    """All that was measured.

    Attributes:
        jain: Jain's index of time over weight.
    """

    shares: Sequence[Share]
    jain: float
    waits: Sequence[Wait]

    @property
    def fair(self) -> bool:
        """Every share is as near to its weight's as it should be."""
        return all(share.off <= SHARE_AIM for share in self.shares)


def jain(each: Sequence[float]) -> float:
    """Jain's index of what each got."""
    squares = sum(one * one for one in each)
    return sum(each) ** 2 / (len(each) * squares) if squares else 1.0


def measure(wanted: Sequence[Wanted], rounds: int, seconds: float) -> Fairness:
    """Give an accelerator to tenants, and see what each gets.

    Raises:
        MdevError: the emulator does not start, or a tenant cannot drive its mdev.
    """
    cores = pick_cores()
    with contextlib.ExitStack() as held:
        emulator = held.enter_context(running(_ACCELERATOR, cores.server))
        held.enter_context(on_core(cores.clients))
        control = emulator.control
        tenants = [held.enter_context(_tenant(control, each)) for each in wanted]
        shares = _shares(control, tenants, seconds)
        waits = [wait for tenant in tenants for wait in _waits(tenant, tenants, rounds)]
    return Fairness(shares, jain([share.time / share.weight for share in shares]), waits)


@contextlib.contextmanager
def _tenant(control: Control, wanted: Wanted) -> Iterator[Tenant]:
    made = control.create(_TYPE, name=None, uuid=None, weight=wanted.weight)
    try:
        tenant = Tenant(wanted, made.name, made.socket)
    except OSError as error:
        raise HostError(f"{wanted.name}: {made.socket}: {error}") from None
    with contextlib.closing(tenant):
        yield tenant


def _shares(control: Control, tenants: Sequence[Tenant], seconds: float) -> list[Share]:
    feed_for(tenants, _WARM)
    before = control.counters()
    feed_for(tenants, seconds)
    after = control.counters()
    for tenant in tenants:
        tenant.drain()
    work = [after[each.mdev].work - before[each.mdev].work for each in tenants]
    busy = [after[each.mdev].busy_ns - before[each.mdev].busy_ns for each in tenants]
    if not all(work):
        raise HostError(f"a tenant's work was not begun in {seconds} s: measure for longer")
    weights = sum(each.wanted.weight for each in tenants)
    return [
        Share(
            each.wanted.name,
            each.wanted.weight,
            each.wanted.weight / weights,
            work[at] / sum(work),
            busy[at] / sum(busy),
        )
        for at, each in enumerate(tenants)
    ]


def _waits(tenant: Tenant, tenants: Sequence[Tenant], rounds: int) -> Iterator[Wait]:
    """How long a tenant waits alone, beside one that copies much, and beside all others."""
    others = [each for each in tenants if each is not tenant]
    bulk = next((each for each in others if each.wanted.kind == "large"), None)
    cases: dict[str, list[Tenant]] = {"nobody": []}
    if bulk:
        cases[bulk.wanted.name] = [bulk]
    if len(others) > 1:
        cases["all others"] = others
    found: dict[str, list[Times]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, neighbours in cases.items():
            found[case].append(_times(tenant, neighbours))
    alone = [percentile(times, 99) for times in found["nobody"]]
    for case, of_rounds in found.items():
        p50s, p99s = ([percentile(times, of) for times in of_rounds] for of in (50, 99))
        yield Wait(
            tenant.wanted.name,
            case,
            statistics.median(p50s),
            statistics.median(p99s),
            relation(p99s, alone),
            tenant.wanted.kind == "tiny" and cases[case] == [bulk],
        )


def _times(tenant: Tenant, neighbours: Sequence[Tenant]) -> Times:
    """One command after the other; what the neighbours' rings take is no part of it."""
    times = [0]
    for _ in range(_SAMPLES[tenant.wanted.kind]):
        for each in neighbours:
            each.feed()
        times.append(times[-1] + tenant.once())
    for each in neighbours:
        each.drain()
    return times


def read_tenant(text: str) -> Wanted | None:
    """``large:4`` or ``tiny:1``: a kind and a weight; None if it is no such thing."""
    kind, _, weight = text.partition(":")
    right = kind in LENGTHS and weight.isascii() and weight.isdigit() and 1 <= int(weight) <= 1000
    return Wanted(kind, int(weight)) if right else None
