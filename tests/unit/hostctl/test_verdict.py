"""The demo's verdict: good facts hold, and each planted lie is noticed by its claim alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest

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
from hostctl.demo.verdict import OPERATIONS, judge
from hostctl.iommu import Fault

HBM = 32 << 20


def tenant(name: str, pasid: int, base: int) -> Tenant:
    runs = {operation: OperationRuns(runs=6, equal=6, bytes=1000) for operation in OPERATIONS}
    return Tenant(name, "host", pasid, 0x100, 1, base, HBM, runs, interrupts=60, errors=())


def fault(mdev: str, pasid: int, iova: int) -> Fault:
    return Fault(0, mdev, 0x100, pasid, iova, 13, "read page fault", "read")


def trespass(by: str, pasid: int, iova: int) -> Trespass:
    return Trespass(
        by=by,
        pasid=pasid,
        device_id=0x100,
        target="what nobody mapped",
        iova=iova,
        operation="read",
        status="read-fault",
        cause=13,
        address=iova,
        moved=False,
        records=(fault(by, pasid, iova),),
    )


def share(name: str, weight: int, measured: float) -> Share:
    return Share(name, weight, weight / 4, measured, 100, 1 << 20, 1000, 1.0)


def good() -> Facts:
    searched = {"hbm": HBM, "registers": 65536, "memory": 1 << 20, "dma": 4}
    own = Hunt("red", searched, ("memory", "hbm", "registers"))
    return Facts(
        variant="no-vm",
        accelerator="",
        seed=1,
        tenants=[tenant("red", 1, 0), tenant("blue", 2, HBM)],
        trespasses=[trespass("red", 1, 0x5000), trespass("blue", 2, 0x7000)],
        witnesses=[
            Witness("blue", "red", changed={}, intact=True, works=True),
            Witness("red", "blue", changed={}, intact=True, works=True),
        ],
        shares=[share("red", 3, 0.74), share("blue", 1, 0.26)],
        canary=Canary(
            owner="red",
            planted=("memory", "hbm", "queues", "registers"),
            control=own,
            neighbour=Hunt("blue", searched, ()),
            heir=Hunt("green", searched, ()),
        ),
        heir=Heir("green", "red", 3, 0, HBM, 0, HBM),
    )


def contradicted(facts: Facts) -> dict[str, str]:
    return {each.name: each.why for each in judge(facts) if not each.held}


def test_good_facts_hold_and_every_claim_says_why() -> None:
    judgements = judge(good())
    assert len(judgements) == 7
    assert all(judgement.held for judgement in judgements)
    assert all(judgement.why for judgement in judgements)


def test_no_facts_at_all_hold_nothing() -> None:
    assert not any(judgement.held for judgement in judge(Facts("no-vm", "", 1)))


def wrong_result(facts: Facts) -> None:
    runs = dict(facts.tenants[0].operations) | {"sha256": OperationRuns(6, 5, 1000)}
    facts.tenants[0] = replace(facts.tenants[0], operations=runs)


def missing_operation(facts: Facts) -> None:
    runs = dict(facts.tenants[1].operations)
    del runs["deflate"]
    facts.tenants[1] = replace(facts.tenants[1], operations=runs)


def no_interrupts(facts: Facts) -> None:
    facts.tenants[0] = replace(facts.tenants[0], interrupts=0)


def driver_complaint(facts: Facts) -> None:
    facts.tenants[0] = replace(facts.tenants[0], errors=("queue 1 stuck",))


def same_pasid(facts: Facts) -> None:
    facts.tenants[1] = replace(facts.tenants[1], pasid=1)


def not_refused(facts: Facts) -> None:
    facts.trespasses[0] = replace(facts.trespasses[0], status="success", cause=0, records=())


def refused_by_the_device_only(facts: Facts) -> None:
    facts.trespasses[0] = replace(facts.trespasses[0], cause=0)


def other_address(facts: Facts) -> None:
    facts.trespasses[0] = replace(facts.trespasses[0], address=0x5008)


def bytes_moved(facts: Facts) -> None:
    facts.trespasses[0] = replace(facts.trespasses[0], moved=True)


def no_record(facts: Facts) -> None:
    facts.trespasses[0] = replace(facts.trespasses[0], records=())


def neighbours_pasid_in_record(facts: Facts) -> None:
    facts.trespasses[0] = replace(facts.trespasses[0], records=(fault("blue", 2, 0x5000),))


def second_record_of_a_stranger(facts: Facts) -> None:
    records = (*facts.trespasses[0].records, fault("blue", 2, 0x9000))
    facts.trespasses[0] = replace(facts.trespasses[0], records=records)


def only_one_trespasses(facts: Facts) -> None:
    del facts.trespasses[1]
    del facts.witnesses[1]


def counter_moved(facts: Facts) -> None:
    facts.witnesses[0] = replace(facts.witnesses[0], changed={"faults": 1})


def bytes_changed(facts: Facts) -> None:
    facts.witnesses[0] = replace(facts.witnesses[0], intact=False)


def neighbour_broken(facts: Facts) -> None:
    facts.witnesses[1] = replace(facts.witnesses[1], works=False)


def nobody_watched(facts: Facts) -> None:
    facts.witnesses.clear()


def canary(facts: Facts) -> Canary:
    assert facts.canary is not None
    return facts.canary


def neighbour_found(facts: Facts) -> None:
    hunt = replace(canary(facts).neighbour, found=("hbm",))
    facts.canary = replace(canary(facts), neighbour=hunt)


def neighbour_searched_half(facts: Facts) -> None:
    searched = {"hbm": HBM // 2, "registers": 1, "memory": 1, "dma": 1}
    facts.canary = replace(canary(facts), neighbour=Hunt("blue", searched, ()))


def search_is_blind(facts: Facts) -> None:
    hunt = replace(canary(facts).control, found=())
    facts.canary = replace(canary(facts), control=hunt)


def planted_too_little(facts: Facts) -> None:
    facts.canary = replace(canary(facts), planted=("memory", "hbm"))


def heir_found(facts: Facts) -> None:
    hunt = replace(canary(facts).heir, found=("hbm at 0x0",))
    facts.canary = replace(canary(facts), heir=hunt)


def heir_elsewhere(facts: Facts) -> None:
    assert facts.heir is not None
    facts.heir = replace(facts.heir, hbm_base=HBM)


def no_heir(facts: Facts) -> None:
    facts.heir = None


def weights_ignored(facts: Facts) -> None:
    facts.shares = [share("red", 3, 0.5), share("blue", 1, 0.5)]


def broke_on_the_way(facts: Facts) -> None:
    facts.stopped = "DeviceTimeout: queue 0 completed nothing"


def nothing_measured(facts: Facts) -> None:
    facts.shares = []


@pytest.mark.parametrize(
    ("lie", "claims"),
    [
        (wrong_result, {"operations"}),
        (missing_operation, {"operations"}),
        (no_interrupts, {"operations"}),
        (driver_complaint, {"operations"}),
        (same_pasid, {"trespass"}),
        (not_refused, {"trespass"}),
        (refused_by_the_device_only, {"trespass"}),
        (other_address, {"trespass"}),
        (no_record, {"trespass"}),
        (bytes_moved, {"trespass"}),
        (neighbours_pasid_in_record, {"trespass"}),
        (second_record_of_a_stranger, {"trespass"}),
        (only_one_trespasses, {"trespass"}),
        (counter_moved, {"bystanders"}),
        (bytes_changed, {"bystanders"}),
        (neighbour_broken, {"bystanders"}),
        (nobody_watched, {"bystanders"}),
        (neighbour_found, {"canary"}),
        (neighbour_searched_half, {"canary"}),
        (search_is_blind, {"canary"}),
        (planted_too_little, {"canary"}),
        (heir_found, {"heir"}),
        (heir_elsewhere, {"heir"}),
        (no_heir, {"heir", "end"}),
        (broke_on_the_way, {"end"}),
        (weights_ignored, {"shares"}),
        (nothing_measured, {"shares"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_lie_is_noticed_by_its_claim_alone(lie: Callable[[Facts], None], claims: set[str]) -> None:
    facts = good()
    lie(facts)
    against = contradicted(facts)
    assert set(against) == claims
    assert all(against.values())
