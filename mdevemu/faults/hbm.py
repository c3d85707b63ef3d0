"""Bit flips in HBM, which has an error-correcting code over each 8 bytes.

One flipped bit is put right when the word is read next, and counted.  Two cannot be: the
word stays poisoned, and every access that has to read it fails, until it is written whole.
Both are noticed where the device reads; a guest that has mapped the aperture reads the
memory itself, where it sees the two bits and no error.

Spec: RISC-V Privileged, cause 19 (hardware error); the names of the counters are those of
the kernel's drm-ras error counters
"""

import random

from mdevemu.errors import ConfigError, DmaFault
from mdevemu.faults.dma import watch
from mdevemu.faults.injection import Injection, Kind
from mdevemu.faults.seam import Seam, Told
from mdevemu.iommu import Access, Port
from mdevemu.mdev.parent import Mdev
from mdevemu.units import Iova

WORD = 8
"""Bytes that one code protects."""
HARDWARE_ERROR = 19
"""Cause of an access that reads a poisoned word."""

_PLACES = frozenset({"address", "count", "seed"})

CORRECTED = Kind(
    name="hbm-corrected",
    occasion="count words, at an address of the mdev's HBM or chosen by seed",
    effect="one bit flips: the next read counts a correctable error and has the right bytes",
    takes=_PLACES,
)
UNCORRECTED = Kind(
    name="hbm-uncorrected",
    occasion="count words, at an address of the mdev's HBM or chosen by seed",
    effect="two bits flip: reads fail with cause 19 until the word is written whole",
    takes=_PLACES,
)


class Hbm(Seam):
    """Words of one partition with flipped bits.

    Attributes:
        correctable, uncorrectable: errors that reads have met.
    """

    KINDS = (CORRECTED, UNCORRECTED)

    def __init__(self, mdev: Mdev, told: Told) -> None:
        super().__init__(mdev, told)
        self.correctable = self.uncorrectable = 0
        self._words: dict[int, Injection] = {}  # by number, from the start of the partition
        self._watched: set[Port] = set()

    def check(self, injection: Injection) -> None:
        part, address = self.mdev.partition, injection.order.address
        if part is None:
            raise ConfigError("kind", f"{self.mdev.name} has no HBM whose bits could flip")
        if address is not None and address >= part.size:
            raise ConfigError("address", f"{address:#x} (accepted: below {part.size:#x})")
        if address is not None and injection.order.count not in (None, 1):
            raise ConfigError("count", "means nothing with an address")
        if len(_places(injection, part.size)) + len(self._words) > MAX_WORDS:
            raise ConfigError("count", f"at most {MAX_WORDS} words can be flipped at once")

    def arm(self, injection: Injection) -> None:
        self.check(injection)
        part = self.mdev.partition
        assert part
        for word in _places(injection, part.size):
            if word in self._words:
                self._undo(word)
            self._words[word] = injection
            self.strike(injection, hbm=word * WORD)
            if injection.kind is UNCORRECTED:
                self._flip(word)
        self.refresh()

    def disarm(self, injection: Injection) -> None:
        for word in [word for word, each in self._words.items() if each is injection]:
            self._undo(word)
        super().disarm(injection)

    def refresh(self) -> None:
        self.join(bool(self._words))

    def join(self, wanted: bool) -> None:
        """Look at whatever reaches the partition: its mdev, and who imports of it."""
        part, sharing = self.mdev.partition, self.mdev.sharing
        ports = {self.mdev.port, *sharing.importers} if wanted else set()
        for port in self._watched | ports:
            watch(port, self._look, port in ports)
        self._watched, sharing.changed = ports, self.refresh if wanted else None
        if part:
            others = [each for each in part.observers if each != self._heal]
            part.observers[:] = [*others, *([self._heal] if wanted else [])]

    def _heal(self, offset: int, length: int) -> None:
        """A range was scrubbed: all its words were written."""
        first, last = offset // WORD, (offset + length) // WORD
        for word in [word for word in self._words if first <= word < last]:
            del self._words[word]
        self.refresh()

    def _look(self, port: Port, iova: Iova, length: int, access: Access) -> None:
        part, write = self.mdev.partition, access == Access.WRITE
        assert part
        pieces = [
            (at - hpa + low, low - part.base, high - part.base)
            for at, hpa, count in port.translated(iova, length, access)
            if (low := max(hpa, part.base)) < (high := min(hpa + count, part.base + part.size))
        ]
        met = [
            (word, at, start, end)
            for at, start, end in pieces
            for word in sorted(self._words)
            if start < (word + 1) * WORD and word * WORD < end
        ]
        corrected = 0
        for word, at, start, end in met:
            if write and start <= word * WORD and (word + 1) * WORD <= end:
                continue  # it is not read
            # First, as an access that fails changes nothing.
            if self._words[word].kind is UNCORRECTED:
                self.uncorrectable += 1
                first = max(start, word * WORD)
                there = Iova(at + first - start)
                raise DmaFault(there, iova + length - there, HARDWARE_ERROR, write=write)
            corrected += 1
        self.correctable += corrected
        for word in {word for word, *_ in met}:
            del self._words[word]
        self.refresh()

    def _undo(self, word: int) -> None:
        """Flip the bits of a word back."""
        if self._words.pop(word).kind is UNCORRECTED:
            self._flip(word)

    def _flip(self, word: int) -> None:
        """Flip the lowest two bits of a word, as a guest sees that has it mapped."""
        assert self.mdev.partition
        backing, at = self.mdev.partition.backing, word * WORD
        backing.write(at, bytes([backing.read(at, 1)[0] ^ 0b11]))


MAX_WORDS = 1024
"""How many words of an mdev can have flipped bits at once."""


def _places(injection: Injection, size: int) -> list[int]:
    """Numbers of the words that a fault flips in a partition of ``size`` bytes."""
    order, words = injection.order, size // WORD
    if order.address is not None:
        return [order.address // WORD]
    count = min(order.count or 1, words, MAX_WORDS + 1)
    return sorted(random.Random(order.seed or 0).sample(range(words), count))
