"""accel-config's files: groups, work queues and engines of an accelerator, as it saves and loads.

What we have nothing like, batches, drivers, faults that block, is saved as the constant that it
is here and not looked at when a file is loaded, as accel-config does with keys it does not know.

Source: intel/idxd-config, accel-config-save-config(1), accel-config-load-config(1)
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hostctl.tables import Table, choose_name
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.profile import AcceleratorSpec, GroupSpec, parse
from mdevemu.units import MIB

OPERATIONS = {
    "dsa": ("nop", "copy", "fill", "compare", "crc32c"),
    "iax": ("nop", "deflate", "inflate", "crc32c"),
}
"""What an engine of a kind of device does here."""

_DEVICE = re.compile(r"(dsa|iax)(\d{1,3})")
_MAX_BYTES = 1 << 20
_MAX_TRANSFER = 16 * MIB  # of one command of the native device
_READ_BUFFERS = 96  # of a DSA of the first kind, which a file does not say
_OLD = {
    "read_buffers_allowed": "tokens_allowed",
    "read_buffers_reserved": "tokens_reserved",
    "use_read_buffer_limit": "use_token_limit",
    "read_buffer_limit": "token_limit",
    "max_read_buffers": "max_tokens",
}
"""What keys were called before accel-config 3.5."""


def save(spec: AcceleratorSpec, device: str = "dsa0") -> str:
    """The file that accel-config would save for a device set up like this accelerator.

    Its groups, queues and engines are numbered as idxd numbers them, in the order that they
    have; names of the profile's own become labels.

    Raises:
        ConfigError: it has no groups, or ``device`` is no name of one.
    """
    number = _kind(device)[1]
    if not spec.groups:
        raise ConfigError(spec.name, "has no groups, so there is nothing to save")
    ids = {group.name: at for at, group in enumerate(spec.groups)}
    engines = {engine.name: f"engine{number}.{at}" for at, engine in enumerate(spec.engines)}
    queues: dict[str, list[object]] = {name: [] for name in ids}
    for at, queue in enumerate(spec.work_queues.values()):
        name = f"wq{number}.{at}"
        queues[queue.group].append(
            {
                "dev": name,
                "mode": "dedicated" if queue.dedicated else "shared",
                "size": queue.size,
                "group_id": ids[queue.group],
                "priority": queue.priority,
                "block_on_fault": 0,
                "max_batch_size": 1,
                "max_transfer_size": _MAX_TRANSFER,
                "type": "user",
                "name": queue.label or ("" if queue.name == name else queue.name),
                "driver_name": "user",
                "threshold": queue.threshold or 0,
                "ats_disable": 0,
            }
        )
    groups: list[object] = []
    for group in spec.groups:
        facts: dict[str, object] = {"dev": f"group{number}.{ids[group.name]}"}
        if device.startswith("dsa"):
            facts["read_buffers_reserved"] = group.reserved
            facts["use_read_buffer_limit"] = int(group.limited)
            facts["read_buffers_allowed"] = _allowed(spec, group)
        if queues[group.name]:
            facts["grouped_workqueues"] = queues[group.name]
        members = [{"dev": engines[e], "group_id": ids[group.name]} for e in group.engines]
        groups.append(facts | {"grouped_engines": members})
    whole: dict[str, object] = {"dev": device}
    if device.startswith("dsa"):
        whole["read_buffer_limit"] = spec.read_buffer_limit or 0
    whole["groups"] = groups
    grouped = {name for group in spec.groups for name in group.engines}
    if left := [{"dev": dev} for name, dev in engines.items() if name not in grouped]:
        whole["ungrouped_engines"] = left
    # As json-c writes: two spaces, none behind a colon, slashes escaped.
    return json.dumps([whole], indent=2, separators=(",", ":")).replace("/", "\\/") + "\n"


def _allowed(spec: AcceleratorSpec, group: GroupSpec) -> int:
    """How many commands of a group can be under way; 0 for any number."""
    if spec.read_buffers is None:
        return group.read_buffers or 0
    others = sum(each.reserved for each in spec.groups if each is not group)
    return min(group.read_buffers or spec.read_buffers, spec.read_buffers - others)


def load(file: Path, device: str | None, name: str) -> str:
    """The text of a profile called ``name`` that is set up as a device in accel-config's file.

    Raises:
        ConfigError: the file cannot be read, or something in it cannot be used.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(str(file), f"has more than {_MAX_BYTES} bytes")
        found = json.loads(data)
    except OSError as error:
        raise ConfigError(str(file), error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(file), f"is not JSON: {error}") from None
    profile = _profile(_choose(file.name, found, device), name)
    parse(file.name, profile)
    return _toml(profile)


def _kind(device: str) -> tuple[str, str]:
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise ConfigError("device", f"{shown(device)} (accepted: as dsa0 or iax1)")
    return match[1], match[2]


def _choose(where: str, found: object, device: str | None) -> Table:
    if not isinstance(found, list) or not found:
        raise ConfigError(where, "is not a list of devices")
    devices: dict[str, Table] = {}
    for at, each in enumerate(found):
        table = Table(f"{where}: [{at}]", each)
        devices[table.text("dev")] = table
    return devices[choose_name("--device", "device", device, devices)]


def _profile(device: Table, name: str) -> dict[str, Any]:
    """The tables of a profile."""
    kind = _kind(device.text("dev"))[0]
    engines: list[dict[str, object]] = []
    groups: list[dict[str, object]] = []
    queues: list[dict[str, object]] = []
    for group in device.tables("groups"):
        called = group.text("dev")
        members = [each.text("dev") for each in _list(group, "grouped_engines")]
        taken = [_queue(each, called) for each in _list(group, "grouped_workqueues")]
        if taken and not members:
            raise group.refuse("grouped_engines", "has none for its work queues")
        if not members:
            continue  # a group that is not in use
        engines += ({"name": each, "operations": list(OPERATIONS[kind])} for each in members)
        groups.append({"name": called, "engines": members, **_bounds(group)})
        queues += taken
    for each in _list(device, "ungrouped_engines"):
        engines.append({"name": each.text("dev"), "operations": list(OPERATIONS[kind])})
    types: list[dict[str, object]] = []
    for mode, short in (("dedicated", "1dwq"), ("shared", "1swq")):
        if names := [each["name"] for each in queues if each["mode"] == mode]:
            types.append({"name": short, "queues": 1, "hbm": 0, "work-queues": names})
    if not types:
        raise device.refuse("groups", "have no work queue")
    head = {"name": name, "description": f"as {device.text('dev')} in accel-config", "hbm": 0}
    head |= _read_buffers(device, groups)
    return {"accelerator": head, "engine": engines, "group": groups, "queue": queues, "type": types}


def _bounds(group: Table) -> dict[str, object]:
    """What a group says of read buffers, as keys of a profile's group."""
    found: dict[str, object] = {}
    if allowed := _old_or_new(group, "read_buffers_allowed"):
        found["read-buffers"] = allowed
    if reserved := _old_or_new(group, "read_buffers_reserved"):
        found["read-buffers-reserved"] = reserved
    if _old_or_new(group, "use_read_buffer_limit", 1):
        found["use-read-buffer-limit"] = True
    return found


def _read_buffers(device: Table, groups: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Read buffers of the whole device, if it matters how many there are, and their limit."""
    found: dict[str, object] = {}
    reserved = [each.get("read-buffers-reserved", 0) for each in groups]
    total = _old_or_new(device, "max_read_buffers")
    if any(reserved) and not total:
        shared = (
            each.get("read-buffers", 0) - mine for each, mine in zip(groups, reserved, strict=True)
        )
        total = max(_READ_BUFFERS, sum(reserved) + max(1, *shared))
    if total:
        found["read-buffers"] = total
    if limit := _old_or_new(device, "read_buffer_limit"):
        found["read-buffer-limit"] = limit
    return found


def _old_or_new(table: Table, key: str, most: int | None = None) -> int:
    """The number of a key, by whichever name it has; 0 if it has none."""
    return next((table.whole(each, 0, most) for each in (key, _OLD[key]) if table.has(each)), 0)


def _list(table: Table, key: str) -> list[Table]:
    return list(table.tables(key)) if table.has(key) else []


def _queue(queue: Table, group: str) -> dict[str, object]:
    mode = queue.text("mode")
    if mode not in ("dedicated", "shared"):
        raise queue.refuse("mode", unknown("mode", mode, ("dedicated", "shared")))
    found: dict[str, object] = {"name": queue.text("dev"), "group": group, "mode": mode}
    if label := queue.text("name", ""):
        found["label"] = label
    found["size"] = queue.whole("size", 1)
    if mode == "shared" and queue.has("threshold"):
        found["threshold"] = queue.whole("threshold", 1)
    return found | {"priority": queue.whole("priority", 1)}


def _toml(profile: Mapping[str, Any]) -> str:
    """A profile's text: its tables hold texts, whole numbers, truths and lists of texts."""
    blocks = []
    for kind, tables in profile.items():
        for table in tables if isinstance(tables, list) else [tables]:
            title = f"[[{kind}]]" if isinstance(tables, list) else f"[{kind}]"
            # What JSON writes of these is TOML as well, but for DEL, which is in no label.
            lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
            blocks.append("\n".join([title, *lines, ""]))
    return "\n".join(blocks)
