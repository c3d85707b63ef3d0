"""What drivers have tried of devices: files of it, their sum, and what is missing."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hostctl.tables import Refusal, Table
from mdevemu.errors import ConfigError

SCHEMA = "mdevemu.coverage/1"

Counts = dict[str, int]


@dataclass(slots=True)
class Field:
    """Writes of one field: all zeros, anything else, and each code if it has names."""

    access: str
    zero: int = 0
    nonzero: int = 0
    codes: Counts = field(default_factory=dict)


@dataclass(slots=True)
class Register:
    """Accesses of one register, or of all of an array; its fields are those that can be written."""

    readable: bool
    reads: int = 0
    writes: int = 0
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass(slots=True)
class Device:
    """What was tried of one personality; all that it declares is there, if only with 0."""

    registers: dict[str, Register] = field(default_factory=dict)
    operations: Counts = field(default_factory=dict)
    statuses: Counts = field(default_factory=dict)
    faults: Counts = field(default_factory=dict)
    iommu_faults: Counts = field(default_factory=dict)


Coverage = dict[str, Device]


@dataclass(frozen=True, slots=True)
class Row:
    """How much of one kind of thing was tried.

    Attributes:
        never: names of those that were not.
    """

    device: str
    what: str
    tried: int
    all: int
    never: tuple[str, ...]


def read(path: Path) -> Coverage:
    """Read a file.

    Raises:
        ConfigError: it cannot be read, or is no coverage.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON: {error}") from None
    return parse(str(path), found)


def parse(where: str, found: object, refusal: Refusal = ConfigError) -> Coverage:
    """Check coverage as an emulator or a file has it; ``where`` names it in errors.

    Raises:
        MdevError: what ``refusal`` makes of the first thing in it that cannot be used.
    """
    table = Table(where, found, refusal)
    if table.raw("schema") != SCHEMA:
        raise table.refuse("schema", f"is {table.raw('schema')!r} (accepted: {SCHEMA!r})")
    devices = table.table("devices")
    return {name: _device(devices.table(name)) for name in devices}


def _device(table: Table) -> Device:
    registers = table.table("registers")
    return Device(
        registers={name: _register(registers.table(name)) for name in registers},
        operations=_counts(table.table("operations")),
        statuses=_counts(table.table("statuses")),
        faults=_counts(table.table("faults")),
        iommu_faults=_counts(table.table("iommu-faults")),
    )


def _register(table: Table) -> Register:
    fields = table.table("fields")
    return Register(
        readable=table.truth("readable"),
        reads=table.whole("reads", 0),
        writes=table.whole("writes", 0),
        fields={name: _field(fields.table(name)) for name in fields},
    )


def _field(table: Table) -> Field:
    return Field(
        access=table.text("access"),
        zero=table.whole("zero", 0),
        nonzero=table.whole("nonzero", 0),
        codes=_counts(table.table("codes")),
    )


def _counts(table: Table) -> Counts:
    return {name: table.whole(name, 0) for name in table}


def record(coverage: Coverage) -> dict[str, object]:
    """What a file holds."""
    devices = {
        name: {key.replace("_", "-"): each for key, each in asdict(device).items()}
        for name, device in coverage.items()
    }
    return {"schema": SCHEMA, "devices": devices}


def write(path: Path, coverage: Coverage) -> None:
    """Write a file: whole, or not at all.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(record(coverage), indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ConfigError(str(path), error.strerror or str(error)) from None


def merged(all_of: Iterable[Coverage]) -> Coverage:
    """The sum of several runs."""
    total: Coverage = {}
    for coverage in all_of:
        for name, device in coverage.items():
            _add_device(total.setdefault(name, Device()), device)
    return total


def _add_device(total: Device, more: Device) -> None:
    for name, register in more.registers.items():
        sum_of = total.registers.setdefault(name, Register(register.readable))
        sum_of.reads += register.reads
        sum_of.writes += register.writes
        for each, found in register.fields.items():
            place = sum_of.fields.setdefault(each, Field(found.access))
            place.zero += found.zero
            place.nonzero += found.nonzero
            _add(place.codes, found.codes)
    _add(total.operations, more.operations)
    _add(total.statuses, more.statuses)
    _add(total.faults, more.faults)
    _add(total.iommu_faults, more.iommu_faults)


def _add(total: Counts, more: Counts) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def summary(coverage: Coverage) -> list[Row]:
    """How much was tried of each kind of thing that a device has."""
    return [
        Row(name, what, sum(map(bool, counts.values())), len(counts), _never(counts))
        for name, device in coverage.items()
        for what, counts in _kinds(device)
        if counts
    ]


def _kinds(device: Device) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Everything that can be tried, by its kind and name, with how often it was."""
    registers = device.registers.items()
    yield "registers read", {name: each.reads for name, each in registers if each.readable}
    yield "registers written", {name: each.writes for name, each in registers if each.fields}
    fields = {
        f"{name}.{at}": found for name, each in registers for at, found in each.fields.items()
    }
    yield "fields written 0", {name: found.zero for name, found in fields.items()}
    yield "fields written 1", {name: found.nonzero for name, found in fields.items()}
    codes = {
        f"{name}={code}": count
        for name, found in fields.items()
        for code, count in found.codes.items()
    }
    yield "codes written", codes
    yield "operations", device.operations
    yield "statuses", device.statuses
    yield "faults", device.faults
    yield "IOMMU faults", device.iommu_faults


def _never(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(name for name, count in counts.items() if not count)
