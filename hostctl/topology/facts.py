"""Topologies as the emulator tells them, or as profiles do."""

from dataclasses import dataclass
from pathlib import Path

from hostctl.control import Control, nonsense
from hostctl.tables import Table
from mdevemu.profile import load, topology


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine, and the names of the operations that it does now."""

    name: str
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """An HBM stack and the names of the engines that share it; base and size in bytes."""

    name: str
    base: int
    size: int
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """Engines that the profile names as a chain."""

    name: str
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Engines and the work queues that they serve."""

    name: str
    engines: tuple[str, ...]
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A type: which engines a slice of it has, one choice for each group it may be in."""

    id: str
    engines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A slice in being, and its HBM: bytes from the start of the accelerator's."""

    name: str
    type: str
    base: int
    size: int


@dataclass(frozen=True, slots=True)
class Topology:
    """One accelerator; ``links`` are (from, to) names of engines."""

    name: str
    address: str
    root: str
    node: int
    engines: tuple[Engine, ...]
    stacks: tuple[Stack, ...]
    links: frozenset[tuple[str, str]]
    chains: tuple[Chain, ...]
    groups: tuple[Group, ...]
    types: tuple[Kind, ...]
    mdevs: tuple[Held, ...] = ()

    def types_with(self, engines: tuple[str, ...]) -> tuple[str, ...]:
        """Types of which a slice has all these engines."""
        return tuple(
            kind.id for kind in self.types if any({*engines} <= {*each} for each in kind.engines)
        )


def _parse(told: Table, mdevs: tuple[Held, ...] = ()) -> Topology:
    return Topology(
        name=told.text("name"),
        address=told.text("address"),
        root=told.text("root"),
        node=told.whole("numa-node", 0),
        engines=tuple(
            Engine(each.text("name"), each.texts("operations")) for each in told.tables("engines")
        ),
        stacks=tuple(
            Stack(
                each.text("name"),
                each.whole("base", 0),
                each.whole("size", 0),
                each.texts("engines"),
            )
            for each in told.tables("stacks")
        ),
        links=frozenset((each.text("from"), each.text("to")) for each in told.tables("links")),
        chains=tuple(
            Chain(each.text("name"), each.texts("engines")) for each in told.tables("chains")
        ),
        groups=tuple(
            Group(each.text("name"), each.texts("engines"), each.texts("queues"))
            for each in told.tables("groups")
        ),
        types=tuple(Kind(each.text("id"), each.lists("engines")) for each in told.tables("types")),
        mdevs=mdevs,
    )


def read_topology(emulator: Control) -> Topology:
    """The accelerator of an emulator, with its mdevs."""
    mdevs = tuple(Held(m.name, m.type, m.hbm_base, m.hbm_size) for m in emulator.mdevs())
    return _parse(Table("query-topology", emulator.ask("query-topology"), nonsense), mdevs)


def described(profile: Path) -> Topology:
    """The accelerator that a profile describes.

    Raises:
        ConfigError: the profile cannot be used.
    """
    return _parse(Table(str(profile), topology(load(profile))))
