"""Hop 6 and 7 of a chain: stages that pass their data on in HBM, and are one command."""

from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from mdevemu.accel.operations import Extent, Operation, Pieces, Status
from mdevemu.accel.scheduler import Lane
from mdevemu.errors import CommandFault
from mdevemu.iommu.port import Port
from mdevemu.layout import sizeof, unpack
from mdevemu.personalities.native.decode import HBM, operands
from mdevemu.personalities.native.layout import Descriptor, Flag
from mdevemu.personalities.native.memory import CountedMemory
from mdevemu.units import KIB, Iova

if TYPE_CHECKING:
    from mdevemu.personalities.native.device import Native

MAX_STAGES = 16
NO_STAGE = 0xFFFF_FFFF
"""What a completion has for a stage if the chain itself is wrong."""

STAGE_COST = 16 * KIB
"""Copy-bytes that going on to the next stage costs."""

STAGE_FLAGS = Flag.SOURCE_HBM | Flag.DESTINATION_HBM | Flag.OPERAND_HBM


class Chain:
    """One chain under way.

    Attributes:
        stage: which one it is at.
    """

    def __init__(self, device: "Native", lane: Lane, queue: int, port: Port) -> None:
        """All addresses but those in HBM are of ``port``."""
        self.stage = NO_STAGE
        self._device = device
        self._lane = lane
        self._queue = queue
        self._port = port
        self._memories: list[CountedMemory] = []

    def undo(self) -> bool:
        """Be a chain that has not begun, if nothing was written yet."""
        if any(memory.wrote for memory in self._memories):
            return False
        for memory in self._memories:
            memory.forget()
        return True

    def run(self, descriptor: Descriptor) -> Pieces:
        """Do every stage; returns the result of the last.

        Raises:
            GuestFault: a stage cannot be done; ``stage`` is which, and none after it was begun.
        """
        stages = yield from self._read(descriptor)
        for self.stage, each in enumerate(stages):
            _check(each, self.stage, len(stages), self._device)
        codes = [Operation(each.operation) for each in stages]
        engines, engine, result = self._device.slice.engines, None, 0
        if (wrong := engines.unlinked(codes)) is not None:
            self.stage = wrong
            known = engines.able(codes[wrong])
            status = Status.UNLINKED if known else Status.UNKNOWN_OPERATION
            raise CommandFault(status, f"no engine for {codes[wrong].name} can be reached")
        for self.stage, each in enumerate(stages):
            if self.stage:
                before = stages[self.stage - 1].destination
                flags = each.flags | Flag.SOURCE_HBM
                each = replace(each, source=before, length=result, flags=flags)
                yield STAGE_COST
            entry, command = self._device.decode(each)
            onward = codes[self.stage + 1 :]
            use = yield from engines.take(entry.code, self._lane, after=engine, then=onward)
            if use is None:
                raise CommandFault(Status.UNLINKED, f"{entry.code.name} cannot be reached any more")
            memory = self._memory()
            pages = self._supply(operands(entry, command))
            result = yield from use.run(_after(pages, entry.run(memory, command)))
            engine = use.engine
        return result

    def _memory(self) -> CountedMemory:
        self._memories.append(self._device.memory(self._port, self._lane))
        return self._memories[-1]

    def _supply(self, ranges: Iterable[tuple[int, int, bool]]) -> Generator[int, None, None]:
        """Have pages of the guest's processes supplied."""
        return self._device.paging.supply(self._lane, self._queue, self._port, ranges)

    def _read(self, descriptor: Descriptor) -> Generator[int, None, list[Descriptor]]:
        """The stages, read once.

        Raises:
            CommandFault: the chain's own descriptor is wrong.
            DmaFault: they cannot be read.
        """
        others = descriptor.destination, descriptor.operand, descriptor.capacity
        reserved = descriptor.reserved0, descriptor.reserved2, descriptor.reserved3
        if any((*others, *reserved, descriptor.flags & ~(Flag.SOURCE_HBM | Flag.NO_INTERRUPT))):
            raise CommandFault(Status.INVALID_FIELD, f"more than a list in {descriptor}")
        length, size = descriptor.length, sizeof(Descriptor)
        if length % size or not 2 <= length // size <= MAX_STAGES:
            raise CommandFault(Status.LENGTH, f"{length} bytes are not 2 to {MAX_STAGES} stages")
        at = Iova(descriptor.source)
        if descriptor.flags & Flag.SOURCE_HBM:
            self._device.check_hbm(at, length)
            at = Iova(HBM + at)
        else:
            yield from self._supply([(at, length, False)])
        data = yield from self._memory().read(at, length)
        return [unpack(Descriptor, data, start) for start in range(0, length, size)]


def _after(pages: Generator[int, None, None], pieces: Pieces) -> Pieces:
    """Both, one after the other."""
    yield from pages
    return (yield from pieces)


def _check(stage: Descriptor, number: int, count: int, device: "Native") -> None:
    """See that a stage can be one, before any is begun.

    Raises:
        CommandFault: it cannot.
    """
    entry, _ = device.decode(stage)
    wrong = None
    if stage.pasid or stage.cookie or stage.flags & ~STAGE_FLAGS:
        wrong = "has what is the chain's"
    elif number and (stage.source or stage.length or stage.flags & Flag.SOURCE_HBM):
        wrong = "has a source of its own"
    elif number and entry.source is not Extent.LENGTH:
        wrong = "takes no data"
    elif number + 1 < count and entry.destination is Extent.NONE:
        wrong = "passes nothing on"
    elif number + 1 < count and not stage.flags & Flag.DESTINATION_HBM:
        wrong = "does not leave its data in HBM"
    if wrong:
        raise CommandFault(Status.INVALID_FIELD, f"stage {number} {wrong}")
