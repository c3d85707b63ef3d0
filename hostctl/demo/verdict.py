"""From facts to a verdict: nothing is run here, and nothing is forgiven."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hostctl.demo.facts import PLACES, Facts, Hunt, Share, Tenant, Trespass, Witness

OPERATIONS = (
    "nop",
    "copy",
    "fill",
    "compare",
    "crc32c",
    "sha256",
    "deflate",
    "inflate",
    "aes-gcm-encrypt",
    "aes-gcm-decrypt",
)
SHARE_TOLERANCE = 0.08
_REFUSED = {"read": "read-fault", "write": "write-fault"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """One claim of the demo.

    Attributes:
        claim: what is claimed, in a sentence.
        held: whether the facts bear it out.
        why: the numbers behind it, or every fact that contradicts it.
    """

    name: str
    claim: str
    held: bool
    why: str


def _operations(facts: Facts) -> Iterator[str]:
    if len(facts.tenants) < 2:
        yield f"only {len(facts.tenants)} tenants"
    for tenant in facts.tenants:
        yield from _tenant(tenant)


def _tenant(tenant: Tenant) -> Iterator[str]:
    for name in OPERATIONS:
        runs = tenant.operations.get(name)
        if runs is None or runs.runs == 0:
            yield f"{tenant.name}: {name} did not run"
        elif runs.equal != runs.runs:
            yield f"{tenant.name}: {name} was right {runs.equal} times of {runs.runs}"
    if tenant.interrupts == 0:
        yield f"{tenant.name}: no interrupt arrived"
    yield from (f"{tenant.name}: {error}" for error in tenant.errors)


def _named(facts: Facts) -> Iterator[str]:
    names = {(tenant.device_id, tenant.pasid) for tenant in facts.tenants}
    if len(names) != len(facts.tenants):
        yield "two tenants have the same PASID"
    if facts.heir is not None and any(facts.heir.pasid == t.pasid for t in facts.tenants[1:]):
        yield f"{facts.heir.name} has the PASID of a tenant that lives"
    if not facts.trespasses:
        yield "nobody trespassed"
    tenants = {tenant.name for tenant in facts.tenants}
    for name in sorted(tenants - {trespass.by for trespass in facts.trespasses}):
        yield f"{name} did not trespass"
    for trespass in facts.trespasses:
        yield from _trespass(trespass)


def _trespass(trespass: Trespass) -> Iterator[str]:
    what = f"{trespass.by}: {trespass.operation} of {trespass.target} at {trespass.iova:#x}"
    if trespass.status != _REFUSED[trespass.operation]:
        yield f"{what} ended with {trespass.status}"
    elif trespass.cause == 0:
        yield f"{what} was refused, but not by the IOMMU"
    elif trespass.address != trespass.iova:
        yield f"{what} was refused at {trespass.address:#x}"
    if trespass.moved:
        yield f"{what} moved bytes"
    own = (trespass.device_id, trespass.pasid)
    if not any(
        (record.device_id, record.pasid, record.iova) == (*own, trespass.iova)
        and record.cause == trespass.cause
        for record in trespass.records
    ):
        yield f"{what} left no fault record with PASID {trespass.pasid}"
    for record in trespass.records:
        if (record.device_id, record.pasid) != own:
            yield f"{what} left a fault record with PASID {record.pasid}, not {trespass.pasid}"
        if record.mdev != trespass.by:
            yield f"{what} left a fault record that names {record.mdev or 'nobody'}"


def _undisturbed(facts: Facts) -> Iterator[str]:
    if not facts.witnesses:
        yield "nobody watched"
    trespassers = {trespass.by for trespass in facts.trespasses}
    for by in sorted(trespassers - {witness.of for witness in facts.witnesses}):
        yield f"nobody watched while {by} trespassed"
    for witness in facts.witnesses:
        yield from _witness(witness)


def _witness(witness: Witness) -> Iterator[str]:
    for counter, by in witness.changed.items():
        yield f"{witness.name}: {counter} moved by {by} while {witness.of} trespassed"
    if not witness.intact:
        yield f"{witness.name}: bytes that {witness.of} aimed at are not what they were"
    if not witness.works:
        yield f"{witness.name}: the device copied wrong after {witness.of} trespassed"


def _hunt(hunt: Hunt, hbm: int) -> Iterator[str]:
    """``hbm`` is how many bytes of HBM the hunter has."""
    for place in hunt.found:
        yield f"{hunt.by} found it in {place}"
    if hunt.searched.get("hbm", 0) < hbm:
        yield f"{hunt.by} searched {hunt.searched.get('hbm', 0)} of {hbm} bytes of its HBM"
    for place in ("registers", "memory", "dma"):
        if not hunt.searched.get(place):
            yield f"{hunt.by} did not search {place}"


def _neighbour(facts: Facts) -> Iterator[str]:
    canary = facts.canary
    if canary is None:
        yield "no canary was planted"
        return
    for place in PLACES:
        if not any(planted.startswith(place) for planted in canary.planted):
            yield f"{canary.owner} planted nothing in {place}"
    # A search that finds nothing proves something only if it finds what is there.
    for place in ("memory", "hbm"):
        if not any(found.startswith(place) for found in canary.control.found):
            yield f"the search does not work: {canary.owner} did not find its own in {place}"
    sizes = {tenant.name: tenant.hbm_size for tenant in facts.tenants}
    if canary.neighbour.by == canary.owner:
        yield "the neighbour did not search"
    yield from _hunt(canary.neighbour, sizes.get(canary.neighbour.by, 0))


def _heir(facts: Facts) -> Iterator[str]:
    heir, canary = facts.heir, facts.canary
    if heir is None or canary is None:
        yield "no third mdev was created"
        return
    if heir.after != canary.owner or canary.heir.by != heir.name:
        yield f"{heir.name} did not come after {canary.owner}"
    if (heir.hbm_base, heir.hbm_size) != (heir.former_base, heir.former_size):
        yield (
            f"{heir.name} has HBM at {heir.hbm_base:#x}, not where {heir.after}'s was "
            f"({heir.former_base:#x}): nothing is shown"
        )
    yield from _hunt(canary.heir, heir.hbm_size)


def _shares(facts: Facts) -> Iterator[str]:
    if len(facts.shares) < 2:
        yield "nothing was measured"
    for share in facts.shares:
        if share.commands == 0:
            yield f"{share.name} got nothing done"
        elif abs(share.measured - share.entitled) > SHARE_TOLERANCE:
            yield (
                f"{share.name} got {share.measured:.1%} and is entitled to {share.entitled:.1%} "
                f"(accepted: within {SHARE_TOLERANCE:.0%})"
            )


def _end(facts: Facts) -> Iterator[str]:
    if facts.stopped:
        yield facts.stopped
    elif facts.heir is None:
        yield "the demo did not come to its end"


def _share_numbers(shares: list[Share]) -> str:
    return ", ".join(f"{s.name} {s.measured:.1%} of {s.entitled:.0%}" for s in shares)


def _numbers(facts: Facts) -> dict[str, str]:
    """What to say about each claim that held."""
    runs = sum(o.runs for t in facts.tenants for o in t.operations.values())
    interrupts = sum(tenant.interrupts for tenant in facts.tenants)
    canary = facts.canary
    places = ", ".join(canary.planted) if canary else ""
    hbm = canary.heir.searched.get("hbm", 0) if canary else 0
    return {
        "operations": f"{runs} results equal to the CPU's, {interrupts} interrupts",
        "trespass": f"{len(facts.trespasses)} refused, each with its own PASID",
        "bystanders": f"{len(facts.witnesses)} watched: no counter moved, no byte changed",
        "canary": f"planted in {places}; found nowhere",
        "heir": f"{hbm} bytes of HBM searched, nothing found",
        "shares": _share_numbers(facts.shares),
        "end": f"{len(facts.steps)} phases",
    }


_CLAIMS: tuple[tuple[str, str, Callable[[Facts], Iterator[str]]], ...] = (
    ("operations", "every operation gives each tenant the CPU's own result", _operations),
    ("trespass", "a DMA out of bounds faults, with the right name on it", _named),
    ("bystanders", "nobody else notices", _undisturbed),
    ("canary", "what one tenant leaves behind, its neighbour cannot find", _neighbour),
    ("heir", "nor can whoever gets its HBM afterwards", _heir),
    ("shares", "the engines are shared as the weights say", _shares),
    ("end", "no device and no driver broke on the way", _end),
)


def judge(facts: Facts) -> list[Judgement]:
    """Every claim, with what speaks for it or against it."""
    numbers = _numbers(facts)
    judgements = []
    for name, claim, contradictions in _CLAIMS:
        against = list(contradictions(facts))
        why = "; ".join(against) if against else numbers[name]
        judgements.append(Judgement(name, claim, not against, why))
    return judgements
