"""A profile's file: what the operator wrote, checked whole before anything is made.

docs/slices.md lists its tables and keys.
"""

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdevemu.accel.hbm import GRANULE
from mdevemu.accel.operations import OPERATIONS
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.profile.grouptable import (
    ALLOWED,
    LIMIT,
    LIMITED,
    MAX_ENTRIES,
    RESERVED,
    TOTAL,
    read_groups,
    read_queues,
)
from mdevemu.profile.lines import Lines
from mdevemu.profile.spec import (
    AcceleratorSpec,
    ChainSpec,
    EngineSpec,
    LinkSpec,
    StackSpec,
)
from mdevemu.profile.table import MAX_HBM, File, Table, distinct
from mdevemu.profile.typetable import read_type
from mdevemu.units import GIB

MAX_SHARES = 64
MAX_NODE = 1023  # Linux, MAX_NUMNODES with CONFIG_NODES_SHIFT=10
MAX_PASIDS = 1 << 20
DEFAULT_ADDRESS = "0000:01:00.0"
DEFAULT_ROOT = "pci0000:00"
ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
ROOT = re.compile(r"pci[0-9a-f]{4}:[0-9a-f]{2}")

ACCELERATOR_KEYS = frozenset(
    {
        "name",
        "description",
        "address",
        "root",
        "numa-node",
        "hbm",
        "queues",
        "pasids",
        "compute-shares",
        "memory-shares",
        "queue-entries",
        TOTAL,
        LIMIT,
        "coverage",
    }
)
TABLE_KEYS = {
    "engine": frozenset({"name", "operations"}),
    "hbm": frozenset({"name", "size", "engines"}),
    "link": frozenset({"from", "to"}),
    "chain": frozenset({"name", "engines"}),
    "group": frozenset({"name", "engines", ALLOWED, RESERVED, LIMITED}),
    "queue": frozenset({"name", "label", "group", "mode", "size", "threshold", "priority"}),
    "type": frozenset(
        {
            "name",
            "description",
            "personality",
            "hbm",
            "weight",
            "queues",
            "instances",
            "attach",
            "pasid-bits",
            "max-transfer",
            "interrupts",
            "compute",
            "starts",
            "shares",
            "engines",
            "work-queues",
        }
    ),
}
NEEDED = ("engine", "type")
ROOT_KEYS = frozenset({"accelerator", *TABLE_KEYS})


def load(path: Path) -> AcceleratorSpec:
    """Read a profile.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or out of all proportion
        raise ConfigError(str(path), str(error)) from None
    # Lines are counted only for a refusal.
    return parse_file(File(path.name, lambda key: Lines(text).of(key)), given)


def parse(where: str, given: Mapping[str, Any]) -> AcceleratorSpec:
    """Check a whole profile that is in no file; ``where`` names it in errors.

    Raises:
        ConfigError: the first thing in it that cannot be used.
    """
    return parse_file(File(where), given)


def parse_file(file: File, given: Mapping[str, Any]) -> AcceleratorSpec:
    """Check a whole profile.

    Raises:
        ConfigError: the first thing in it that cannot be used.
    """
    for key in given:
        if key not in ROOT_KEYS:
            raise file.refuse((key,), "", unknown("table", key, ROOT_KEYS))
    head = given.get("accelerator")
    if not isinstance(head, dict):
        raise file.refuse((), "", "the table [accelerator] is missing")
    table = Table(file, ("accelerator",), head, ACCELERATOR_KEYS)
    tables = {kind: _tables(file, given, kind) for kind in TABLE_KEYS}
    engines = [
        EngineSpec(each.name("name"), each.choices("operations", OPERATIONS))
        for each in tables["engine"]
    ]
    names = {engine.name: engine for engine in engines}
    distinct(tables["engine"], (engine.name for engine in engines))
    stacks = _stacks(table, tables["hbm"], tuple(names))
    read_buffers = table.optional_number(TOTAL, 1, MAX_ENTRIES)
    limit = table.optional_number(LIMIT, 1, read_buffers or MAX_ENTRIES)
    groups = read_groups(tables["group"], names, read_buffers, limit)
    spec = AcceleratorSpec(
        name=table.name("name"),
        description=table.text("description", ""),
        address=_matching(table, "address", ADDRESS, DEFAULT_ADDRESS),
        root=_matching(table, "root", ROOT, DEFAULT_ROOT),
        numa_node=table.number("numa-node", 0, MAX_NODE, default=0),
        stacks=stacks,
        engines=tuple(engines),
        links=tuple(_link(each, names) for each in tables["link"]),
        chains=tuple(
            ChainSpec(each.name("name"), each.choices("engines", names)) for each in tables["chain"]
        ),
        groups=groups,
        work_queues=read_queues(table, tables["queue"], groups),
        types=(),
        queues=table.optional_number("queues", 1, MAX_ENTRIES),
        pasids=table.optional_number("pasids", 1, MAX_PASIDS),
        compute_shares=table.number("compute-shares", 0, MAX_SHARES, default=0),
        memory_shares=table.number("memory-shares", 0, MAX_SHARES, default=0),
        read_buffers=read_buffers,
        read_buffer_limit=limit,
        queue_entries=table.number("queue-entries", 0, MAX_ENTRIES, default=MAX_ENTRIES),
        coverage=table.truth("coverage", False),
    )
    if spec.memory_shares and spec.hbm % (spec.memory_shares * GRANULE):
        shares = spec.memory_shares
        raise table.wrong("memory-shares", f"{spec.hbm} bytes of HBM are not {shares} equal parts")
    distinct(tables["chain"], (chain.name for chain in spec.chains))
    for chain, each in zip(spec.chains, tables["chain"], strict=True):
        if len(chain.engines) < 2 or not spec.linked(chain.engines):
            wrong = "at least two engines, each with a [[link]] to the next"
            raise each.wrong("engines", f"{shown(list(chain.engines))} (accepted: {wrong})")
    return _with_types(spec, tables["type"])


def _with_types(spec: AcceleratorSpec, tables: list[Table]) -> AcceleratorSpec:
    types = [read_type(each, spec) for each in tables]
    distinct(tables, (kind.name for kind in types))
    return dataclasses.replace(spec, types=tuple(types))


def _tables(file: File, given: Mapping[str, Any], kind: str) -> list[Table]:
    """All tables of a kind; at least one of those that are needed."""
    found = given.get(kind, [])
    right = isinstance(found, list) and all(isinstance(each, dict) for each in found)
    if kind in NEEDED and not (found and right):
        raise file.refuse((kind,), "", f"at least one table [[{kind}]] is needed")
    if not right:
        raise file.refuse((kind,), "", f"{kind} is a list of tables [[{kind}]]")
    return [Table(file, (kind, at), each, TABLE_KEYS[kind]) for at, each in enumerate(found)]


def _matching(table: Table, key: str, form: re.Pattern[str], default: str) -> str:
    value = table.text(key, default)
    if not form.fullmatch(value):
        raise table.wrong(key, f"{shown(value)} (accepted: as {default!r})")
    return value


def _stacks(table: Table, tables: list[Table], engines: tuple[str, ...]) -> tuple[StackSpec, ...]:
    """The stacks, or one that every engine shares."""
    if not tables:
        size = table.size("hbm")
        return (StackSpec("hbm0", 0, size, engines),) if size else ()
    if table.has("hbm"):
        raise table.wrong("hbm", "is for profiles without tables [[hbm]]")
    sizes = [each.size("size") for each in tables]
    bases = list(itertools.accumulate(sizes, initial=0))
    known = dict.fromkeys(engines)
    stacks = tuple(
        StackSpec(each.name("name"), base, size, each.choices("engines", known))
        for each, base, size in zip(tables, bases, sizes, strict=False)
    )
    distinct(tables, (stack.name for stack in stacks))
    for each, stack in zip(tables, stacks, strict=True):
        if not stack.size:
            raise each.wrong("size", "0 (accepted: 2 MiB or more)")
        if stack.base + stack.size > MAX_HBM:
            raise each.wrong("size", f"all stacks together have at most {MAX_HBM // GIB} GiB")
    return stacks


def _link(table: Table, engines: Mapping[str, EngineSpec]) -> LinkSpec:
    link = LinkSpec(table.choice("from", engines, None), table.choice("to", engines, None))
    if link.source == link.target:
        raise table.wrong("to", f"{link.target!r} is where the link begins")
    return link
