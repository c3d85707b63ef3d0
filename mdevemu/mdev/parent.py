"""The accelerator as the parent of mdevs: makes them, takes them back, knows what fits."""

import contextlib
import dataclasses
import errno
import uuid as uuids
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from mdevemu.accel import Personality, Slice
from mdevemu.accel.engine import Engines, engine
from mdevemu.accel.hbm import Hbm, Partition
from mdevemu.accel.limits import MAX_RATE
from mdevemu.accel.scheduler import Flow, Scheduler
from mdevemu.errors import ConfigError, RequestError, shown, unknown
from mdevemu.iommu import Iommu, Port
from mdevemu.iommu.ats import Invalidation, PageResponse
from mdevemu.mdev.address_space import AddressSpace
from mdevemu.mdev.admissions import admissions
from mdevemu.mdev.attachment import OwnDevice
from mdevemu.mdev.function import MdevFunction
from mdevemu.mdev.guest_pasids import GuestPasids
from mdevemu.mdev.host_iommu import HostIommu
from mdevemu.mdev.migration import Migration
from mdevemu.mdev.mmu import Mmu
from mdevemu.mdev.sharing import Exchange, Party
from mdevemu.memory import PhysicalMemory
from mdevemu.personalities import registry
from mdevemu.profile import (
    MAX_WEIGHT,
    NAME_CHARACTERS,
    AcceleratorSpec,
    Explanation,
    Holding,
    MdevType,
    Occupancy,
    Place,
    explain,
    is_name,
    topology,
)
from mdevemu.trace import Trace
from mdevemu.units import Hpa

HBM_BASE = Hpa(1 << 40)
"""Where the HBM is in the host's physical memory."""


@dataclass(eq=False)
class Mdev:
    """A slice in being.

    Attributes:
        name: what the operator calls it; its UUID if he gave no name.
        place: what it has of everything that slices share.
        partition: its HBM, None if its type has none.
        flow: its place at the scheduler.
        users: ids of those who may connect to it, besides the accelerator's own and root.
        admit: lets these users and no others connect, or raises ConfigError.
    """

    uuid: str
    name: str
    type: MdevType
    place: Place
    partition: Partition | None
    space: AddressSpace
    port: Port
    flow: Flow
    personality: Personality[Any]
    function: MdevFunction
    sharing: Party
    users: frozenset[int] = frozenset()
    admit: Callable[[frozenset[int]], None] = lambda users: None


class Parent:
    """One accelerator."""

    def __init__(self, spec: AcceleratorSpec, trace: Trace, clock: Callable[[], int]) -> None:
        """``clock`` returns nanoseconds.

        Raises:
            ConfigError: a personality that is not ours cannot be used.
        """
        self._personalities = {
            each.personality: registry.find(each.personality) for each in spec.types
        }
        self.spec = spec
        self.trace = trace
        self.memory = PhysicalMemory()
        self.mdevs: dict[str, Mdev] = {}
        # The same by other keys: asked for at each access that faults, and at each creation.
        self._names: dict[str, Mdev] = {}
        self._requesters: dict[tuple[int, int | None], Mdev] = {}
        self._occupancy = Occupancy(spec)
        self.iommu = Iommu(self.memory, trace, fabric=self)
        self.host = HostIommu(self.iommu, self.memory)
        self.hbm = Hbm(self.memory, HBM_BASE, spec.hbm)
        self.engines = Engines(
            [engine(each.name, each.operations) for each in spec.engines],
            frozenset((link.source, link.target) for link in spec.links),
        )
        self.exchange = Exchange()
        self.scheduler = Scheduler(clock)
        self._admissions = admissions(spec)
        self.types = {each.id: each for each in spec.types}

    def occupancy(self, attached: Container[str] = ()) -> Occupancy:
        """What the slices hold, and so what fits; ``attached`` are UUIDs of those with a VMM."""
        return Occupancy(
            self.spec,
            [
                Holding(mdev.name, mdev.type, mdev.place, mdev.uuid in attached)
                for mdev in self.mdevs.values()
            ],
        )

    def available(self, kind: MdevType) -> int:
        """How many slices of a type could be created now."""
        return self._occupancy.available(kind)

    def topology(self) -> dict[str, object]:
        """What lies where, and what the engines can do now; see ``mdevemu.profile.topology``."""
        return topology(self.spec, {each.name: each.functions for each in self.engines.all})

    def explain(self, type_id: str, attached: Container[str] = ()) -> Explanation:
        """Whether and where another slice would fit, and if not, why not and what would.

        Raises:
            ConfigError: there is no such type.
        """
        return explain(self.occupancy(attached), self.type(type_id))

    def type(self, type_id: str) -> MdevType:
        """The type of that id.

        Raises:
            ConfigError: there is none.
        """
        if type_id not in self.types:
            raise ConfigError("type", unknown("type", type_id, self.types))
        return self.types[type_id]

    def step(self) -> bool:
        """Do one piece of work, and pass page requests on; False when there is no work."""
        busy = self.scheduler.step()
        if self.host.asked:
            self._pass_on()
        return busy or self.scheduler.busy

    def _pass_on(self) -> None:
        """Give each page request to the guest whose directory it failed in."""
        for page in self.host.read_page_requests():
            mdev = self._by_device(page.device_id)
            self.trace.emit(
                "iommu.page_request",
                mdev=mdev and mdev.name,
                device_id=page.device_id,
                pasid=page.pasid,
                iova=page.iova,
                read=page.read,
                write=page.write,
                group=page.group,
            )
            if mdev and page.pasid is not None:
                mdev.personality.page_wanted(page.pasid, page.iova, page.group, write=page.write)

    def owner(self, device_id: int, pasid: int | None) -> Mdev | None:
        """The mdev behind a requester."""
        own = self._by_device(device_id)
        return own or self._requesters.get((device_id, pasid))

    def _by_device(self, device_id: int) -> Mdev | None:
        """The mdev that has this device id to itself."""
        return self._requesters.get((device_id, None))

    # The IOMMU's messages to devices.

    def respond(self, message: PageResponse) -> None:
        """A page request group was answered."""
        if mdev := self._by_device(message.rid):
            mdev.personality.answered(message.index, message.code)

    def invalidate(self, message: Invalidation) -> bool:
        """Forget cached translations: our devices keep none, so that is done."""
        self.iommu.invalidated()
        return True

    # Slices.

    def find(self, who: str) -> Mdev:
        """The mdev with this UUID or name.

        Raises:
            ConfigError: there is none (ENOENT).
        """
        if found := self.mdevs.get(who) or self._names.get(who):
            return found
        names = (mdev.name for mdev in self.mdevs.values())
        raise ConfigError("mdev", unknown("mdev", who, names), errno.ENOENT)

    def create(
        self,
        type_id: str,
        *,
        uuid: str | None = None,
        name: str | None = None,
        place: Place | None = None,
    ) -> Mdev:
        """Make a slice; without a UUID it gets a random one.

        Its place is the lowest if no ``place`` is given, or if another has that.

        Raises:
            ConfigError: unknown type or bad argument (EINVAL), UUID or name taken (EEXIST),
                or no room for another slice of the type (EUSERS); nothing has changed.
        """
        kind = self.type(type_id)
        uuid = _uuid(uuid)
        if name is not None and not is_name(name):
            raise ConfigError("name", f"{shown(name)} (accepted: {NAME_CHARACTERS})")
        for what, wanted in (("uuid", uuid), ("name", name)):
            if wanted in self.mdevs or wanted in self._names:
                raise ConfigError(what, f"there is an mdev {wanted!r}", errno.EEXIST)
        now = self._occupancy
        place = now.place(kind, place)
        if place is None:
            raise ConfigError("type", _no_room(now, kind), errno.EUSERS)
        try:
            partition, space = self._take(kind, place)
        except RequestError as refused:
            raise ConfigError("type", f"{kind.id}: {refused.reason}", errno.EUSERS) from None
        flow = self.scheduler.flow(self._weight(kind, place))
        port = space.port()
        mmu = Mmu(space, partition)
        sharing = Party(self.exchange, mmu, port)
        given = Slice(
            name=name or uuid,
            port=port,
            hbm=partition,
            hbm_at=space.attached.hbm_at,
            mmu=mmu,
            sharing=sharing,
            queues=kind.queues,
            max_transfer=kind.max_transfer,
            engines=self._engines_of(kind, place),
            admissions=self._admissions[place.work_queue] if place.work_queue else (),
            flow=flow,
            trace=self.trace,
            pasids=self._guest_pasids(space, kind),
        )
        personality = self._personalities[kind.personality](given)
        identity = dataclasses.replace(personality.identity, serial=uuids.UUID(uuid).int >> 64)
        function = MdevFunction(personality, self.trace, given.name, identity, kind.interrupts)
        if personality.movable:
            function.migration = Migration(personality, function, kind, partition)
        personality.interrupt = function.interrupt
        mdev = Mdev(
            uuid,
            given.name,
            kind,
            place,
            partition,
            space,
            port,
            flow,
            personality,
            function,
            sharing,
        )
        self.mdevs[uuid] = self._names[mdev.name] = mdev
        self._requesters[space.device_id, space.pasid] = mdev
        self._occupancy.add(Holding(mdev.name, kind, place))
        self.trace.emit("mdev.created", mdev=mdev.name, uuid=uuid, type=kind.id, pasid=space.pasid)
        return mdev

    def remove(self, mdev: Mdev) -> None:
        """Take a slice back: its work ends, its PASID means nothing, its HBM is scrubbed."""
        del self.mdevs[mdev.uuid], self._names[mdev.name]
        del self._requesters[mdev.space.device_id, mdev.space.pasid]
        self._occupancy.remove(mdev.name)
        mdev.port.enabled = False
        mdev.personality.reset()
        mdev.function.disconnect()
        self.scheduler.drop(mdev.flow)
        mdev.sharing.reset()
        mdev.space.close()
        if mdev.partition:
            self.hbm.remove(mdev.partition)
        self.trace.emit("mdev.removed", mdev=mdev.name, uuid=mdev.uuid)

    def _take(self, kind: MdevType, place: Place) -> tuple[Partition | None, AddressSpace]:
        """HBM for a slice, and a place at the IOMMU that reaches it and nothing else.

        Raises:
            RequestError: the host or the machine has nothing left; nothing was taken.
        """
        with contextlib.ExitStack() as undo:
            partition = None if place.hbm is None else self.hbm.create(place.hbm, kind.hbm)
            if partition:
                undo.callback(self.hbm.remove, partition)
            if kind.pasid_bits is None:
                space = AddressSpace(self.host, self.spec.device_id)
            else:
                space = AddressSpace(self.host, self._free_device(), OwnDevice)
            undo.callback(space.close)
            if partition:
                space.map_hbm(partition.base, partition.size)
            undo.pop_all()
        return partition, space

    def _free_device(self) -> int:
        """The lowest device id that nobody has.

        Raises:
            RequestError: there is none.
        """
        for device_id in range(self.spec.device_id + 1, 1 << 16):
            if self._by_device(device_id) is None:
                return device_id
        raise RequestError(errno.ENOSPC, "no device id is left")

    def _guest_pasids(self, space: AddressSpace, kind: MdevType) -> GuestPasids | None:
        """What a slice with PASIDs of its guest can do at the IOMMU."""
        if kind.pasid_bits is None:
            return None
        assert isinstance(space.attached, OwnDevice)
        return GuestPasids(self.iommu, space.attached, kind.pasid_bits)

    def set_weight(self, mdev: Mdev, weight: int) -> None:
        """Change a slice's share of the engines from its next turn on.

        Raises:
            ConfigError: the weight is out of range.
        """
        if not 1 <= weight <= MAX_WEIGHT:
            raise ConfigError("weight", f"{weight} (accepted: 1 to {MAX_WEIGHT})")
        mdev.flow.weight = weight

    def set_limit(self, mdev: Mdev, limit: str, rate: int) -> None:
        """Change what a slice may do in a second: ``bandwidth`` or ``commands``; 0 for no limit.

        Raises:
            ConfigError: the rate is out of range.
        """
        if not 0 <= rate <= MAX_RATE:
            raise ConfigError(limit, f"{rate} (accepted: 0 for no limit, to {MAX_RATE})")
        limits = mdev.flow.limits
        {"bandwidth": limits.bandwidth, "commands": limits.commands}[limit].set(rate)
        mdev.flow.resume()

    def _weight(self, kind: MdevType, place: Place) -> int:
        """The share of the engines that a slice begins with."""
        if place.work_queue is None:
            return kind.weight
        return self.spec.work_queues[place.work_queue].priority

    def _engines_of(self, kind: MdevType, place: Place) -> Engines:
        """The engines that a slice's commands run on."""
        names = kind.engines
        if place.work_queue is not None:
            group = self.spec.work_queues[place.work_queue].group
            names = next(each.engines for each in self.spec.groups if each.name == group)
        if not names:
            return self.engines
        mine = [each for each in self.engines.all if each.name in names]
        return Engines(mine, self.engines.links)


def _no_room(now: Occupancy, kind: MdevType) -> str:
    """Why there cannot be another slice of a type, and what there can be."""
    rooms = {each.id: now.available(each) for each in now.spec.types}
    fits = ", ".join(f"{name} ({room})" for name, room in rooms.items() if room)
    return f"{kind.id}: {'; '.join(now.lacking(kind))} (fits now: {fits or 'no type'})"


def _uuid(given: str | None) -> str:
    """A UUID in its 36 characters, lower case.

    Raises:
        ConfigError: it is none.
    """
    if given is None:
        return str(uuids.uuid4())
    with contextlib.suppress(ValueError):
        if str(uuids.UUID(given)) == given.lower():
            return given.lower()
    raise ConfigError("uuid", f"{shown(given)} is not of the form {uuids.UUID(int=0)}")
