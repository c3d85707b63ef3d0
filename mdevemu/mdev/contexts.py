"""Every device context and process context, read from memory as it is now.

Spec: RISC-V IOMMU 1.0, Device-Directory-Table; Process-Directory-Table
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mdevemu.iommu import Iommu
from mdevemu.iommu.contexts import names
from mdevemu.iommu.formats import (
    DeviceAttributes,
    Directory,
    DirectoryMode,
    GuestTranslation,
    ProcessAttributes,
    TablePointer,
    TranslationControl,
)
from mdevemu.iommu.registers import Mode
from mdevemu.iommu.walk import FIRST_SCHEMES, SECOND_SCHEMES
from mdevemu.mdev.host_iommu import HostIommu
from mdevemu.memory import Miss
from mdevemu.units import Hpa, Iova

MOST_TABLES = 1024
"""Tables of one guest's directory that are looked at; a guest may have made it endless."""
MOST_CONTEXTS = 4096
"""Process contexts of one device that are listed."""

BARE = "Bare"
DC_WORDS, PC_WORDS = 8, 2
DEVICE_BITS = {
    Mode.ONE_LEVEL: [6],
    Mode.TWO_LEVELS: [9, 6],
    Mode.THREE_LEVELS: [9, 9, 6],
}
"""Bits of a device id that each level takes, in extended format; the base format's leaf takes 7."""
PROCESS_BITS = {"PD8": [8], "PD17": [9, 8], "PD20": [3, 9, 8]}

Load = Callable[[int, int], tuple[Hpa, tuple[int, ...]] | None]
"""(address, doublewords) to where that is and what is there; None if nothing is."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a context leads to.

    Attributes:
        mode: its format, as the specification names it; "Bare" is no table.
        root: address of its root.
        guest: that is a guest-physical address.
    """

    mode: str
    root: int
    guest: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """A device context, or with a PASID a process context.

    Attributes:
        address: physical; None if memory has no such valid context and only a cache does.
        raw: its doublewords.
        flags: bits of its first doubleword (tc, or ta) by name.
        directory: where the device's process contexts are; None without PDTV.
        first: first stage; None if it depends on the process.
        second: second stage.
        pscid, gscid: soft-context ids; None where none is used.
        cached: the IOMMU holds a context for these ids.
    """

    device_id: int
    pasid: int | None
    address: Hpa | None
    raw: tuple[int, ...]
    flags: tuple[str, ...]
    directory: Table | None
    first: Table | None
    second: Table | None
    pscid: int | None
    gscid: int | None
    cached: bool


class Contexts:
    """Reads the directories of one IOMMU; nothing is cached, changed or reported.

    Attributes:
        complete: nothing was left out of the last listing for want of room.
    """

    def __init__(self, iommu: Iommu, host: HostIommu) -> None:
        self._iommu = iommu
        self._host = host
        self.complete = True

    def list(self) -> Sequence[Context]:
        """Each device context, followed by its process contexts."""
        self.complete = True
        found: list[Context] = []
        for device in self._devices():
            found.append(device)
            found += self._processes(device)
        return found

    def _devices(self) -> Iterator[Context]:
        ddtp, cached = self._iommu.regs.ddtp, dict.fromkeys(self._iommu.devices.entries)
        if ddtp.iommu_mode > Mode.BARE:
            widths, words = DEVICE_BITS[Mode(ddtp.iommu_mode)], DC_WORDS
            if not self._iommu.regs.capabilities.msi_flat:
                *above, leaf = widths
                widths, words = [*above, leaf + 1], DC_WORDS // 2
            for number, at, raw in self._leaves(self._physical, ddtp.ppn << 12, widths, words):
                known = number in cached
                cached.pop(number, None)
                yield _device(number, at, raw, known)
        for number in cached:
            yield _only_cached(number, None)

    def _processes(self, device: Context) -> Iterator[Context]:
        """The process contexts of a device, those that memory has first."""
        entries = self._iommu.processes.entries
        keys = (key for key in entries if key >> 20 == device.device_id)
        cached = dict.fromkeys(key & 0xF_FFFF for key in keys)
        directory = device.directory
        if directory is not None and directory.mode in PROCESS_BITS:
            load: Load = self._physical
            if directory.guest:
                load = partial(self._guest, device.device_id)
            found = self._leaves(load, directory.root, PROCESS_BITS[directory.mode], PC_WORDS)
            for count, (pasid, at, raw) in enumerate(found):
                if count == MOST_CONTEXTS:
                    self.complete = False
                    break
                known = pasid in cached
                cached.pop(pasid, None)
                yield _process(device, pasid, at, raw, known)
        for pasid in cached:
            yield _only_cached(device.device_id, pasid)

    def _leaves(
        self, load: Load, root: int, widths: Sequence[int], words: int
    ) -> Iterator[tuple[int, Hpa, tuple[int, ...]]]:
        """(number, address, doublewords) of every valid context below ``root``.

        ``widths`` are the bits of the number that each level takes, the root's first;
        ``words`` the doublewords of a context.
        """
        tables = [(root, 0, 0)]
        for looked in range(MOST_TABLES + 1):
            if not tables:
                return
            if looked == MOST_TABLES:
                self.complete = False
                return
            table, level, prefix = tables.pop()
            last = level == len(widths) - 1
            size = words if last else 1
            read = load(table, size << widths[level])
            if read is None:
                continue
            base, entries = read
            below = []
            for index in range(0, len(entries), size):
                if not entries[index] & 1:
                    continue
                number = prefix << widths[level] | index // size
                if last:
                    yield number, Hpa(base + index * 8), entries[index : index + size]
                else:
                    below.append((Directory(entries[index]).ppn << 12, level + 1, number))
            tables += reversed(below)

    def _physical(self, at: int, count: int) -> tuple[Hpa, tuple[int, ...]] | None:
        try:
            data = self._host.memory.read(at, 8 * count)
        except Miss:
            return None
        return Hpa(at), struct.unpack(f"<{count}Q", data)

    def _guest(self, device_id: int, at: int, count: int) -> tuple[Hpa, tuple[int, ...]] | None:
        """``count`` doublewords of a page in guest memory."""
        hpa = self._host.walk(device_id, None, Iova(at)).hpa
        return None if hpa is None else self._physical(hpa, count)


def _device(device_id: int, at: Hpa, raw: tuple[int, ...], cached: bool) -> Context:
    control, guest = TranslationControl(raw[0]), GuestTranslation(raw[1])
    pointer = TablePointer(raw[3])
    nested = guest.mode != 0
    directory = first = None
    pscid = None
    if control.pdtv:
        known = pointer.mode in list(DirectoryMode)
        mode = DirectoryMode(pointer.mode).name if known else f"mode {pointer.mode}"
        directory = Table(mode if pointer.mode else BARE, pointer.ppn << 12, nested)
    else:
        first = _first(pointer, nested)
        pscid = DeviceAttributes(raw[2]).pscid if pointer.mode else None
    return Context(
        device_id=device_id,
        pasid=None,
        address=at,
        raw=raw,
        flags=names(TranslationControl, raw[0]),
        directory=directory,
        first=first,
        second=_second(guest),
        pscid=pscid,
        gscid=guest.gscid if nested else None,
        cached=cached,
    )


def _process(device: Context, pasid: int, at: Hpa, raw: tuple[int, ...], cached: bool) -> Context:
    pointer = TablePointer(raw[1])
    return Context(
        device_id=device.device_id,
        pasid=pasid,
        address=at,
        raw=raw,
        flags=names(ProcessAttributes, raw[0]),
        directory=None,
        first=_first(pointer, device.gscid is not None),
        second=device.second,
        pscid=ProcessAttributes(raw[0]).pscid if pointer.mode else None,
        gscid=device.gscid,
        cached=cached,
    )


def _only_cached(device_id: int, pasid: int | None) -> Context:
    """A context that a command should have taken out of the cache."""
    return Context(device_id, pasid, None, (), (), None, None, None, None, None, True)


def _first(pointer: TablePointer, guest: bool) -> Table:
    if not pointer.mode:
        return Table(BARE, 0)
    scheme = FIRST_SCHEMES.get(pointer.mode)
    return Table(scheme.name if scheme else f"mode {pointer.mode}", pointer.ppn << 12, guest)


def _second(guest: GuestTranslation) -> Table:
    if not guest.mode:
        return Table(BARE, 0)
    scheme = SECOND_SCHEMES.get(guest.mode)
    return Table(scheme.name if scheme else f"mode {guest.mode}", guest.ppn << 12)
