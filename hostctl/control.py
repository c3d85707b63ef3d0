"""The emulator's control socket as functions with typed answers."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hostctl import accesses, faults, iommu
from hostctl.accesses import Accesses
from hostctl.coverage import Coverage, parse
from hostctl.errors import HostError
from hostctl.faults import FaultKind, Injection
from hostctl.iommu import Context, Fault, IommuCounters, PageRequest, Walk
from hostctl.qmp import Qmp
from hostctl.tables import Table
from hostctl.tracing import Event, Selection
from hostctl.tracing import events as tracing
from mdevemu.definitions import Attributes
from mdevemu.errors import ConfigError


def nonsense(where: str, wrong: str) -> HostError:
    return HostError(f"the emulator's reply makes no sense: {where} {wrong}")


_PARSERS: Mapping[str, Callable[[Table], Fault | PageRequest]] = {
    "IOMMU_FAULT": iommu.fault,
    "IOMMU_PAGE_REQUEST": iommu.page_request,
}


@dataclass(frozen=True, slots=True)
class Mdev:
    """An mdev as the emulator describes it.

    Attributes:
        attach: how it sits in the IOMMU: pasid or rid.
        pasid: None if its guest has PASIDs of its own.
        socket: path of its vfio-user socket.
        users: ids of those who may connect to it, besides the emulator's own and root.
        hbm_base: where its HBM begins, in bytes from the start of the accelerator's.
        hbm_size: bytes; 0 if its type has none.
        hbm_used, hbm_high_water: bytes that its driver has allocated; the most that ever were.
        hbm_scrubbing: bytes that it freed, and that are not scrubbed yet.
        hbm_imported: bytes of other mdevs that it reaches.
        attached: a VMM is connected.
    """

    uuid: str
    name: str
    type: str
    personality: str
    attach: str
    device_id: int
    pasid: int | None
    socket: str
    weight: int
    users: tuple[int, ...]
    hbm_base: int
    hbm_size: int
    hbm_used: int
    hbm_high_water: int
    hbm_scrubbing: int
    hbm_imported: int
    attached: bool

    @property
    def place(self) -> str:
        """What tells its accesses from those of others."""
        return f"device {self.device_id:#06x}" if self.pasid is None else f"PASID {self.pasid}"


@dataclass(frozen=True, slots=True)
class Counters:
    """What one mdev has done so far.

    Attributes:
        busy_ns: engine time, in nanoseconds.
        work: what that was worth, in the bytes that a plain copy would have moved.
    """

    completed: int
    failed: int
    bytes_read: int
    bytes_written: int
    interrupts: int
    doorbells: int
    faults: int
    busy_ns: int
    work: int


@dataclass(frozen=True, slots=True)
class Type:
    """An mdev type as the emulator describes it.

    Attributes:
        available: how many more mdevs of it there can be now.
        hbm: bytes.
    """

    id: str
    name: str
    description: str
    device_api: str
    personality: str
    available: int
    hbm: int
    weight: int
    queues: int


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The accelerator as the emulator describes it.

    Attributes:
        address: where it is on the PCI bus; what mdevctl calls the parent.
        root: the PCI root above it.
        definitions: the folder below which its definitions are; None if it has none.
    """

    name: str
    address: str
    root: str
    numa_node: int
    definitions: str | None


@dataclass(frozen=True, slots=True)
class Engine:
    """Something that executes commands.

    Attributes:
        operations: names of what it can do now.
        version: how often it was reprogrammed.
        running: commands that run on it.
        changing: the policy of a change that is not over; None if there is none.
        mdevs: names of those that have it.
    """

    name: str
    operations: tuple[str, ...]
    version: int
    running: int
    changing: str | None
    mdevs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that can be read, and maybe written, of an mdev."""

    name: str
    value: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Creation:
    """An mdev that a layout wants.

    Attributes:
        hbm: where its HBM begins, in bytes; None if it has none.
        again: the name of the one that it replaces; None for a new one.
    """

    type: str
    hbm: int | None
    again: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Names of mdevs that stay and that go for a layout, and those that are made then."""

    keep: tuple[str, ...]
    remove: tuple[str, ...]
    create: tuple[Creation, ...]

    @property
    def empty(self) -> bool:
        """There is nothing to do."""
        return not self.remove and not self.create


def _plan(reply: Table) -> Plan:
    return Plan(
        keep=reply.texts("keep"),
        remove=reply.texts("remove"),
        create=tuple(
            Creation(
                each.text("type"),
                None if each.raw("hbm") is None else each.whole("hbm", 0),
                None if each.raw("again") is None else each.text("again"),
            )
            for each in reply.tables("create")
        ),
    )


@dataclass(frozen=True, slots=True)
class Move:
    """A slice that would have to be elsewhere; ``source`` and ``target`` in bytes of the HBM."""

    name: str
    type: str
    source: int
    target: int
    attached: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What stands in the way of one more slice.

    Attributes:
        fits: it could be created now.
        hbm: where its HBM would begin, in bytes; None if it has none, or does not fit.
        lacking: what there is none left of.
        blocking: names of the mdevs that have some of it.
        fitting: how many mdevs of each type fit now, by type id; only those that do.
        moves: the fewest after which it fits; None if no moves do.
        exhausted: the search for moves was given up, so None says nothing.
    """

    type: str
    fits: bool
    hbm: int | None
    lacking: tuple[str, ...]
    blocking: tuple[str, ...]
    fitting: dict[str, int]
    moves: tuple[Move, ...] | None
    exhausted: bool


def _explanation(reply: Table) -> Explanation:
    place = reply.table("place") if reply.raw("place") is not None else None
    held = place is not None and place.raw("hbm") is not None
    moves = None
    if reply.raw("moves") is not None:
        moves = tuple(
            Move(
                each.text("name"),
                each.text("type"),
                each.whole("source", 0),
                each.whole("target", 0),
                each.truth("attached"),
            )
            for each in reply.tables("moves")
        )
    return Explanation(
        type=reply.text("type"),
        fits=place is not None,
        hbm=place.whole("hbm", 0) if place and held else None,
        lacking=reply.texts("lacking"),
        blocking=reply.texts("blocking"),
        fitting={each.text("type"): each.whole("count", 0) for each in reply.tables("fitting")},
        moves=moves,
        exhausted=reply.truth("exhausted"),
    )


def _mdev(reply: Table) -> Mdev:
    hbm = reply.table("hbm") if reply.raw("hbm") is not None else None
    return Mdev(
        uuid=reply.text("uuid"),
        name=reply.text("name"),
        type=reply.text("type"),
        personality=reply.text("personality"),
        attach=reply.text("attach"),
        device_id=reply.whole("device-id", 0),
        pasid=None if reply.raw("pasid") is None else reply.whole("pasid", 0),
        socket=reply.text("socket"),
        weight=reply.whole("weight", 1),
        users=reply.wholes("users"),
        hbm_base=hbm.whole("base", 0) if hbm else 0,
        hbm_size=hbm.whole("size", 0) if hbm else 0,
        hbm_used=hbm.whole("used", 0) if hbm else 0,
        hbm_high_water=hbm.whole("high-water", 0) if hbm else 0,
        hbm_scrubbing=hbm.whole("scrubbing", 0) if hbm else 0,
        hbm_imported=hbm.whole("imported", 0) if hbm else 0,
        attached=reply.truth("attached"),
    )


class Peer(Protocol):
    """Whoever carries out an emulator's commands."""

    def execute(self, command: str, **arguments: object) -> object:
        """See ``Qmp.execute``."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class Control:
    """The emulator's control socket.

    Every method raises ConfigError if the emulator refuses (nothing is changed then),
    and HostError if it does not answer.
    """

    def __init__(self, emulator: Path | str | Peer) -> None:
        """Connect to the socket at a path, or have commands carried out by somebody else.

        Raises:
            HostError: no emulator answers there.
        """
        if isinstance(emulator, str | Path):
            emulator = Qmp(emulator, "emulator")
        self._peer: Peer = emulator

    def close(self) -> None:
        """Hang up."""
        self._peer.close()

    @property
    def _qmp(self) -> Qmp:
        """Tells of events: in one's own process nothing happens by itself."""
        assert isinstance(self._peer, Qmp), "nobody tells of events"
        return self._peer

    def ask(self, command: str, **arguments: object) -> object:
        """The reply to a command as it is."""
        return self._peer.execute(command, **arguments)

    def _list(self, command: str, **arguments: object) -> list[Table]:
        return Table("emulator", {command: self.ask(command, **arguments)}, nonsense).tables(
            command
        )

    def _table(self, command: str, **arguments: object) -> Table:
        return Table(command, self.ask(command, **arguments), nonsense)

    def accelerator(self) -> Accelerator:
        """What the emulator serves."""
        reply = self._table("query-accelerator")
        return Accelerator(
            name=reply.text("name"),
            address=reply.text("address"),
            root=reply.text("root"),
            numa_node=reply.whole("numa-node", 0),
            definitions=None if reply.raw("definitions") is None else reply.text("definitions"),
        )

    def engines(self) -> list[Engine]:
        """What executes commands."""
        return [
            Engine(
                name=each.text("name"),
                operations=each.texts("operations"),
                version=each.whole("version", 0),
                running=each.whole("running", 0),
                changing=None if each.raw("changing") is None else each.text("changing"),
                mdevs=each.texts("mdevs"),
            )
            for each in self._list("query-engines")
        ]

    def reprogram(self, engine: str, operations: Sequence[str], policy: str) -> None:
        """Have an engine do these operations and no others, once it can be."""
        self.ask("reprogram-engine", engine=engine, operations=list(operations), policy=policy)

    def attributes(self, mdev: str) -> list[Attribute]:
        """What can be read of the mdev of that UUID or name."""
        return [
            Attribute(each.text("name"), str(each.raw("value")), each.truth("writable"))
            for each in self._list("query-attributes", uuid=mdev)
        ]

    def set_attribute(self, mdev: str, name: str, value: str) -> None:
        """Change an attribute of the mdev of that UUID or name."""
        self.ask("set-attribute", uuid=mdev, name=name, value=value)

    def set_attributes(self, mdev: str, wanted: Attributes) -> None:
        """Change attributes of an mdev in order; if one is refused, all are as before."""
        former = [each for each in self.attributes(mdev) if each.writable]
        try:
            for name, value in wanted:
                self.set_attribute(mdev, name, value)
        except ConfigError:
            for each in former:
                self.set_attribute(mdev, each.name, each.value)
            raise

    def mdevs(self) -> list[Mdev]:
        """Every mdev that exists."""
        return [_mdev(reply) for reply in self._list("query-mdevs")]

    def create(
        self,
        kind: str,
        *,
        name: str | None,
        uuid: str | None,
        weight: int | None,
        attributes: Mapping[str, str] | None = None,
    ) -> Mdev:
        """Create an mdev of the type with id ``kind``, with these attributes."""
        given = {"name": name, "uuid": uuid, "weight": weight, "attributes": attributes}
        return _mdev(self._table("create-mdev", type=kind, **given))

    def remove(self, mdev: str, *, force: bool = False) -> None:
        """Remove the mdev of that UUID or name; with ``force`` also under a VMM's hands."""
        self.ask("remove-mdev", uuid=mdev, force=force or None)

    def save(self, mdev: str, file: str) -> None:
        """Save the mdev of that UUID or name to a file, by its absolute path.

        Raises:
            HostError: it could not be; the mdev runs on, and what was in the file is there.
        """
        with self._qmp.listening("MDEV_SAVED", "MDEV_NOT_SAVED") as events:
            self.ask("save-mdev", mdev=mdev, file=file)
            for name, data in events:
                told = Table(name, data, nonsense)
                if told.text("file") == file and mdev in (told.text("uuid"), told.text("name")):
                    if name == "MDEV_NOT_SAVED":
                        raise HostError(f"mdev {mdev} was not saved: {told.text('reason')}")
                    return

    def restore(self, file: str) -> Mdev:
        """Create the mdev that was saved to a file, by its absolute path."""
        return _mdev(self._table("restore-mdev", file=file))

    def types(self) -> list[Type]:
        """What slices there can be."""
        return [
            Type(
                id=reply.text("id"),
                name=reply.text("name"),
                description=reply.text("description", "") if reply.raw("description") else "",
                device_api=reply.text("device-api"),
                personality=reply.text("personality"),
                available=reply.whole("available-instances", 0),
                hbm=reply.whole("hbm", 0),
                weight=reply.whole("weight", 1),
                queues=reply.whole("queues", 0),
            )
            for reply in self._list("query-types")
        ]

    def explain(self, kind: str) -> Explanation:
        """Whether another mdev of the type with id ``kind`` fits, and if not, why not."""
        return _explanation(self._table("explain-mdev", type=kind))

    def plan(self, layout: Mapping[str, int], *, force: bool) -> Plan:
        """What would be done to have so many mdevs of each type, by type id."""
        return _plan(self._table("plan-layout", layout=dict(layout), force=force or None))

    def apply(self, layout: Mapping[str, int], *, force: bool) -> Plan:
        """Have so many mdevs of each type, by type id; all of it, or nothing."""
        return _plan(self._table("apply-layout", layout=dict(layout), force=force or None))

    def walk(self, mdev: str, iova: int, pasid: int | None = None, *, write: bool = False) -> Walk:
        """How an Iova is translated for the mdev of that UUID or name; moves nothing.

        Without ``pasid``, as for an access of the device's own.
        """
        return iommu.walk(
            self._table("walk-iova", mdev=mdev, iova=iova, pasid=pasid, write=write or None)
        )

    def faults(self, since: int | None = None, mdev: str | None = None) -> list[Fault]:
        """Fault records after the one with sequence number ``since``, oldest first."""
        return [iommu.fault(each) for each in self._list("query-faults", since=since, mdev=mdev)]

    def page_requests(self, since: int | None = None, mdev: str | None = None) -> list[PageRequest]:
        """Page requests after the one with sequence number ``since``, oldest first."""
        replies = self._list("query-page-requests", since=since, mdev=mdev)
        return [iommu.page_request(each) for each in replies]

    def contexts(self, mdev: str | None = None) -> tuple[list[Context], bool]:
        """Device contexts with their process contexts; whether those are all."""
        reply = self._table("query-contexts", mdev=mdev)
        return [iommu.context(each) for each in reply.tables("contexts")], reply.truth("complete")

    @contextlib.contextmanager
    def events(
        self, chosen: Selection | None = None, seconds: float | None = None
    ) -> Iterator[Iterator[Event]]:
        """What happens from the moment that the block is entered, without end or for ``seconds``.

        The emulator goes on telling until this connection is closed.
        """
        wanted = dataclasses.asdict(chosen or Selection())
        with self._qmp.listening("TRACE", seconds=seconds) as batches:
            self.ask("trace-follow", **{name: text or None for name, text in wanted.items()})
            yield (
                tracing.event(each)
                for name, data in batches
                for each in Table(name, data, nonsense).tables("events")
            )

    def traced(self, since: int = -1, kind: str | None = None) -> list[Event]:
        """Events that the emulator has kept: after the one with this number, and of a kind."""
        return [tracing.event(each) for each in self._list("query-trace", since=since, kind=kind)]

    def iommu(self) -> IommuCounters:
        """The IOMMU as a whole."""
        return iommu.counters(self._table("query-iommu"))

    def accesses(self, mdev: str) -> Accesses:
        """What the driver of the mdev of that UUID or name did that its author should know."""
        return accesses.accesses(self._table("query-device-access", mdev=mdev))

    def inject(self, mdev: str, kind: str, **options: int | str | None) -> Injection:
        """Have a fault of a kind strike the mdev of that UUID or name."""
        return faults.injection(self._table("inject-fault", mdev=mdev, kind=kind, **options))

    def injections(self, mdev: str | None = None) -> list[Injection]:
        """Faults that were injected and not cleared, of one mdev or of all."""
        return [faults.injection(each) for each in self._list("query-injected-faults", mdev=mdev)]

    def clear_faults(self, mdev: str, number: int | None = None) -> list[int]:
        """Clear one fault of an mdev, or all of them; their numbers."""
        return list(self._table("clear-faults", mdev=mdev, id=number).wholes("cleared"))

    def fault_kinds(self) -> list[FaultKind]:
        """What can be injected."""
        return [faults.kind(each) for each in self._list("query-fault-kinds")]

    def collect_coverage(self, enable: bool) -> None:
        """Collect what drivers try, or not any more."""
        self.ask("coverage-set", enable=enable)

    def coverage(self) -> Coverage:
        """What drivers have tried while that was collected, by personality."""
        return parse("query-coverage", self.ask("query-coverage"), nonsense)

    @contextlib.contextmanager
    def following(self) -> Iterator[Iterator[Fault | PageRequest]]:
        """Faults and page requests from the moment that the block is entered, without end."""
        with self._qmp.listening(*_PARSERS) as events:
            yield (_PARSERS[name](Table(name, facts, nonsense)) for name, facts in events)

    def counters(self) -> dict[str, Counters]:
        """What each mdev has done, by its name; 0 for what its personality does not count."""
        return {
            reply.text("mdev"): Counters(
                completed=reply.whole("completed", 0, default=0),
                failed=reply.whole("failed", 0, default=0),
                bytes_read=reply.whole("bytes-read", 0, default=0),
                bytes_written=reply.whole("bytes-written", 0, default=0),
                interrupts=reply.whole("interrupts", 0, default=0),
                doorbells=reply.whole("doorbells", 0, default=0),
                faults=reply.whole("faults", 0, default=0),
                busy_ns=reply.whole("busy-ns", 0),
                work=reply.whole("work", 0),
            )
            for reply in self._list("query-counters")
        }
