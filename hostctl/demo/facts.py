"""What the demo saw, and nothing about what it means."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostctl.iommu import Fault
from hostctl.steps import Step

PLACES = ("memory", "hbm", "queues", "registers")
"""Where a canary is planted."""


@dataclass(frozen=True, slots=True)
class OperationRuns:
    """One operation of the device, run and compared with the CPU's own computation.

    Attributes:
        runs: how often it ran.
        equal: how often the result was the CPU's.
        bytes: bytes that it worked on.
    """

    runs: int
    equal: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody who has a slice, and what the device did for it.

    Attributes:
        place: where its driver runs, in words.
        operations: by name.
        interrupts: how many arrived.
        errors: what its driver complained about.
    """

    name: str
    place: str
    pasid: int | None
    device_id: int
    weight: int
    hbm_base: int
    hbm_size: int
    operations: Mapping[str, OperationRuns]
    interrupts: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trespass:
    """One command whose address its tenant must not reach.

    Attributes:
        by: the tenant.
        target: whose address it is, in words.
        operation: "read" or "write", as the device does it.
        status: the completion's status, by name.
        cause: the IOMMU's cause in the completion; 0 if it has none.
        address: the faulting address in the completion.
        moved: bytes arrived although the command was refused, or because it was not.
        records: fault records that appeared meanwhile, whoever they are about.
    """

    by: str
    pasid: int | None
    device_id: int
    target: str
    iova: int
    operation: str
    status: str
    cause: int
    address: int
    moved: bool
    records: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Witness:
    """A tenant that sat still while another one trespassed.

    Attributes:
        of: who trespassed.
        changed: its counters that moved, by name, and by how much.
        intact: the bytes at the addresses that were aimed at are what they were.
        works: the device copied right for it afterwards.
    """

    name: str
    of: str
    changed: Mapping[str, int]
    intact: bool
    works: bool


@dataclass(frozen=True, slots=True)
class Hunt:
    """A search for somebody's canary.

    Attributes:
        by: who searched.
        searched: bytes looked through, by place; "dma" counts addresses that were tried.
        found: where it was found.
    """

    by: str
    searched: Mapping[str, int]
    found: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Canary:
    """Bytes that one tenant leaves everywhere, and who found them.

    Attributes:
        owner: who planted it.
        planted: where.
        control: the owner's own search, which must find it: it shows that the search works.
        neighbour: the search by the other tenant at the same time.
        heir: the search by whoever got the owner's HBM afterwards.
    """

    owner: str
    planted: tuple[str, ...]
    control: Hunt
    neighbour: Hunt
    heir: Hunt


@dataclass(frozen=True, slots=True)
class Heir:
    """An mdev created after another one was removed.

    Attributes:
        after: who had the HBM before.
        hbm_base, hbm_size: its own HBM, in bytes from the accelerator's start.
        former_base, former_size: what the other one had.
    """

    name: str
    after: str
    pasid: int | None
    hbm_base: int
    hbm_size: int
    former_base: int
    former_size: int


@dataclass(frozen=True, slots=True)
class Share:
    """One tenant's part of the work while everybody was busy.

    Attributes:
        entitled: its weight's part of all weights, 0 to 1.
        measured: its part of the bytes that the engines moved, 0 to 1.
        seconds: how long was measured.
    """

    name: str
    weight: int
    entitled: float
    measured: float
    commands: int
    bytes: int
    busy_ns: int
    seconds: float


@dataclass(slots=True)
class Facts:
    """All of it.

    Attributes:
        variant: "vm" or "no-vm".
        accelerator: how QEMU ran the guests: "kvm" or "tcg"; empty without VMs.
        steps: phases, with their times.
        stopped: why the demo could not go on; empty if it came to its end.
    """

    variant: str
    accelerator: str
    seed: int
    tenants: list[Tenant] = field(default_factory=list)
    trespasses: list[Trespass] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    canary: Canary | None = None
    heir: Heir | None = None
    steps: list[Step] = field(default_factory=list)
    stopped: str = ""
