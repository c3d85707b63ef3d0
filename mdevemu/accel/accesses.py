"""What a guest's driver does with registers that its author should know of."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from mdevemu.layout import decoded
from mdevemu.pci.watchdog import Reading
from mdevemu.registers import RegisterMap, Slot, touched

PLACES = 256
"""How many places without a register are told apart."""

SPINS = 64
"""How many of the latest waits are kept."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a guest reached.

    Attributes:
        offset, length: bytes.
    """

    bar: int
    offset: int
    length: int
    write: bool


@dataclass(frozen=True, slots=True)
class Spin:
    """A wait for something to change.

    Attributes:
        register: its name; None if nothing has one there.
        fields: those of it that were read.
        reading: what was read, and how often so far.
    """

    register: str | None
    fields: Mapping[str, int | str]
    reading: Reading


class Accesses:
    """Places without a register that a guest has reached, and registers that it waited for.

    Attributes:
        unmodelled: how often each place was reached.
        others: how often places were reached that came after there were enough of them.
        spins: the latest waits, oldest first.
    """

    def __init__(self, maps: Mapping[int, type[RegisterMap]]) -> None:
        """``maps`` are the register maps of a device by their BAR."""
        self._maps = maps
        self.unmodelled: dict[Place, int] = {}
        self.others = 0
        self.spins: deque[Spin] = deque(maxlen=SPINS)

    def missed(self, bar: int, offset: int, length: int, write: bool) -> None:
        """The guest reached a place without a register."""
        place = Place(bar, offset, length, write)
        if place in self.unmodelled or len(self.unmodelled) < PLACES:
            self.unmodelled[place] = self.unmodelled.get(place, 0) + 1
        else:
            self.others += 1

    def spinning(self, reading: Reading) -> Spin:
        """The guest waits for a place to change; which it is."""
        kind, length = self._maps.get(reading.bar), len(reading.value)
        found = touched(kind, reading.offset, length) if kind else ()
        slot = next((slot for slot, *_ in found), None)
        spin = Spin(str(slot) if slot else None, _fields(slot, reading) if slot else {}, reading)
        self.spins.append(spin)
        return spin


def _fields(slot: Slot, reading: Reading) -> dict[str, int | str]:
    """Fields of a register, all of whose bits were read, by name; a code has its name."""
    shift = 8 * (reading.offset - slot.offset)
    value, lanes = int.from_bytes(reading.value, "little"), (1 << 8 * len(reading.value)) - 1
    value, lanes = (each << shift if shift >= 0 else each >> -shift for each in (value, lanes))
    return decoded(slot.word, value, lanes)
