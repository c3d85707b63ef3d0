"""The accelerator's file: what the operator wrote, checked whole before anything is made.

[accelerator]
name = "demo"
hbm = "256MiB"

[[engine]]
name = "dma0"
operations = ["copy", "fill"]

[[type]]
name = "half"
hbm = "128MiB"
weight = 1
queues = 4
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdevemu.accel.hbm import GRANULE
from mdevemu.accel.operations import OPERATIONS
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.mdev.types import MdevType
from mdevemu.pci.messages import MessageKind
from mdevemu.personalities import registry
from mdevemu.personalities.native.layout import MAX_QUEUES
from mdevemu.units import GIB, KIB, MIB

SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
SIZE = re.compile(rf"(?P<number>[0-9]{{1,20}}) ?(?P<unit>{'|'.join(SIZES)})")
MAX_HBM = 64 * GIB
MAX_WEIGHT = 1000
MAX_INSTANCES = 4096
PASID_BITS = 8
INTERRUPTS = {"msix": MessageKind.MSIX, "msi": MessageKind.MSI}
ATTACH_MODES = {"pasid": "a PASID of the accelerator", "rid": "a device id of its own"}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: its name and the names of the operations it does."""

    name: str
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceleratorSpec:
    """A whole accelerator.

    Attributes:
        device_id: its requester id on the bus.
        hbm: bytes.
        coverage: what drivers try of it is collected from the start.
    """

    name: str
    device_id: int
    hbm: int
    engines: tuple[EngineSpec, ...]
    types: tuple[MdevType, ...]
    coverage: bool = False


class Table:
    """One table of the file, taken apart key by key; every refusal names file, table and key."""

    def __init__(self, where: str, given: Mapping[str, Any], accepted: frozenset[str]) -> None:
        self._where = where
        self._given = given
        for key in given:
            if key not in accepted:
                raise ConfigError(where, unknown("key", key, accepted))

    def text(self, key: str, default: str | None = None) -> str:
        """A string that is not empty."""
        value = self._get(key, default)
        if not isinstance(value, str) or (not value and default is None):
            raise self.wrong(key, f"{shown(value)} is not a text")
        return value

    def name(self, key: str) -> str:
        """A name: letters, digits, '-', '_' and '.'."""
        value = self.text(key)
        if not is_name(value):
            raise self.wrong(key, f"{shown(value)} (accepted: {NAME_CHARACTERS})")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, f"{shown(value)} (accepted: a whole number from {low} to {high})")
        return value

    def size(self, key: str, high: int, default: int | None = None) -> int:
        """Bytes, written as a number or as "64MiB"; a multiple of 2 MiB."""
        accepted = f"a multiple of 2 MiB up to {high // GIB} GiB, as '64MiB'"
        value = self._bytes(key, default, accepted)
        if not 0 <= value <= high or value % GRANULE:
            raise self._not_accepted(key, accepted)
        return value

    def power(self, key: str, sizes: Sequence[int]) -> int:
        """Bytes, written as a number or as "64KiB"; one of ``sizes``, all powers of two."""
        accepted = f"a power of two from {sizes[0]} to {sizes[-1]} bytes, as '64KiB'"
        value = self._bytes(key, None, accepted)
        if value not in sizes:
            raise self._not_accepted(key, accepted)
        return value

    def _bytes(self, key: str, default: int | None, accepted: str) -> int:
        value = self._get(key, default)
        found = SIZE.fullmatch(value) if isinstance(value, str) else None
        if found:
            value = int(found["number"]) * SIZES[found["unit"]]
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._not_accepted(key, accepted)
        return value

    def _not_accepted(self, key: str, accepted: str) -> ConfigError:
        return self.wrong(key, f"{shown(self._given[key])} (accepted: {accepted})")

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{shown(value)} (accepted: true, false)")
        return value

    def choice(self, key: str, accepted: Mapping[str, Any], default: str) -> str:
        """One of the accepted names."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in accepted:
            raise self.wrong(key, unknown("value", value, accepted))
        return value

    def choices(self, key: str, accepted: Mapping[str, Any]) -> tuple[str, ...]:
        """A list of accepted names, not empty."""
        value = self._get(key, None)
        if not isinstance(value, list) or not value:
            raise self.wrong(
                key, f"{shown(value)} (accepted: a list of {', '.join(sorted(accepted))})"
            )
        for each in value:
            if not isinstance(each, str) or each not in accepted:
                raise self.wrong(key, unknown("value", each, accepted))
        return tuple(value)

    def has(self, key: str) -> bool:
        """The operator gave this key."""
        return key in self._given

    def wrong(self, key: str, what: str) -> ConfigError:
        """A refusal of one key's value."""
        return ConfigError(f"{self._where}: {key}", what)

    def _get(self, key: str, default: Any) -> Any:  # noqa: ANN401 (what TOML can hold)
        if key in self._given:
            return self._given[key]
        if default is None:
            raise self.wrong(key, "is missing")
        return default


NAME_CHARACTERS = "letters, digits, '-', '_', '.'"


def is_name(text: str) -> bool:
    """It has only characters that a name may have, and something to pronounce."""
    return text.replace("-", "").replace("_", "").replace(".", "").isalnum()


ROOT_KEYS = frozenset({"accelerator", "engine", "type"})
ACCELERATOR_KEYS = frozenset({"name", "device-id", "hbm", "coverage"})
ENGINE_KEYS = frozenset({"name", "operations"})
TYPE_KEYS = frozenset(
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
    }
)


def load(path: Path) -> AcceleratorSpec:
    """Read an accelerator's file.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used.
    """
    try:
        return parse(path.name, tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or out of all proportion
        raise ConfigError(str(path), str(error)) from None


def parse(where: str, given: Mapping[str, Any]) -> AcceleratorSpec:
    """Check a whole file; ``where`` names it in errors.

    Raises:
        ConfigError: the first thing in it that cannot be used.
    """
    for key in given:
        if key not in ROOT_KEYS:
            raise ConfigError(where, unknown("table", key, ROOT_KEYS))
    head = given.get("accelerator")
    if not isinstance(head, dict):
        raise ConfigError(where, "the table [accelerator] is missing")
    table = Table(f"{where}: [accelerator]", head, ACCELERATOR_KEYS)
    hbm = table.size("hbm", MAX_HBM)
    engines = [_engine(each) for each in _tables(where, given, "engine", ENGINE_KEYS)]
    types = [_type(each, hbm) for each in _tables(where, given, "type", TYPE_KEYS)]
    for kind, names in (
        ("engine", [engine.name for engine in engines]),
        ("type", [each.name for each in types]),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ConfigError(f"{where}: [[{kind}]]", f"name {twice!r} is there twice")
    return AcceleratorSpec(
        name=table.name("name"),
        device_id=table.number("device-id", 0, 0xFFFF, default=0x100),
        hbm=hbm,
        engines=tuple(engines),
        types=tuple(types),
        coverage=table.truth("coverage", False),
    )


def _tables(
    where: str, given: Mapping[str, Any], kind: str, accepted: frozenset[str]
) -> list[Table]:
    """All tables of a kind; at least one."""
    found = given.get(kind)
    tables = isinstance(found, list) and all(isinstance(each, dict) for each in found)
    if not found or not tables:
        raise ConfigError(where, f"at least one table [[{kind}]] is needed")
    return [Table(f"{where}: [[{kind}]] {i + 1}", each, accepted) for i, each in enumerate(found)]


def _engine(table: Table) -> EngineSpec:
    return EngineSpec(table.name("name"), table.choices("operations", OPERATIONS))


def _pasid_bits(table: Table) -> int | None:
    """Width of a guest's PASIDs, in types that attach by a device id of their own."""
    bits = table.number("pasid-bits", 1, 20, default=PASID_BITS)
    if table.choice("attach", ATTACH_MODES, "pasid") == "rid":
        return bits
    if table.has("pasid-bits"):
        raise table.wrong("pasid-bits", "is for types with attach = 'rid'")
    return None


def _max_transfer(table: Table, personality: str) -> int | None:
    """The most bytes that a command moves, where that is to be chosen."""
    if not table.has("max-transfer"):
        return None
    if sizes := registry.find(personality).max_transfers:
        return table.power("max-transfer", sizes)
    raise table.wrong("max-transfer", f"is not to be chosen for the {personality}")


def _type(table: Table, hbm: int) -> MdevType:
    personality = table.choice("personality", dict.fromkeys(registry.names()), "native")
    found = MdevType(
        name=table.name("name"),
        description=table.text("description", ""),
        personality=personality,
        hbm=table.size("hbm", MAX_HBM, default=0),
        weight=table.number("weight", 1, MAX_WEIGHT, default=1),
        queues=table.number("queues", 1, MAX_QUEUES, default=4),
        instances=table.number("instances", 1, MAX_INSTANCES, default=MAX_INSTANCES),
        max_transfer=_max_transfer(table, personality),
        pasid_bits=_pasid_bits(table),
        interrupts=INTERRUPTS[table.choice("interrupts", INTERRUPTS, "msix")],
    )
    if found.attach == "rid" and found.personality != "native":
        raise table.wrong("attach", f"the {found.personality} has no PASIDs to give to its guest")
    if found.interrupts is MessageKind.MSI and found.personality == "ioat":
        raise table.wrong("interrupts", "the ioat tells its channels apart by MSI-X vectors")
    if found.hbm > hbm:
        raise table.wrong("hbm", f"{found.hbm} bytes of the {hbm} that the accelerator has")
    return found
