"""The base of every device personality.

A personality is one file with four parts, in this order:

1. words      what the bits mean            (``Word``)
2. registers  where the words live          (``RegisterMap``)
3. commands   what it reads from memory     (``Struct``)
4. behaviour  what happens                  (``Personality``)
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from mdevemu.accel.accesses import Accesses
from mdevemu.accel.admission import Admission
from mdevemu.accel.engine import Engines
from mdevemu.accel.hbm import HbmUse, Partition
from mdevemu.accel.rest import Rest
from mdevemu.accel.saving import Saved
from mdevemu.accel.scheduler import Flow, Lane
from mdevemu.accel.sharing import Mmu, Sharing
from mdevemu.errors import CommandFault, GuestFault
from mdevemu.iommu.port import Port
from mdevemu.layout import Struct, Word
from mdevemu.pci.config import Bar, Doorbell, Identity
from mdevemu.pci.watchdog import Reading
from mdevemu.registers import Bank, RegisterMap, Slot, declared, size_of
from mdevemu.trace import Trace
from mdevemu.units import PAGE

M = TypeVar("M", bound=RegisterMap)

Codes = type[enum.IntEnum] | type[enum.IntFlag]

COMMAND_BEGIN, COMMAND_END = "command.begin", "command.end"
"""Events that are made only if the trace wants them."""


class Pasids(Protocol):
    """What a slice with PASIDs of its guest can do at the IOMMU.

    Attributes:
        bits: width of a PASID that the guest may use.
    """

    bits: int

    def set_directory(self, mode: int, base: int) -> None:
        """Use the guest's process directory at guest-physical ``base``; mode 0 is none."""

    def invalidate_process(self, pasid: int) -> None:
        """The guest changed the process context of a PASID."""

    def invalidate_pages(self, pscid: int | None, address: int | None) -> None:
        """The guest changed first-stage entries: of a soft context or all, a page or any."""

    def ask(self, pasid: int, iova: int, group: int, *, write: bool) -> None:
        """Request a page; what becomes of it comes back by ``answered``, maybe at once."""

    def respond(self, pasid: int, group: int, code: int) -> None:
        """The guest answers a page request group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What an mdev was given of its accelerator.

    Attributes:
        name: for the trace.
        port: the only way to memory, HBM included.
        hbm: its part of the HBM, None if its type has none.
        hbm_at: the address of it, by ``port``.
        mmu: what it can reach of it by other addresses.
        sharing: what it can share of it with other slices.
        queues: how many queues it may use.
        max_transfer: bytes that a command moves at most; None leaves it to the personality.
        engines: who executes its commands.
        flow: its place at the scheduler.
        admissions: where each of its commands needs a place while it is under way.
        pasids: None unless the guest has PASIDs of its own.
    """

    name: str
    port: Port
    hbm: Partition | None
    hbm_at: int
    mmu: Mmu
    sharing: Sharing
    queues: int
    engines: Engines
    flow: Flow
    trace: Trace
    pasids: Pasids | None = None
    max_transfer: int | None = None
    admissions: Sequence[Admission] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a driver's author must know: the declarations that docs and headers are made from.

    Attributes:
        maps: register maps by BAR.
        config: registers of its own in configuration space, from 0x140 on.
        structs: what travels through memory.
        codes: enums in registers and structs.
        numbers: further constants by name.
        operations: which of the codes say what a command does; None if it is always the same.
        statuses: which say how a command ended; None if nothing says it.
        faults: which say why the device refused what its driver did; None if those are
            statuses too, or if nothing says it.
    """

    maps: Mapping[int, type[RegisterMap]]
    config: type[RegisterMap] | None = None
    structs: Sequence[type[Struct]] = ()
    codes: Sequence[Codes] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    operations: Codes | None = None
    statuses: Codes | None = None
    faults: Codes | None = None


class Witness(Protocol):
    """Somebody who wants to know what commands there were, and what became of them."""

    def ended(self, operation: int | None, status: int) -> None:
        """A command ended; None is for a device whose commands are all the same."""

    def refused(self, fault: GuestFault) -> None:
        """The driver did something illegal."""


class Meddler(Protocol):
    """Somebody who decides what becomes of commands."""

    def conclude(self, lane: Lane) -> Generator[int, None, int]:
        """See ``Personality.conclude``."""


class Personality(ABC, Generic[M]):
    """What one device does behind its BARs.

    A subclass names its ``identity`` and ``registers`` (BAR 0), marks methods with
    ``@registers.name.written``, submits work to lanes, and raises GuestFault when
    the driver misuses it; ``fault`` then shows that to the guest.  One with more
    than registers in BAR 0 also says what its ``interface`` is; the registers that
    this has in configuration space have hooks as well.

    One that is ``movable`` can be stopped, saved, and loaded into another slice of its
    type: its registers by themselves, and all that ``start`` sets up by ``save`` and
    ``load``.  See docs/add-a-personality.md.
    """

    identity: ClassVar[Identity]
    registers: ClassVar[type[RegisterMap]]
    interface: ClassVar[Interface]
    max_transfers: ClassVar[Sequence[int]] = ()
    """Bytes that a slice's ``max_transfer`` may be, ascending; none if it is not to be chosen."""
    movable: ClassVar[bool] = False
    _on_write: ClassVar[dict[str, str]] = {}
    _on_read: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        if "interface" not in vars(cls):
            cls.interface = Interface(maps={0: cls.registers})
        if config := cls.interface.config:
            both = {reg.name for reg in declared(cls.registers)} & {
                reg.name for reg in declared(config)
            }
            assert not both, f"{cls.__name__} has {both} in BAR 0 and in configuration space"
        both_ways = {"save", "load", "resume"} <= vars(cls).keys()
        silent = cls.movable and "start" in vars(cls) and not both_ways
        assert not silent, f"{cls.__name__} would lose what start sets up: save, load, resume"
        cls._on_write, cls._on_read = dict(cls._on_write), dict(cls._on_read)
        for name, hook in vars(cls).items():
            cls._on_write |= dict.fromkeys(getattr(hook, "_on_write", ()), name)
            cls._on_read |= dict.fromkeys(getattr(hook, "_on_read", ()), name)

    interrupt: Callable[[int], None]
    """Raises a vector by its number; whoever makes the function in front sets it."""

    meddler: Meddler | None = None
    """Nobody, unless somebody wants commands to go wrong."""

    witness: Witness | None = None
    """Nobody, unless somebody wants to know what was done."""

    def __init__(self, given: Slice) -> None:
        self.slice = given
        self.port = given.port
        self._lanes: list[Lane] = []
        self.accesses = Accesses(type(self).interface.maps)
        self.rest = Rest(given.flow, lambda: self._lanes, self.pause, self.resume)
        self._bank: Bank[M] = Bank(type(self).registers, self)  # type: ignore[arg-type]
        self._bank.missed = partial(self.accesses.missed, 0)
        config = type(self).interface.config
        self._config = Bank(config, self) if config else None
        self.start()

    @property
    def regs(self) -> M:
        """The live registers."""
        return self._bank.regs

    # What a subclass may say of itself.

    @property
    def vectors(self) -> int:
        """How many interrupt vectors it has."""
        return 1

    @property
    def bars(self) -> Sequence[Bar]:
        """Its BARs, without the one of the MSI-X table."""
        return (Bar(0, max(PAGE, 1 << (size_of(self.registers) - 1).bit_length())),)

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        """Bytes of its BARs that a VMM may reach by a descriptor instead of by messages."""
        return ()

    @property
    def msix_bar(self) -> int:
        """Number of the BAR that the MSI-X table gets; one that its own BARs leave free."""
        return 1

    @property
    def pending_intx(self) -> bool:
        """The level of its INTx line."""
        return False

    def pend(self, vector: int) -> None:
        """Remember a vector that was raised while messages are off."""

    def counts(self) -> Mapping[str, int]:
        """What it has counted since its reset, by name."""
        return {}

    @property
    def hbm_use(self) -> HbmUse:
        """What it has allocated of its HBM, if it is it that allocates."""
        return HbmUse()

    def functions_changed(self) -> None:
        """An engine of this slice was reprogrammed: tell the driver, if there is a way."""

    def page_wanted(self, pasid: int, iova: int, group: int, *, write: bool) -> None:
        """The IOMMU queued a page request of ours: it is the guest's to answer."""

    def answered(self, group: int, code: int) -> None:
        """A page request group was answered; ``code`` 0 is success."""

    def start(self) -> None:
        """Set up what registers do not hold; runs at power-on and after reset."""

    # What a movable subclass says of itself, besides its registers.

    @property
    def banks(self) -> Mapping[str, Bank[Any]]:
        """Its register banks by name: what is saved, and loaded before ``load``, unasked."""
        found: dict[str, Bank[Any]] = {"registers": self._bank}
        if self._config:
            found["config"] = self._config
        return found

    def save(self) -> Iterable[Struct]:
        """What registers do not hold, at rest."""
        return ()

    def load(self, saved: Saved) -> None:
        """Be what ``save`` saw; after a reset, when the registers are there.

        Raises:
            StateError: no driver could have brought this device there; it is reset again.
        """

    def resume(self) -> None:
        """Submit what there is to do: at rest, all work was forgotten."""

    def pause(self) -> None:
        """Let nothing happen by itself until ``resume``: alarms are cancelled."""

    @abstractmethod
    def fault(self, fault: GuestFault) -> None:
        """Show the guest what its driver did wrong."""

    # What the function in front of it asks for.

    def read(self, bar: int, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes of a BAR."""
        if bar == 0:
            return self._bank.read(offset, length)
        self.accesses.missed(bar, offset, length, False)
        return bytes(length)

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Guest write of a BAR."""
        if bar == 0:
            self._bank.write(offset, data)
        else:
            self.accesses.missed(bar, offset, len(data), True)

    @property
    def config_registers(self) -> type[RegisterMap] | None:
        """Registers of its own in configuration space."""
        return self.interface.config

    def read_config(self, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes of configuration space."""
        return self._config.read(offset, length) if self._config else bytes(length)

    def write_config(self, offset: int, data: bytes) -> None:
        """Guest write of configuration space."""
        if self._config:
            self._config.write(offset, data)

    def spinning(self, reading: Reading) -> None:
        """A guest reads one place over and over, and nothing changes."""
        spin = self.accesses.spinning(reading)
        self.slice.trace.emit(
            "device.spin",
            mdev=self.slice.name,
            bar=reading.bar,
            offset=reading.offset,
            register=spin.register,
            fields=spin.fields,
            reads=reading.count,
        )

    def enable(self, bus_master: bool) -> None:
        """The guest allows, or forbids, this function to reach memory."""
        self.port.enabled = bus_master

    def reset(self) -> None:
        """Forget everything but what the slice is: function-level reset."""
        for lane in self._lanes:
            lane.cancel()
        self._lanes.clear()
        self._bank.reset()
        if self._config:
            self._config.reset()
        self.start()

    # What a subclass does its work with.

    def lane(self) -> Lane:
        """A new lane for work of a queue; it lives until the next reset.

        Lanes are numbered as they are made, from 0: queue 0 first.
        """
        queue = len(self._lanes)
        lane = self.slice.flow.lane(partial(self._failed, queue=queue))
        lane.queue = queue
        self._lanes.append(lane)
        self.rest.adopt(lane)
        return lane

    def commence(self, lane: Lane, operation: int | None = None, pasid: int | None = None) -> None:
        """A lane begins a command, which ``conclude`` will end; for the trace.

        ``pasid`` is that of its addresses, if it is not the slice's own.
        """
        lane.pasid = self.port.process_id if pasid is None else pasid
        if self.slice.trace.wants(COMMAND_BEGIN):
            self._tell_command(COMMAND_BEGIN, lane, operation)

    def conclude(
        self, lane: Lane, operation: int | None = None, status: int = 0
    ) -> Generator[int, None, int]:
        """How often to complete the command that the lane has just executed: once, as a rule.

        ``operation`` and ``status`` are what ``Interface`` says there is of them.  Somebody
        may want the command never completed, or twice, or later.

        Raises:
            CommandFault: it is to fail with this code, one of ``Interface.statuses``.
        """
        times, failed = 1, None
        if self.meddler is not None:
            try:
                times = yield from self.meddler.conclude(lane)
            except CommandFault as fault:
                failed, status = fault, fault.code
        if self.witness is not None:
            self.witness.ended(operation, status)
        if self.slice.trace.wants(COMMAND_END):
            ended, injected = _name(self.interface.statuses, status), failed or times != 1
            facts = {"injected": True} if injected else {}
            self._tell_command(COMMAND_END, lane, operation, status=ended, times=times, **facts)
        if failed:
            raise failed
        return times

    def _tell_command(self, event: str, lane: Lane, operation: int | None, **facts: object) -> None:
        name = _name(self.interface.operations, operation)
        where = {"mdev": self.slice.name, "queue": lane.queue, "pasid": lane.pasid}
        self.slice.trace.emit(event, **where, operation=name, **facts)

    def _failed(self, fault: GuestFault, queue: int | None = None) -> None:
        """The one place where a GuestFault ends; ``queue`` is the one that it stopped."""
        facts = {} if queue is None else {"queue": queue}
        self.slice.trace.emit("device.fault", mdev=self.slice.name, reason=str(fault), **facts)
        if self.witness is not None:
            self.witness.refused(fault)
        self.fault(fault)

    def reading(self, slot: Slot) -> None:
        """Hook of the bank."""
        if hook := self._on_read.get(slot.name):
            getattr(self, hook)(*([] if slot.single else [slot.index]))

    def written(self, slot: Slot, word: Word) -> None:
        """Hook of the bank."""
        if hook := self._on_write.get(slot.name):
            try:
                getattr(self, hook)(*([word] if slot.single else [slot.index, word]))
            except GuestFault as fault:
                self._failed(fault)


def _name(codes: Codes | None, value: int | None) -> str | int | None:
    """The name of a code in lower case; one without a name as it is."""
    return next((each.name.lower() for each in codes or () if each == value and each.name), value)
