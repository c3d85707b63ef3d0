"""A table [[type]] of a profile: what one slice gets of the accelerator around it."""

from mdevemu.errors import shown
from mdevemu.pci.messages import MessageKind
from mdevemu.personalities import registry
from mdevemu.personalities.native.layout import MAX_QUEUES
from mdevemu.profile.spec import AcceleratorSpec
from mdevemu.profile.table import Table
from mdevemu.profile.types import MdevType

MAX_WEIGHT = 1000
MAX_INSTANCES = 4096
PASID_BITS = 8
INTERRUPTS = {"msix": MessageKind.MSIX, "msi": MessageKind.MSI}
ATTACH_MODES = {"pasid": "a PASID of the accelerator", "rid": "a device id of its own"}


def read_type(table: Table, spec: AcceleratorSpec) -> MdevType:
    """The type; ``spec`` is the accelerator without its types.

    Raises:
        ConfigError: the first thing in it that cannot be used.
    """
    hbm, starts = _memory(table, spec)
    compute = _compute(table, spec)
    work_queues, engines, weight = _work(table, spec, default_weight=max(1, compute))
    personality = table.choice("personality", dict.fromkeys(registry.names()), "native")
    found = MdevType(
        name=table.name("name"),
        description=table.text("description", ""),
        personality=personality,
        hbm=hbm,
        weight=weight,
        queues=table.number("queues", 1, MAX_QUEUES, default=min(4, spec.queues or 4)),
        instances=table.number("instances", 1, MAX_INSTANCES, default=MAX_INSTANCES),
        max_transfer=_max_transfer(table, personality),
        pasid_bits=_pasid_bits(table),
        interrupts=INTERRUPTS[table.choice("interrupts", INTERRUPTS, "msix")],
        compute=compute,
        starts=starts,
        engines=engines,
        work_queues=work_queues,
    )
    if found.attach == "rid" and found.personality != "native":
        raise table.wrong("attach", f"the {found.personality} has no PASIDs to give to its guest")
    if found.interrupts is MessageKind.MSI and found.personality == "ioat":
        raise table.wrong("interrupts", "the ioat tells its channels apart by MSI-X vectors")
    if work_queues and personality != "native":
        raise table.wrong("work-queues", f"the {personality} does not wait for places in a queue")
    if spec.queues is not None and found.queues > spec.queues:
        raise table.wrong("queues", f"{found.queues} of the {spec.queues} of the accelerator")
    return found


def _memory(table: Table, spec: AcceleratorSpec) -> tuple[int, tuple[int, ...]]:
    """Bytes of HBM, and where they may begin."""
    if not table.has("starts"):
        if table.has("shares"):
            raise table.wrong("shares", "is for types with 'starts'")
        hbm = table.size("hbm", default=0)
        if hbm > spec.hbm:
            raise table.wrong("hbm", f"{hbm} bytes of the {spec.hbm} that the accelerator has")
        return hbm, ()
    for key, wrong in (("hbm", True), ("shares", False)):
        if table.has(key) is wrong:
            what = "follows from 'shares' in types with 'starts'" if wrong else "is missing"
            raise table.wrong(key, what)
    shares = spec.memory_shares
    if not shares:
        raise table.wrong("starts", "the accelerator has no 'memory-shares'")
    size = table.number("shares", 1, shares)
    starts = sorted(table.numbers("starts", 0, shares - size))
    return size * spec.share_bytes, tuple(at * spec.share_bytes for at in starts)


def _compute(table: Table, spec: AcceleratorSpec) -> int:
    if not table.has("compute"):
        return 0
    if not spec.compute_shares:
        raise table.wrong("compute", "the accelerator has no 'compute-shares'")
    return table.number("compute", 1, spec.compute_shares)


def _work(
    table: Table, spec: AcceleratorSpec, default_weight: int
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Work queues, engines and weight; the first gives the other two."""
    if not table.has("work-queues"):
        engines: tuple[str, ...] = ()
        if table.has("engines"):
            engines = table.choices("engines", {each.name: each for each in spec.engines})
        return (), engines, table.number("weight", 1, MAX_WEIGHT, default=default_weight)
    for key in ("engines", "weight"):
        if table.has(key):
            raise table.wrong(key, "follows from the queue in types with 'work-queues'")
    names = table.choices("work-queues", spec.work_queues)
    if len({spec.work_queues[name].dedicated for name in names}) > 1:
        raise table.wrong("work-queues", f"{shown(list(names))} are not all of one mode")
    return names, (), spec.work_queues[names[0]].priority


def _pasid_bits(table: Table) -> int | None:
    """Width of a guest's PASIDs, in types that attach by a device id of their own."""
    bits = table.number("pasid-bits", 1, 20, default=PASID_BITS)
    if table.choice("attach", ATTACH_MODES, "pasid") == "rid":
        return bits
    if table.has("pasid-bits"):
        raise table.wrong("pasid-bits", "is for types with attach = 'rid'")
    return None


def _max_transfer(table: Table, personality: str) -> int | None:
    """The most bytes that a command moves, where that is to be chosen."""
    if not table.has("max-transfer"):
        return None
    if sizes := registry.find(personality).max_transfers:
        return table.power("max-transfer", sizes)
    raise table.wrong("max-transfer", f"is not to be chosen for the {personality}")
