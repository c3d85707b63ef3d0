"""A guest's accesses to the registers of one mdev, by name."""

from mdevemu.following.kinds import READ, WRITE
from mdevemu.layout import decoded
from mdevemu.mdev.parent import Mdev
from mdevemu.pci.function import CONFIG
from mdevemu.registers import NEAR, RegisterMap, slots, touched
from mdevemu.trace import Trace


class Registers:
    """Makes an event of each register that a guest reads or writes.

    Attributes:
        names: of every register.
    """

    def __init__(self, mdev: Mdev, trace: Trace) -> None:
        self._mdev = mdev.name
        self._trace = trace
        self._maps: dict[int, list[type[RegisterMap]]] = {}
        interface = type(mdev.personality).interface
        own = {**interface.maps, **({CONFIG: interface.config} if interface.config else {})}
        for maps in (own, mdev.function.maps):
            for region, kind in maps.items():
                self._maps.setdefault(region, []).append(kind)
        every = [kind for kinds in self._maps.values() for kind in kinds]
        self.names = frozenset(str(slot) for kind in every for slot in slots(kind))

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """A guest accessed a region; see ``function.Observer``."""
        event = WRITE if write else READ
        if not self._trace.wants(event):
            return
        value, length = int.from_bytes(data, "little"), len(data)
        where: dict[str, object] = {
            "mdev": self._mdev,
            "region": "config" if region == CONFIG else f"bar{region}",
            "offset": offset,
            "length": length,
        }
        found = [
            (slot, value >> at << skip & lanes, lanes)
            for kind in self._maps.get(region, ())
            for slot, lanes, skip, at in touched(kind, offset, length)
        ]
        for slot, part, lanes in found:
            fields = decoded(slot.word, part, lanes)
            self._trace.emit(event, **where, register=str(slot), value=part, fields=fields)
        if not found:
            shown = {"value": value} if length <= NEAR else {}
            self._trace.emit(event, **where, register=None, **shown)
