"""The demo's play: who does what when, and the facts that come of it."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict

from hostctl.control import Control, Counters
from hostctl.demo.facts import (
    Canary,
    Facts,
    Heir,
    Hunt,
    OperationRuns,
    Share,
    Tenant,
    Trespass,
    Witness,
)
from hostctl.demo.stage import Driver, Stage
from hostctl.guest import Pending
from hostctl.lab import Lab
from hostctl.spec import mdev_uuid
from hostctl.steps import Steps
from hostctl.tables import Table

RED, BLUE, GREEN = "red", "blue", "green"
# Each tenant's buffers have addresses of their own: an address of the neighbour's means
# nothing in one's own address space.
_BASES: Mapping[str, int] = {RED: 1 << 36, BLUE: 2 << 36, GREEN: 3 << 36}
_NEVER_MAPPED = 0x3F << 32
_DIRECTIONS = ("read", "write")
_SETTLE_SECONDS = 0.2  # until both loads run at full speed
_MEASURE_SECONDS = 1.0
_LOAD_SECONDS = 60.0  # at most: it is stopped when the measurement is over
_PAUSE = 0.05


def operation_runs(facts: Table) -> dict[str, OperationRuns]:
    """What the check ``operations`` says of each operation."""
    found = facts.table("operations")
    return {
        name: OperationRuns(
            runs=found.table(name).whole("runs", 0),
            equal=found.table(name).whole("equal", 0),
            bytes=found.table(name).whole("bytes", 0),
        )
        for name in found
    }


def complaints(facts: Table) -> list[str]:
    """What the check ``operations`` found wrong besides results."""
    wrong = []
    for mistake in facts.tables("errors"):
        if not mistake.truth("ok"):
            wrong.append(
                f"{mistake.text('mistake')} ended with {mistake.raw('status')}, "
                f"not {mistake.raw('expected')}"
            )
    for queue in facts.tables("queues"):
        if not queue.truth("completed-once"):
            wrong.append(f"queue {queue.whole('queue', 0)} completed a command never or twice")
    stall = facts.table("stall")
    wrong += [
        f"full completion ring: not {word}"
        for word in ("stalled", "completed-once", "running-again")
        if not stall.truth(word)
    ]
    return wrong


def counter_changes(before: Counters, after: Counters) -> dict[str, int]:
    """Counters that moved, by name, and by how much."""
    old, new = asdict(before), asdict(after)
    return {name: new[name] - old[name] for name in old if new[name] != old[name]}


def hunted(driver: Driver, canary: str, iovas: list[int]) -> Hunt:
    """A search for a canary, also by DMA from addresses that were its owner's."""
    facts = driver.check("hunt", canary=canary, iovas=iovas)
    searched = facts.table("searched")
    amounts = {place: searched.whole(place, 0) for place in searched}
    return Hunt(driver.name, amounts, facts.texts("found"))


class Play:
    """One performance by red and blue, and green who comes after red.

    Attributes:
        facts: what was seen so far.
    """

    def __init__(self, lab: Lab, stage: Stage, steps: Steps, seed: int) -> None:
        """``lab`` is up, with the mdevs red and blue.  All randomness comes from ``seed``."""
        self._lab = lab
        self._stage = stage
        self._steps = steps
        self._seed = seed
        self.facts = Facts(stage.variant, stage.accelerator, seed)

    @property
    def _control(self) -> Control:
        return self._lab.emulator.control

    def perform(self) -> None:
        """Play it to the end.

        Raises:
            MdevError: something went wrong that no claim is about.
        """
        with self._steps("drivers bound") as note:
            red, blue = (self._stage.enter(name, _BASES[name]) for name in (RED, BLUE))
            note.say(f"{red.place}, {blue.place}")
        with self._steps("operations") as note:
            works = [(each, each.start("operations", seed=self._seed)) for each in (red, blue)]
            self.facts.tenants = [self._tenant(each, each.finish(work)) for each, work in works]
            note.say(_summary(self.facts.tenants))
        with self._steps("sharing") as note:
            self.facts.shares = self._share([red, blue])
            note.say(", ".join(f"{each.name} {each.measured:.0%}" for each in self.facts.shares))
        with self._steps("trespass") as note:
            self._trespass(red, blue)
            self._trespass(blue, red)
            note.say(f"{len(self.facts.trespasses)} tries")
        with self._steps("canary") as note:
            planted, control, neighbour, iovas = self._canary(red, blue)
            note.say(f"{len(neighbour.found)} found by {neighbour.by}")
        with self._steps("heir") as note:
            heir, hunt = self._inherit(red, iovas)
            note.say(f"{len(hunt.found)} found by {hunt.by}")
        self.facts.heir = heir
        self.facts.canary = Canary(RED, planted, control, neighbour, hunt)

    def _secret(self, name: str) -> str:
        """A canary in hexadecimal: 32 bytes that nobody else uses."""
        return hashlib.sha256(f"{self._seed} {name}".encode()).hexdigest()

    def _tenant(self, driver: Driver, facts: Table) -> Tenant:
        """A tenant, and what its operations gave."""
        mdev = self._lab.mdevs[driver.name]
        return Tenant(
            name=driver.name,
            place=driver.place,
            pasid=mdev.pasid,
            device_id=mdev.device_id,
            weight=mdev.weight,
            hbm_base=mdev.hbm_base,
            hbm_size=mdev.hbm_size,
            operations=operation_runs(facts),
            interrupts=facts.whole("interrupts", 0),
            errors=tuple(complaints(facts)),
        )

    def _share(self, drivers: list[Driver]) -> list[Share]:
        """Keep both busy, and measure over a time in which both were."""
        loads = [(each, each.start("load", seconds=_LOAD_SECONDS)) for each in drivers]
        self._wait_busy(loads)
        before, start = self._control.counters(), time.monotonic()
        time.sleep(_MEASURE_SECONDS)
        after, seconds = self._control.counters(), time.monotonic() - start
        lasted = all(each.running(load) for each, load in loads)
        for each, load in loads:
            each.stop(load)
        for each, load in loads:
            each.finish(load)
        if not lasted:
            return []  # somebody was done before the measurement was: nothing is known
        moved = {
            each.name: after[each.name].bytes_read - before[each.name].bytes_read
            for each in drivers
        }
        weights = {each.name: self._lab.mdevs[each.name].weight for each in drivers}
        return [
            Share(
                name=each.name,
                weight=weights[each.name],
                entitled=weights[each.name] / sum(weights.values()),
                measured=moved[each.name] / max(1, sum(moved.values())),
                commands=after[each.name].completed - before[each.name].completed,
                bytes=moved[each.name],
                busy_ns=after[each.name].busy_ns - before[each.name].busy_ns,
                seconds=seconds,
            )
            for each in drivers
        ]

    def _wait_busy(self, loads: list[tuple[Driver, Pending]]) -> None:
        """Wait until each load has got something done, and a little longer."""
        idle = self._control.counters()
        while all(each.running(load) for each, load in loads):
            now = self._control.counters()
            if all(now[each.name].completed > idle[each.name].completed for each, _ in loads):
                break
            time.sleep(_PAUSE)
        time.sleep(_SETTLE_SECONDS)

    def _trespass(self, thief: Driver, owner: Driver) -> None:
        """One tenant aims at what is not its own, while the other one sits still."""
        secret = self._secret(owner.name)
        planted = owner.check("plant", canary=secret, flood=False)
        aims = [(_NEVER_MAPPED, "what nobody mapped")]
        aims += [(iova, f"{owner.name}'s memory") for iova in _whole_list(planted, "iovas")]
        own = self._lab.mdevs[thief.name]
        there = set(hunted(owner, secret, []).found)
        before = self._control.counters()[owner.name]
        for iova, target in aims:
            for direction in _DIRECTIONS:
                since = self._last_fault()
                given = [{"iova": iova, "operation": direction}]
                facts = thief.check("trespass", targets=given, own=False)
                for attempt in facts.tables("attempts"):
                    self.facts.trespasses.append(
                        Trespass(
                            by=thief.name,
                            pasid=own.pasid,
                            device_id=own.device_id,
                            target=target,
                            iova=iova,
                            operation=direction,
                            status=attempt.text("status"),
                            cause=attempt.whole("cause", 0),
                            address=attempt.whole("address", 0),
                            moved=attempt.truth("moved"),
                            records=tuple(self._control.faults(since)),
                        )
                    )
        after = self._control.counters()[owner.name]
        left = set(hunted(owner, secret, []).found)
        works = owner.check("trespass", targets=[], own=False).truth("alive")
        self.facts.witnesses.append(
            Witness(
                name=owner.name,
                of=thief.name,
                changed=counter_changes(before, after),
                intact=bool(there) and there <= left,
                works=works,
            )
        )

    def _last_fault(self) -> int:
        """The sequence number of the newest fault record."""
        known = self._control.faults()
        return known[-1].sequence if known else 0

    def _canary(
        self, owner: Driver, neighbour: Driver
    ) -> tuple[tuple[str, ...], Hunt, Hunt, list[int]]:
        """Plant it, see that its owner finds it, and have the neighbour look for it."""
        secret = self._secret("canary")
        facts = owner.check("plant", canary=secret)
        places = facts.table("places")
        planted = tuple(place for place in places if places.whole(place, 0))
        iovas = _whole_list(facts, "iovas")
        control = hunted(owner, secret, [])
        return planted, control, hunted(neighbour, secret, iovas), iovas

    def _inherit(self, former: Driver, iovas: list[int]) -> tuple[Heir, Hunt]:
        """The tenant goes, another one gets its HBM and looks for what it left behind."""
        old = self._lab.mdevs[former.name]
        self._stage.leave(former)
        self._lab.remove_mdev(former.name)
        kind = self._lab.spec.mdev(former.name).type
        new = self._lab.create_mdev(GREEN, kind, mdev_uuid(self._lab.spec.name, GREEN), None)
        driver = self._stage.enter(GREEN, _BASES[GREEN])
        hunt = hunted(driver, self._secret("canary"), iovas)
        heir = Heir(
            name=GREEN,
            after=former.name,
            pasid=new.pasid,
            hbm_base=new.hbm_base,
            hbm_size=new.hbm_size,
            former_base=old.hbm_base,
            former_size=old.hbm_size,
        )
        return heir, hunt


def _whole_list(facts: Table, key: str) -> list[int]:
    """A list of addresses."""
    value = facts.raw(key)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise facts.refuse(key, "must be a list of whole numbers")
    return list(value)


def _summary(tenants: list[Tenant]) -> str:
    runs = [each for tenant in tenants for each in tenant.operations.values()]
    return f"{sum(each.equal for each in runs)} of {sum(each.runs for each in runs)} right"
