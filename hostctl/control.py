"""The emulator's control socket as functions with typed answers."""

from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostError
from hostctl.qmp import Qmp
from hostctl.tables import Table


def nonsense(where: str, wrong: str) -> HostError:
    return HostError(f"the emulator's reply makes no sense: {where} {wrong}")


@dataclass(frozen=True, slots=True)
class Mdev:
    """An mdev as the emulator describes it.

    Attributes:
        socket: path of its vfio-user socket.
        hbm_base: where its HBM begins, in bytes from the start of the accelerator's.
        hbm_size: bytes; 0 if its type has none.
        attached: a VMM is connected.
    """

    uuid: str
    name: str
    type: str
    personality: str
    device_id: int
    pasid: int
    socket: str
    weight: int
    hbm_base: int
    hbm_size: int
    attached: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """A record of the IOMMU's fault queue.

    Attributes:
        sequence: counts all of them, from 1.
        pasid: None if the access carried none.
        mdev: name of the mdev that the requester belongs to; empty if there is none.
    """

    sequence: int
    mdev: str
    device_id: int
    pasid: int | None
    cause: int
    cause_name: str
    kind: str
    iova: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What one mdev has done so far.

    Attributes:
        busy_ns: engine time, in nanoseconds.
    """

    completed: int
    failed: int
    bytes_read: int
    bytes_written: int
    interrupts: int
    doorbells: int
    faults: int
    busy_ns: int


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
    personality: str
    available: int
    hbm: int
    weight: int
    queues: int


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One table entry that a translation went through.

    Attributes:
        table: which table: DDT, DC, PDT, PC, first or second.
        level: of the table; 0 is the last.
        address: Hpa of the entry.
        raw: the entry; of a context its first doubleword.
        flags: its bits by name.
        leaf: the translation ends with it.
    """

    table: str
    level: int
    index: int
    address: int
    raw: int
    flags: tuple[str, ...]
    leaf: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """How an Iova is translated.

    Attributes:
        hpa: where it leads; None if it faults, and then ``cause`` says why.
        size: bytes of the page.
    """

    mdev: str
    device_id: int
    pasid: int
    iova: int
    steps: tuple[WalkStep, ...]
    hpa: int | None
    size: int
    cause: int | None
    cause_name: str


def _step(reply: Table) -> WalkStep:
    return WalkStep(
        table=reply.text("table"),
        level=reply.whole("level", 0),
        index=reply.whole("index", 0),
        address=reply.whole("address", 0),
        raw=reply.whole("raw", 0),
        flags=reply.texts("flags"),
        leaf=reply.truth("leaf"),
    )


def _mdev(reply: Table) -> Mdev:
    hbm = reply.table("hbm") if reply.raw("hbm") is not None else None
    return Mdev(
        uuid=reply.text("uuid"),
        name=reply.text("name"),
        type=reply.text("type"),
        personality=reply.text("personality"),
        device_id=reply.whole("device-id", 0),
        pasid=reply.whole("pasid", 0),
        socket=reply.text("socket"),
        weight=reply.whole("weight", 1),
        hbm_base=hbm.whole("base", 0) if hbm else 0,
        hbm_size=hbm.whole("size", 0) if hbm else 0,
        attached=reply.truth("attached"),
    )


class Control:
    """The emulator's control socket.

    Every method raises ConfigError if the emulator refuses (nothing is changed then),
    and HostError if it does not answer.
    """

    def __init__(self, path: Path | str) -> None:
        """Connect to the socket at ``path``.

        Raises:
            HostError: no emulator answers there.
        """
        self._qmp = Qmp(path, "emulator")

    def close(self) -> None:
        """Hang up."""
        self._qmp.close()

    def ask(self, command: str, **arguments: object) -> object:
        """The reply to a command as it is."""
        return self._qmp.execute(command, **arguments)

    def _list(self, command: str, **arguments: object) -> list[Table]:
        return Table("emulator", {command: self.ask(command, **arguments)}, nonsense).tables(
            command
        )

    def _table(self, command: str, **arguments: object) -> Table:
        return Table(command, self.ask(command, **arguments), nonsense)

    def mdevs(self) -> list[Mdev]:
        """Every mdev that exists."""
        return [_mdev(reply) for reply in self._list("query-mdevs")]

    def create(self, kind: str, *, name: str | None, uuid: str | None, weight: int | None) -> Mdev:
        """Create an mdev of the type with id ``kind``."""
        return _mdev(self._table("create-mdev", type=kind, name=name, uuid=uuid, weight=weight))

    def remove(self, mdev: str, *, force: bool = False) -> None:
        """Remove the mdev of that UUID or name; with ``force`` also under a VMM's hands."""
        self.ask("remove-mdev", uuid=mdev, force=force or None)

    def types(self) -> list[Type]:
        """What slices there can be."""
        return [
            Type(
                id=reply.text("id"),
                name=reply.text("name"),
                description=reply.text("description", "") if reply.raw("description") else "",
                personality=reply.text("personality"),
                available=reply.whole("available-instances", 0),
                hbm=reply.whole("hbm", 0),
                weight=reply.whole("weight", 1),
                queues=reply.whole("queues", 0),
            )
            for reply in self._list("query-types")
        ]

    def walk(self, mdev: str, iova: int) -> Walk:
        """How an Iova is translated for the mdev of that UUID or name; moves nothing."""
        reply = self._table("walk-iova", mdev=mdev, iova=iova)
        hpa, cause = reply.raw("hpa"), reply.raw("cause")
        return Walk(
            mdev=reply.text("mdev"),
            device_id=reply.whole("device-id", 0),
            pasid=reply.whole("pasid", 0),
            iova=reply.whole("iova", 0),
            steps=tuple(_step(step) for step in reply.tables("steps")),
            hpa=None if hpa is None else reply.whole("hpa", 0),
            size=reply.whole("size", 0) if reply.raw("size") is not None else 0,
            cause=None if cause is None else reply.whole("cause", 0),
            cause_name=str(reply.raw("cause-name") or ""),
        )

    def faults(self, since: int | None = None, mdev: str | None = None) -> list[Fault]:
        """Fault records after the one with sequence number ``since``, oldest first."""
        return [
            Fault(
                sequence=reply.whole("sequence", 0),
                mdev=reply.text("mdev", "") if reply.raw("mdev") is not None else "",
                device_id=reply.whole("device-id", 0),
                pasid=None if reply.raw("pasid") is None else reply.whole("pasid", 0),
                cause=reply.whole("cause", 0),
                cause_name=reply.text("cause-name"),
                kind=reply.text("ttyp-name"),
                iova=reply.whole("iova", 0),
            )
            for reply in self._list("query-faults", since=since, mdev=mdev)
        ]

    def counters(self) -> dict[str, Counters]:
        """What each mdev has done, by its name."""
        return {
            reply.text("mdev"): Counters(
                completed=reply.whole("completed", 0),
                failed=reply.whole("failed", 0),
                bytes_read=reply.whole("bytes-read", 0),
                bytes_written=reply.whole("bytes-written", 0),
                interrupts=reply.whole("interrupts", 0),
                doorbells=reply.whole("doorbells", 0),
                faults=reply.whole("faults", 0),
                busy_ns=reply.whole("busy-ns", 0),
            )
            for reply in self._list("query-counters")
        }
