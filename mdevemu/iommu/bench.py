"""How long translations take, against a plain dictionary lookup in the same process.

A requester with a PASID reads 512 pages of 4 KiB, in random order, through Sv48 in a
guest whose Sv48x4 second stage has pages of 4 KiB too: 24 entries a walk.
"""

import dataclasses
import random
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mdevemu.iommu.caches import CacheSizes
from mdevemu.iommu.causes import Access
from mdevemu.iommu.formats import (
    DirectoryMode,
    GuestTranslation,
    ProcessAttributes,
    TablePointer,
    TranslationControl,
)
from mdevemu.iommu.iommu import Iommu
from mdevemu.iommu.port import Port
from mdevemu.iommu.registers import DirectoryPointer, IommuRegisters, Mode
from mdevemu.iommu.walk import A, D, R, U, V, W
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.trace import Trace
from mdevemu.units import MIB, PAGE, Hpa, Iova

DEVICE, PROCESS = 1, 5
PAGES = 512
ADDRESSES = 1 << 16
WALKS = 1 << 11
SV48 = 9
START = Iova(0x7F00_0000_0000)
LOWEST_BATCH_RATE = 5_000_000
_DIRECTORY, _GUEST_DIRECTORY, _FIRST, _SECOND, _DATA = (at * MIB for at in (1, 2, 3, 8, 16))
_PAGE = V | R | W | U | A | D


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of translation: the medians of all rounds.

    Attributes:
        nanoseconds: each.
        lookups: how many dictionary lookups would have taken as long.
    """

    name: str
    nanoseconds: float
    lookups: float

    @property
    def rate(self) -> float:
        """Each second."""
        return 1e9 / self.nanoseconds


def measure(rounds: int, clock: Callable[[], int] = time.perf_counter_ns) -> list[Measured]:
    """Run every kind once a round, beside the dictionary; ``clock`` is in nanoseconds."""
    kinds = _kinds()
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (count, run) in kinds.items():
            begun = clock()
            run()
            taken[name].append((clock() - begun) / count)
    plain = taken["dictionary lookup"]
    return [
        Measured(
            name,
            statistics.median(each),
            statistics.median(one / other for one, other in zip(each, plain, strict=True)),
        )
        for name, each in taken.items()
    ]


def _kinds() -> Mapping[str, tuple[int, Callable[[], object]]]:
    """By name: how many translations, and what does them."""
    chooser = random.Random(1)
    pages = [START + number * PAGE for number in range(PAGES)]
    iovas = [chooser.choice(pages) + chooser.randrange(PAGE // 8) * 8 for _ in range(ADDRESSES)]
    packed = array("Q", iovas)
    keys = [iova // PAGE for iova in iovas]
    table = {iova // PAGE: number for number, iova in enumerate(pages)}
    iommu, port = _machine(CacheSizes())
    walking, _ = _machine(CacheSizes(lines=1))
    requester = iommu.requester(DEVICE, PROCESS)
    # One page after the other: with room for one line, none is found again.
    walks = [pages[number % PAGES] for number in range(WALKS)]

    def look_up() -> None:
        for key in keys:
            table[key]

    def hit() -> None:
        translate = requester.translate
        for iova in iovas:
            translate(iova, 1)

    def hit_behind() -> None:
        line = iommu.line
        for iova in iovas:
            line(DEVICE, PROCESS, iova, 1)

    def read() -> None:
        load = port.read
        for iova in iovas:
            load(Iova(iova), 8)

    def walk() -> None:
        line = walking.line
        for iova in walks:
            line(DEVICE, PROCESS, iova, 1)

    def batch() -> None:
        requester.translate_many(packed, 1)

    batch()
    return {
        "dictionary lookup": (ADDRESSES, look_up),
        "scalar hit": (ADDRESSES, hit),
        "scalar hit in the IOTLB": (ADDRESSES, hit_behind),
        "read of 8 bytes": (ADDRESSES, read),
        "scalar walk": (WALKS, walk),
        "batch": (ADDRESSES, batch),
    }


def _machine(sizes: CacheSizes) -> tuple[Iommu, Port]:
    """An IOMMU whose tables stand in 32 MiB of memory, and a port of its one requester."""
    memory = PhysicalMemory()
    memory.add(Hpa(0), Ram(32 * MIB), 32 * MIB)
    iommu = Iommu(memory, Trace(time.monotonic_ns, depth=1), sizes=sizes)
    tables = _Tables(memory)
    # Guest-physical memory is where it is in the host, page by page.
    for at in (_GUEST_DIRECTORY, *range(_FIRST, _FIRST + 16 * PAGE, PAGE)):
        tables.map(_SECOND, at, at, root=4 * PAGE)
    for number in range(PAGES):
        tables.map(_SECOND, _DATA + number * PAGE, _DATA + number * PAGE, root=4 * PAGE)
        tables.map(_FIRST, START + number * PAGE, _DATA + number * PAGE, root=PAGE)
    tc = TranslationControl()
    tc.v = tc.pdtv = True
    guest = GuestTranslation()
    guest.mode, guest.ppn = SV48, _SECOND >> 12
    pdtp = TablePointer()
    pdtp.mode, pdtp.ppn = DirectoryMode.PD8, _GUEST_DIRECTORY >> 12
    for at, word in enumerate((tc, guest, TablePointer(), pdtp)):
        memory.write_u64(_DIRECTORY + DEVICE * 64 + at * 8, int(word))
    ta = ProcessAttributes()
    ta.v = True
    fsc = TablePointer()
    fsc.mode, fsc.ppn = SV48, _FIRST >> 12
    memory.write_u64(_GUEST_DIRECTORY + PROCESS * 16, int(ta))
    memory.write_u64(_GUEST_DIRECTORY + PROCESS * 16 + 8, int(fsc))
    ddtp = DirectoryPointer()
    ddtp.iommu_mode, ddtp.ppn = Mode.ONE_LEVEL, _DIRECTORY >> 12
    at = IommuRegisters.ddtp
    iommu.write_register(at.offset, int(ddtp).to_bytes(at.length, "little"))
    port = Port(iommu, memory, DEVICE, PROCESS)
    port.enabled = True
    assert iommu.line(DEVICE, PROCESS, START, Access.READ).delta == _DATA - START
    return iommu, port


class _Tables:
    """Builds Sv48 tables of 4 KiB pages; a table's children stand behind its root."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._ends: dict[int, int] = {}

    def map(self, top: int, address: int, to: int, *, root: int) -> None:
        """Map one page in the tables whose root of ``root`` bytes is at ``top``."""
        table = top
        for shift in (39, 30, 21):
            at = table + (address >> shift & (root // 8 - 1 if table == top else 511)) * 8
            entry = self._memory.read_u64(at)
            if not entry:
                end = self._ends.setdefault(top, top + root)
                self._ends[top] = end + PAGE
                entry = end >> 12 << 10 | V
                self._memory.write_u64(at, entry)
            table = entry >> 10 << 12
        self._memory.write_u64(table + (address >> 12 & 511) * 8, to >> 12 << 10 | _PAGE)


def record(found: list[Measured]) -> list[dict[str, object]]:
    """As JSON has it."""
    return [{**dataclasses.asdict(each), "rate": each.rate} for each in found]


def lines(found: list[Measured]) -> Iterator[str]:
    """As people read it."""
    width = max(len(each.name) for each in found)
    yield f"{'':{width}}  {'ns each':>9}  {'a second':>12}  {'dictionary lookups':>18}"
    for each in found:
        numbers = f"{each.nanoseconds:9.1f}  {each.rate:12,.0f}  {each.lookups:18.1f}"
        yield f"{each.name:{width}}  {numbers}"
