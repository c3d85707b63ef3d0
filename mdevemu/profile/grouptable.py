"""Tables [[group]] and [[queue]] of a profile: who serves which commands, and how many at a time.

Spec: Linux, Documentation/ABI/stable/sysfs-driver-dma-idxd.
Source of the limits of read buffers: intel/idxd-config, accel-config-config-group(1).
"""

from collections.abc import Mapping, Sequence

from mdevemu.profile.spec import EngineSpec, GroupSpec, WorkQueueSpec
from mdevemu.profile.table import Table, distinct

MAX_ENTRIES = 1 << 16
MAX_PRIORITY = 15
MODES = {"dedicated": "one slice at a time", "shared": "any number of slices"}

ALLOWED, RESERVED, LIMITED = "read-buffers", "read-buffers-reserved", "use-read-buffer-limit"
TOTAL, LIMIT = "read-buffers", "read-buffer-limit"
"""Keys of a group, and of the accelerator."""


def read_groups(
    tables: Sequence[Table],
    engines: Mapping[str, EngineSpec],
    total: int | None,
    limit: int | None,
) -> tuple[GroupSpec, ...]:
    """The groups; ``total`` and ``limit`` are the accelerator's read buffers and their limit.

    Raises:
        ConfigError: the first thing in one that cannot be used.
    """
    groups = [_group(each, engines, total, limit) for each in tables]
    distinct(tables, (group.name for group in groups))
    _in_one_group(tables, groups)
    pairs = list(zip(tables, groups, strict=True))
    if limit is not None:
        _shared(LIMIT, limit, [(table, group) for table, group in pairs if group.limited])
    if total is not None:
        shared = _shared(TOTAL, total, pairs)
        for table, group in pairs:
            most = group.reserved + shared
            if group.read_buffers is not None and group.read_buffers > most:
                left = f"{group.read_buffers} with {shared} of {total} that no group has reserved"
                raise table.wrong(ALLOWED, f"{left} (accepted: up to {most})")
    return tuple(groups)


def _group(
    table: Table, engines: Mapping[str, EngineSpec], total: int | None, limit: int | None
) -> GroupSpec:
    """One group, by itself."""
    for key, most, needed in ((RESERVED, total, TOTAL), (LIMITED, limit, LIMIT)):
        if table.has(key) and most is None:
            raise table.wrong(key, f"is for accelerators with {needed!r}")
    allowed = table.optional_number(ALLOWED, 1, MAX_ENTRIES)
    return GroupSpec(
        name=table.name("name"),
        engines=table.choices("engines", engines),
        read_buffers=allowed,
        reserved=table.number(RESERVED, 0, allowed or total or 0, default=0),
        limited=table.truth(LIMITED, False),
    )


def _shared(what: str, places: int, groups: Sequence[tuple[Table, GroupSpec]]) -> int:
    """How many of the places no group has reserved; one that has none needs one of those."""
    shared = places
    for table, group in groups:
        shared -= group.reserved
        if shared < 0:
            raise table.wrong(RESERVED, f"all groups reserve {places - shared} of {what} {places}")
    for table, group in groups:
        if not group.reserved and not shared:
            raise table.wrong(RESERVED, f"0, and others have reserved all of {what} {places}")
    return shared


def _in_one_group(tables: Sequence[Table], groups: Sequence[GroupSpec]) -> None:
    taken: dict[str, str] = {}
    for table, group in zip(tables, groups, strict=True):
        for engine in group.engines:
            if engine in taken:
                raise table.wrong("engines", f"{engine!r} is in group {taken[engine]!r}")
            taken[engine] = group.name


def read_queues(
    head: Table, tables: Sequence[Table], groups: Sequence[GroupSpec]
) -> dict[str, WorkQueueSpec]:
    """The work queues; ``head`` is the accelerator's own table.

    Raises:
        ConfigError: the first thing in one that cannot be used.
    """
    most = head.number("queue-entries", 0, MAX_ENTRIES, default=MAX_ENTRIES)
    known = {group.name: group for group in groups}
    queues = []
    for table in tables:
        dedicated = table.choice("mode", MODES, None) == "dedicated"
        size = table.number("size", 1, most)
        if dedicated and table.has("threshold"):
            raise table.wrong("threshold", "is for queues with mode = 'shared'")
        queues.append(
            WorkQueueSpec(
                name=table.name("name"),
                group=table.choice("group", known, None),
                dedicated=dedicated,
                size=size,
                threshold=None if dedicated else table.number("threshold", 1, size, default=size),
                priority=table.number("priority", 1, MAX_PRIORITY, default=1),
                label=table.text("label", ""),
            )
        )
        if sum(queue.size for queue in queues) > most:
            raise table.wrong("size", f"all queues together have at most {most} entries")
    distinct(tables, (queue.name for queue in queues))
    return {queue.name: queue for queue in queues}
