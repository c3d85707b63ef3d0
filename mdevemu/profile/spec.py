"""A whole accelerator, as its profile describes it."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from mdevemu.profile.types import MdevType


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: its name and the names of the operations it does."""

    name: str
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StackSpec:
    """One HBM stack; the stacks lie one behind the other.

    Attributes:
        base, size: bytes, the base from the start of all HBM.
        engines: names of those that share it.
    """

    name: str
    base: int
    size: int
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """Data can pass from one engine to another without leaving the device."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """Engines that can work one after the other, each linked to the next."""

    name: str
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Engines that serve the same work queues; an engine is in one group at most.

    Attributes:
        read_buffers: how many commands of all its work queues may be under way; None for any.
        reserved: how many of the accelerator's read buffers no other group gets.
        limited: the accelerator's read buffer limit is for it, too.
    """

    name: str
    engines: tuple[str, ...]
    read_buffers: int | None = None
    reserved: int = 0
    limited: bool = False


@dataclass(frozen=True, slots=True)
class WorkQueueSpec:
    """A work queue.  Spec: Linux, Documentation/ABI/stable/sysfs-driver-dma-idxd.

    Attributes:
        dedicated: only one slice has it at a time.
        size: entries.
        threshold: entries that unprivileged submitters of a shared queue may fill; None for
            a dedicated one.
        priority: 1 to 15; the weight of a slice that has it.
        label: the operator's own name for it.
    """

    name: str
    group: str
    dedicated: bool
    size: int
    threshold: int | None
    priority: int
    label: str = ""

    @property
    def places(self) -> int:
        """How many of its commands may be under way."""
        return self.size if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorSpec:
    """A whole accelerator.

    Attributes:
        description: the operator's own words.
        address: where it is on the PCI bus, as ``0000:01:00.0``; what mdevctl calls the parent.
        root: the PCI root above it, as ``pci0000:00``.
        numa_node: the memory it is next to.
        queues: how many queues all slices together may have; None for any number.
        pasids: how many slices may have a PASID of the host's; None for any number.
        compute_shares, memory_shares: how many parts types may take; 0 for none.
        queue_entries: how many entries all work queues together may have.
        read_buffers: how many commands of all groups may be under way; None for any number.
        read_buffer_limit: the same, of those groups that are limited.
        coverage: what drivers try of it is collected from the start.
    """

    name: str
    description: str
    address: str
    root: str
    numa_node: int
    stacks: tuple[StackSpec, ...]
    engines: tuple[EngineSpec, ...]
    links: tuple[LinkSpec, ...]
    chains: tuple[ChainSpec, ...]
    groups: tuple[GroupSpec, ...]
    work_queues: Mapping[str, WorkQueueSpec]
    types: tuple[MdevType, ...]
    queues: int | None
    pasids: int | None
    compute_shares: int
    memory_shares: int
    queue_entries: int
    read_buffers: int | None
    read_buffer_limit: int | None
    coverage: bool

    @property
    def hbm(self) -> int:
        """All HBM, in bytes."""
        return sum(stack.size for stack in self.stacks)

    @property
    def device_id(self) -> int:
        """Its requester id on the bus: bus, device, function.  Spec: PCIe 5.0 §2.2.4.2."""
        _, bus, rest = self.address.split(":")
        device, function = rest.split(".")
        return int(bus, 16) << 8 | int(device, 16) << 3 | int(function)

    @property
    def share_bytes(self) -> int:
        """One memory share, in bytes."""
        return self.hbm // self.memory_shares

    def linked(self, engines: tuple[str, ...]) -> bool:
        """Data can pass through these engines, in this order."""
        return all(LinkSpec(*pair) in self.links for pair in itertools.pairwise(engines))
