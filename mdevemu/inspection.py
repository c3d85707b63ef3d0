"""What operators look into: the IOMMU's records, walks, contexts, caches and counters."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mdevemu.control import Argument, Command
from mdevemu.errors import ConfigError
from mdevemu.iommu import Access
from mdevemu.iommu.registers import COUNTERS, IommuRegisters, Mode
from mdevemu.mdev.contexts import Context, Contexts
from mdevemu.mdev.parent import Parent
from mdevemu.mdev.walks import guest_addresses, where
from mdevemu.trace import Event
from mdevemu.units import Iova

RECORDS_KEPT = 4096
"""How many fault records, and page requests, can still be shown."""

Facts = dict[str, Any]


class Records:
    """Numbered records, the latest of them, each with the mdev that it is about."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: deque[tuple[str | None, Facts]] = deque(maxlen=RECORDS_KEPT)

    def add(self, uuid: str | None, facts: Facts) -> Facts:
        """Number a record; ``uuid`` is its mdev's, as its name may be another's later."""
        self.count += 1
        numbered = {"sequence": self.count, **facts}
        self._kept.append((uuid, numbered))
        return numbered

    def since(self, sequence: int, uuid: str | None) -> list[Facts]:
        """Those after a number, of one mdev or of all."""
        return [
            facts
            for owner, facts in self._kept
            if facts["sequence"] > sequence and uuid in (None, owner)
        ]


class Inspection:
    """Answers questions about an accelerator's IOMMU, and tells of what it reports."""

    def __init__(self, parent: Parent, tell: Callable[[str, Mapping[str, object]], None]) -> None:
        """``tell`` gets the name and the facts of each event for control clients."""
        self._parent = parent
        self._tell = tell
        self._contexts = Contexts(parent.iommu, parent.host)
        self._faults = Records()
        self._page_requests = Records()
        parent.trace.listen(self._heard)

    def commands(self) -> list[Command]:
        """Commands of the control socket."""
        since, mdev = Argument("since", "int", True), Argument("mdev", optional=True)
        return [
            Command("query-faults", self._query_faults, [since, mdev]),
            Command("query-page-requests", self._query_page_requests, [since, mdev]),
            Command(
                "walk-iova",
                self._walk,
                [
                    Argument("mdev"),
                    Argument("iova", "int"),
                    Argument("pasid", "int", optional=True),
                    Argument("write", "bool", optional=True),
                ],
            ),
            Command("query-contexts", self._query_contexts, [mdev]),
            Command("query-iommu", self._query_iommu),
            Command("query-device-access", self._query_access, [Argument("mdev")]),
        ]

    # Records.

    def collect(self) -> None:
        """Take what the IOMMU reported out of its fault queue."""
        for record in self._parent.host.read_faults():
            owner = self._parent.owner(record.device_id, record.pasid)
            fault = {
                "mdev": owner and owner.name,
                "device-id": record.device_id,
                "pasid": record.pasid,
                "cause": int(record.cause),
                "cause-name": record.cause.title,
                "ttyp": int(record.kind),
                "ttyp-name": record.kind.title,
                "iova": record.iova,
                "iova-hex": hex(record.iova),
            }
            self._tell("IOMMU_FAULT", self._faults.add(owner.uuid if owner else None, fault))

    def _heard(self, event: Event) -> None:
        """Keep the page requests."""
        if event.name != "iommu.page_request":
            return
        facts = event.facts
        name, iova = facts["mdev"], facts["iova"]
        assert isinstance(iova, int)
        request = {
            "mdev": name,
            "device-id": facts["device_id"],
            "pasid": facts["pasid"],
            "iova": iova,
            "iova-hex": hex(iova),
            "read": facts["read"],
            "write": facts["write"],
            "group": facts["group"],
        }
        uuid = self._parent.find(name).uuid if isinstance(name, str) else None
        self._tell("IOMMU_PAGE_REQUEST", self._page_requests.add(uuid, request))

    def _query_faults(self, since: int = 0, mdev: str | None = None) -> list[Facts]:
        self.collect()
        return self._faults.since(since, self._uuid(mdev))

    def _query_page_requests(self, since: int = 0, mdev: str | None = None) -> list[Facts]:
        return self._page_requests.since(since, self._uuid(mdev))

    def _uuid(self, mdev: str | None) -> str | None:
        return None if mdev is None else self._parent.find(mdev).uuid

    # Translations.

    def _walk(self, mdev: str, iova: int, pasid: int | None = None, write: bool = False) -> Facts:
        if not 0 <= iova < 1 << 64:
            raise ConfigError("iova", f"{iova} (accepted: 0 to {(1 << 64) - 1:#x})")
        found = self._parent.find(mdev)
        device_id = found.space.device_id
        if pasid is None:
            pasid = found.space.pasid
        elif pasid != found.space.pasid and found.type.attach != "rid":
            raise ConfigError("pasid", f"{mdev!r} has PASID {found.space.pasid} and no other")
        elif not 0 <= pasid < 1 << 20:
            raise ConfigError("pasid", f"{pasid} (accepted: 0 to {(1 << 20) - 1})")
        access = Access.WRITE if write else Access.READ
        walk = self._parent.host.walk(device_id, pasid, Iova(iova), access)
        return {
            "mdev": found.name,
            "device-id": device_id,
            "pasid": pasid,
            "iova": iova,
            "access": "write" if write else "read",
            "steps": [
                asdict(step) | {"gpa": gpa}
                for step, gpa in zip(walk.steps, guest_addresses(walk, iova), strict=True)
            ],
            "hpa": walk.hpa,
            "size": walk.size,
            "cause": int(walk.fault.cause) if walk.fault else None,
            "cause-name": walk.fault.cause.title if walk.fault else None,
            "where": where(walk),
            "cached": walk.cached,
            "outdated": list(walk.outdated),
            "stale": walk.stale,
        }

    # Contexts, caches, counters.

    def _query_contexts(self, mdev: str | None = None) -> Facts:
        chosen = self._uuid(mdev)
        shown = []
        for context in self._contexts.list():
            owner = self._parent.owner(context.device_id, context.pasid)
            if chosen is None or (owner is not None and owner.uuid == chosen):
                name = owner.name if owner else None
                shown.append(_context(context, name, self._mode(context)))
        return {"contexts": shown, "complete": self._contexts.complete}

    # Registers.

    def _query_access(self, mdev: str) -> Facts:
        found = self._parent.find(mdev)
        accesses = found.personality.accesses
        return {
            "mdev": found.name,
            "unmodelled": [
                asdict(place) | {"count": count} for place, count in accesses.unmodelled.items()
            ],
            "unmodelled-others": accesses.others,
            "spins": [
                {
                    "bar": spin.reading.bar,
                    "offset": spin.reading.offset,
                    "length": len(spin.reading.value),
                    "register": spin.register,
                    "value": int.from_bytes(spin.reading.value, "little"),
                    "fields": dict(spin.fields),
                    "reads": spin.reading.count,
                }
                for spin in accesses.spins
            ],
        }

    def _mode(self, context: Context) -> str:
        """How the mdevs behind a context sit in the IOMMU."""
        return "pasid" if context.device_id == self._parent.spec.device_id else "rid"

    def _query_iommu(self) -> Facts:
        self.collect()
        iommu, host = self._parent.iommu, self._parent.host
        return {
            "halted": host.halted,
            "mode": Mode(iommu.regs.ddtp.iommu_mode).name.lower().replace("_", "-"),
            "faults": self._faults.count,
            "fault-queue-overflows": host.lost_faults,
            "page-requests": self._page_requests.count,
            "page-request-queue-overflows": host.lost_page_requests,
            "caches": [
                _cache("device contexts", len(iommu.devices.entries), iommu.devices.room),
                _cache("process contexts", len(iommu.processes.entries), iommu.processes.room),
                _cache("translations", len(iommu.iotlb), iommu.iotlb.room),
            ],
            "monitor": self._monitor(),
        }

    def _monitor(self) -> Facts | None:
        """What the performance counters say; None if the IOMMU has none."""
        iommu, place = self._parent.iommu, IommuRegisters

        def read(offset: int) -> int:
            return int.from_bytes(iommu.read_register(offset, 8), "little")

        if not iommu.regs.capabilities.hpm:
            return None
        cycles = read(place.iohpmcycles.offset)
        chosen = []
        for number in range(COUNTERS):
            selector = iommu.regs.iohpmevt[number]
            if selector.event:
                value = read(place.iohpmctr.offset + 8 * number)
                chosen.append({"number": number + 1, "event": selector.event, "value": value})
        return {"cycles": cycles & (1 << 63) - 1, "counters": chosen}


def _cache(name: str, entries: int, room: int) -> Facts:
    return {"name": name, "entries": entries, "size": room}


def _context(context: Context, mdev: str | None, attach: str) -> Facts:
    facts = {name.replace("_", "-"): value for name, value in asdict(context).items()}
    return {**facts, "mdev": mdev, "attach": attach, "valid": context.address is not None}
