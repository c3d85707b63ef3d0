"""Hop 4, region access to config space, BAR or MSI-X: the function that a VMM plugs in.

Spec: PCI Express Base 5.0 §7.5, §6.6.2 (function-level reset); Linux, VFIO region
and interrupt indexes
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mdevemu.errors import RequestError, StateError
from mdevemu.fds import Fd, close_all
from mdevemu.pci.capabilities import Power
from mdevemu.pci.config import (
    Bar,
    ConfigSpace,
    Doorbell,
    Identity,
    config_space,
    set_serial,
)
from mdevemu.pci.interrupts import Interrupts, Line
from mdevemu.pci.messages import MessageKind, Messages, Msi
from mdevemu.pci.msix import PENDING, TABLE, Msix
from mdevemu.pci.watchdog import Reading, Watchdog
from mdevemu.registers import Bank, RegisterMap, size_of, slots
from mdevemu.trace import Trace

CONFIG = 7
"""VFIO's number of the config region; 0 to 5 are the BARs."""
INTERRUPT = "interrupt"
"""An event that is made only if the trace wants it."""
REGIONS = 9
"""How many regions VFIO has: BARs, ROM, config and VGA."""


class Device(Protocol):
    """What a function needs of the device behind it."""

    @property
    def identity(self) -> Identity:
        """How it introduces itself."""

    @property
    def bars(self) -> Sequence[Bar]:
        """Its BARs, without the one of the MSI-X table."""

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        """Which bytes of its BARs can be reached by a descriptor."""

    @property
    def vectors(self) -> int:
        """How many interrupt vectors it has, 0 to 128."""

    @property
    def msix_bar(self) -> int:
        """Number of the BAR that the MSI-X table gets if it has vectors."""

    @property
    def config_registers(self) -> type[RegisterMap] | None:
        """Registers of its own in configuration space, where no capability is."""

    @property
    def pending_intx(self) -> bool:
        """It wants its interrupt line up."""

    def pend(self, vector: int) -> None:
        """Remember an interrupt for ``pending_intx``: there are no messages now."""

    def read(self, bar: int, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes of a BAR."""

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Guest write of a BAR."""

    def read_config(self, offset: int, length: int) -> bytes:
        """Guest read of ``length`` bytes of configuration space: zero outside its registers."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Guest write of configuration space."""

    def spinning(self, reading: Reading) -> None:
        """A guest reads one place over and over, and nothing changes."""

    def enable(self, bus_master: bool) -> None:
        """Reach memory from now on, or not any more."""

    def reset(self) -> None:
        """Forget everything that software did to it."""


class Link(Protocol):
    """What is between a function and its guest, if somebody wants to interfere there."""

    def passes(self, region: int, offset: int, length: int, *, write: bool) -> bool:
        """An access of ``length`` bytes gets through; if not, it reads all ones."""

    def was_reset(self) -> None:
        """The function was reset."""


class Observer(Protocol):
    """Somebody who wants to see what a guest reads and writes."""

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """A guest has read ``data``, or is about to write it."""


@dataclass(frozen=True, slots=True)
class Region:
    """One VFIO region.

    Attributes:
        size: bytes, 0 if it does not exist.
        memory: file that a VMM may map; its device owns it.
        memory_offset: where in the file the region starts, in bytes.
        areas: (offset, bytes) of what can be mapped; none with ``memory`` means all of it.
    """

    size: int = 0
    readable: bool = False
    writable: bool = False
    memory: Fd | None = None
    memory_offset: int = 0
    areas: Sequence[tuple[int, int]] = ()


class Function:
    """A PCI Express endpoint.

    A BAR can be read and written whatever the memory enable bit says: decoding
    is up to the VMM, which maps some BARs and would not ask.

    Attributes:
        link: None lets every access through.
        observers: see each access of a guest.
    """

    def __init__(
        self,
        device: Device,
        trace: Trace,
        name: str = "",
        identity: Identity | None = None,
        messages: MessageKind = MessageKind.MSIX,
    ) -> None:
        """``name`` is for the trace; ``identity`` is used instead of the device's own.

        ``messages`` is the capability that vectors are sent by, if there are any.
        """
        self.link: Link | None = None
        self.observers: tuple[Observer, ...] = ()
        self._device = device
        self._read, self._write = device.read, device.write
        self._trace = trace
        self._name = name
        self._watchdog = Watchdog(device.spinning)
        self._line = Line()
        self._bars = frozenset(bar.index for bar in device.bars)
        vectors = device.vectors
        with_table = vectors > 0 and messages is MessageKind.MSIX
        self._msix = Msix(vectors, device.msix_bar) if with_table else None
        self._msi = Msi(vectors) if vectors and not with_table else None
        self._messages: Messages | None = self._msix or self._msi
        bars = [*device.bars, *([self._msix.bar] if self._msix else [])]
        place = (vectors, device.msix_bar, TABLE, PENDING) if self._msix else None
        msi = self._msi.count if self._msi else 0
        identity = identity or device.identity
        self._serial = identity.serial
        self._config = Bank(config_space(identity, bars, place, msi))
        set_serial(self._config.regs, self._serial)
        if device.config_registers:
            check_apart(self._config.kind, device.config_registers)
        self._regions = regions(bars)
        self._interrupts: tuple[Interrupts, ...] = (
            self._line,
            self._msi or Interrupts("MSI", 0),
            self._msix or Interrupts("MSI-X", 0),
            Interrupts("ERR", 1),
            Interrupts("REQ", 1),
        )
        self._power = Power.D0
        self._enabled = False

    @property
    def config(self) -> type[ConfigSpace]:
        """The declaration of the config space."""
        return self._config.kind

    @property
    def maps(self) -> Mapping[int, type[RegisterMap]]:
        """The declarations of what is not its device's, by region: config space and MSI-X."""
        msix = {self._msix.bar.index: self._msix.registers} if self._msix else {}
        return {CONFIG: self.config, **msix}

    @property
    def regions(self) -> Sequence[Region]:
        """Every VFIO region, by its number."""
        return self._regions

    @property
    def interrupts(self) -> Sequence[int]:
        """How many vectors each VFIO interrupt index has: INTx, MSI, MSI-X, ERR, REQ."""
        return [source.count for source in self._interrupts]

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        """What can be rung by a descriptor."""
        return self._device.doorbells

    @property
    def messages_enabled(self) -> bool:
        """Interrupts are messages: the guest said so, or the VMM did."""
        if self._messages is None:
            return False
        regs = self._config.regs
        control = regs.msix_control if self._msix else regs.msi_control
        return control.enable or self._messages.assigned > 0

    # Accesses.

    def read(self, region: int, offset: int, length: int) -> bytes:
        """Read ``length`` bytes of a region; what does not exist reads as zero."""
        if self.link is not None and not self.link.passes(region, offset, length, write=False):
            return b"\xff" * length
        if region in self._bars:
            data = self._read(region, offset, length)
            self._watchdog.read(region, offset, data)
            self._follow()
        elif region == CONFIG:
            regs = self._config.regs
            regs.status.interrupt = self._device.pending_intx and not self.messages_enabled
            data = self._read_config(offset, length)
        elif self._msix and region == self._msix.bar.index:
            data = self._msix.read(offset, length)
        else:
            data = bytes(length)
        if self.observers:
            self._observed(region, offset, data, write=False)
        return data

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region; what does not exist ignores it."""
        if self.link is not None and not self.link.passes(region, offset, len(data), write=True):
            return
        if self.observers:
            self._observed(region, offset, data, write=True)
        if region in self._bars:
            self._watchdog.write()
            self._write(region, offset, data)
            self._follow()
        elif region == CONFIG:
            self._config.write(offset, data)
            if self._device.config_registers:
                self._device.write_config(offset, data)
            self._configured()
        elif self._msix and region == self._msix.bar.index:
            self._msix.write(offset, data)

    def observe(self, observer: Observer, wanted: bool) -> None:
        """Have an observer see accesses, or not any more; doing either twice changes nothing."""
        others = tuple(each for each in self.observers if each is not observer)
        self.observers = (*others, observer) if wanted else others

    def _observed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        for observer in self.observers:
            observer.accessed(region, offset, data, write=write)

    def _read_config(self, offset: int, length: int) -> bytes:
        """Our registers and the device's; where one has its own, the other reads as zero."""
        ours = self._config.read(offset, length)
        if not self._device.config_registers:
            return ours
        its = self._device.read_config(offset, length)
        return bytes(a | b for a, b in zip(ours, its, strict=True))

    def _configured(self) -> None:
        """Do what the config space says now."""
        regs = self._config.regs
        if regs.device_control.initiate_flr:
            self._reset("flr")
            return
        if regs.power_control.state in (Power.D1, Power.D2):
            # There is no such state, so the write is discarded.
            regs.power_control.state = self._power
        if regs.power_control.state is not self._power:
            self._power = regs.power_control.state
            self._trace.emit("function.power", function=self._name, state=self._power.name)
        self._enable(regs.command.bus_master and self._power is Power.D0)
        self.update()

    def _enable(self, bus_master: bool) -> None:
        """Tell the device if that is new to it."""
        if bus_master != self._enabled:
            self._enabled = bus_master
            self._trace.emit("function.bus_master", function=self._name, enabled=bus_master)
            self._device.enable(bus_master)

    # A move to another function.

    @property
    def banks(self) -> Mapping[str, Bank[Any]]:
        """Its own register banks by name: configuration space, and MSI-X or MSI."""
        found: dict[str, Bank[Any]] = {"pci": self._config}
        if self._messages:
            found["messages"] = self._messages.bank
        return found

    def restored(self) -> None:
        """The banks have got another function's contents: be what they say.

        What is pending is delivered by ``deliver``.

        Raises:
            StateError: this function has no such power state.
        """
        regs = self._config.regs
        if regs.power_control.state in (Power.D1, Power.D2):
            raise StateError(f"power state {regs.power_control.state.name}")
        self._power = regs.power_control.state
        self._enable(regs.command.bus_master and self._power is Power.D0)

    def when_reached(self, reached: Callable[[], None]) -> None:
        """Call ``reached`` before the next access to a BAR of the device, and then no more."""
        device = self._device

        def first() -> None:
            self._read, self._write = device.read, device.write
            reached()

        def read(bar: int, offset: int, length: int) -> bytes:
            first()
            return device.read(bar, offset, length)

        def write(bar: int, offset: int, data: bytes) -> None:
            first()
            device.write(bar, offset, data)

        self._read, self._write = read, write

    def deliver(self) -> None:
        """Interrupt the guest for everything that is pending, as far as nothing holds it back."""
        self.update()
        if self._messages:
            self._messages.deliver()

    # Resets.

    def reset(self) -> None:
        """Start anew, as after power-on; interrupts stay assigned."""
        self._reset("message")

    def quiesce(self, done: Callable[[RequestError | None], None]) -> None:
        """Call ``done`` when no work is under way: between two calls none ever is."""
        done(None)

    def _reset(self, cause: str) -> None:
        self._trace.emit("function.reset", function=self._name, cause=cause)
        self._enabled = False
        self._device.enable(False)
        self._device.reset()
        self._config.reset()
        set_serial(self._config.regs, self._serial)
        self._power = Power.D0
        if self._messages:
            self._messages.reset()
        self.update()
        if self.link is not None:
            self.link.was_reset()

    # Interrupts, as the device sees them.

    def interrupt(self, vector: int) -> None:
        """Interrupt the guest; there is nothing to wait for, and nothing that can fail.

        A vector that does not exist is what a driver asked for in error: it is lost.
        """
        if self._messages and vector >= self._device.vectors:
            self._trace.emit("function.no_vector", function=self._name, vector=vector)
            return
        if self._trace.wants(INTERRUPT):
            way = "message" if self.messages_enabled else "line"
            self._trace.emit(INTERRUPT, function=self._name, vector=vector, way=way)
        if self._messages and self.messages_enabled:
            self._messages.interrupt(self._shared(vector))
        else:
            self._device.pend(vector)
            self.update()

    def _follow(self) -> None:
        """Look at the device's interrupt line alone: an access to a BAR changes nothing else."""
        if self._device.pending_intx != self._line.level:
            self.update()

    def _shared(self, vector: int) -> int:
        """The vector that a message has: with fewer allowed by MSI, several share one."""
        if not self._msi:
            return vector
        control = self._config.regs.msi_control
        if not control.enable:  # only the VMM's eventfds say that there are messages
            return vector % self._msi.count
        return vector % min(self._msi.count, 1 << control.multiple_enable)

    def update(self) -> None:
        """Look at the device's interrupt line, and at what holds interrupts back."""
        regs, asleep = self._config.regs, self._power is not Power.D0
        if self._messages:
            masked = self._msix is not None and regs.msix_control.function_mask
            self._messages.hold(masked or asleep)
        silenced = regs.command.interrupt_disable
        held = silenced or asleep or self.messages_enabled
        self._line.set(self._device.pending_intx, held=held, silenced=silenced)

    # Interrupts, as the VMM sees them.

    def assign(self, index: int, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Take eventfds for vectors from ``start`` on; None takes one away.

        Raises:
            RequestError: no such vectors, or not an eventfd; nothing has changed,
                and the given descriptors are closed.
        """
        try:
            source = self._source(index)
        except RequestError:
            close_all(eventfds)
            raise
        source.assign(start, eventfds)
        self.update()

    def assign_masks(self, index: int, start: int, eventfds: Sequence[Fd | None]) -> None:
        """Take eventfds that say when vectors become masked; None takes one away.

        Raises:
            RequestError: no such vectors, these cannot be masked, or not an eventfd;
                nothing has changed, and the given descriptors are closed.
        """
        try:
            source = self._source(index)
        except RequestError:
            close_all(eventfds)
            raise
        source.assign_masks(start, eventfds)

    def disable(self, index: int) -> None:
        """Forget every eventfd of an index.

        Raises:
            RequestError: no such index.
        """
        self._source(index).disable()
        self.update()

    def trigger(self, index: int, start: int, count: int) -> None:
        """Signal vectors because the VMM says so.

        Raises:
            RequestError: no such vectors; none was signalled.
        """
        self._source(index).trigger(start, count)

    def mask(self, index: int, start: int, count: int) -> None:
        """Hold vectors back until they are unmasked.

        Raises:
            RequestError: no such vectors, or these cannot be masked; nothing has changed.
        """
        self._source(index).mask(start, count)

    def unmask(self, index: int, start: int, count: int) -> None:
        """Let vectors through again; what is still pending is signalled.

        Raises:
            RequestError: no such vectors, or these cannot be masked; nothing has changed.
        """
        self._source(index).unmask(start, count)

    def disconnect(self) -> None:
        """The VMM is gone: forget its eventfds, keep everything else."""
        for source in self._interrupts:
            source.disable()
        self.update()

    def _source(self, index: int) -> Interrupts:
        if not 0 <= index < len(self._interrupts):
            raise RequestError(errno.EINVAL, f"there is no interrupt index {index}")
        return self._interrupts[index]


def check_apart(ours: type[RegisterMap], its: type[RegisterMap]) -> None:
    """See that a device's configuration registers are where we have none."""
    assert size_of(its) <= size_of(ours), f"{its.__name__} is larger than configuration space"
    taken = {at for slot in slots(ours) for at in range(slot.offset, slot.offset + slot.length)}
    for slot in slots(its):
        places = range(slot.offset, slot.offset + slot.length)
        assert taken.isdisjoint(places), f"{its.__name__}.{slot} is taken at {slot.offset:#x}"


def regions(bars: Sequence[Bar]) -> Sequence[Region]:
    """Every VFIO region of a function with these BARs."""
    made = [Region()] * REGIONS
    made[CONFIG] = Region(size_of(ConfigSpace), readable=True, writable=True)
    for bar in bars:
        areas = [(0, bar.memory_size)] if bar.memory and bar.memory_size else []
        made[bar.index] = Region(bar.size, True, True, bar.memory, 0, areas)
    return made
