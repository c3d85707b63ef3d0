"""LAB.toml: what a lab consists of, read and checked before anything starts."""

import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path

from hostctl.tables import Table
from mdevemu.errors import ConfigError, unknown
from mdevemu.units import MIB

SHIPPED = Path(__file__).parent / "labs"
TYPE_PREFIX = "mdevemu-"
_LEAST_MEMORY = 256 * MIB
_SPACE = uuid.UUID("6d646576-656d-5500-8000-6d6465760000")


@dataclass(frozen=True, slots=True)
class TypeSpec:
    """An mdev type as far as a lab must know it.

    Attributes:
        instances: how many mdevs of it there can be.
    """

    name: str
    instances: int


@dataclass(frozen=True, slots=True)
class AcceleratorSpec:
    """An accelerator's file; the emulator itself checks the rest of it.

    Attributes:
        name: the accelerator's.
        types: by name.
    """

    file: Path
    name: str
    types: dict[str, TypeSpec]


@dataclass(frozen=True, slots=True)
class MdevSpec:
    """A slice that a lab wants.

    Attributes:
        type: the type's name, without the driver's prefix.
        weight: its share of the engines against others; None leaves it to the type.
        uuid: follows from the names of lab and mdev, so that command lines stay the same.
    """

    name: str
    type: str
    weight: int | None
    uuid: str


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A VM that a lab wants.

    Attributes:
        mdevs: names of the mdevs that it gets, in the order of its slots.
        memory: bytes.
        iommu: which IOMMU the guest gets, "intel", "amd" or "virtio": its user-space drivers
            need one; "none" is none.
        kernel: words to add to the kernel's command line.
    """

    name: str
    mdevs: tuple[str, ...]
    memory: int
    cpus: int
    iommu: str
    kernel: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A whole lab."""

    file: Path
    name: str
    accelerator: AcceleratorSpec
    mdevs: tuple[MdevSpec, ...]
    vms: tuple[VmSpec, ...]

    def mdev(self, name: str) -> MdevSpec:
        """The mdev of that name."""
        return next(mdev for mdev in self.mdevs if mdev.name == name)


def mdev_uuid(lab: str, mdev: str) -> str:
    """The UUID that an mdev of a lab has, every time the lab goes up."""
    return str(uuid.uuid5(_SPACE, f"{lab}/{mdev}"))


def shipped() -> list[str]:
    """Names of the labs that come with the program."""
    accelerators = "-accel"
    names = (path.stem for path in SHIPPED.glob("*.toml"))
    return sorted(name for name in names if not name.endswith(accelerators))


def read_toml(file: Path) -> Table:
    """The table that a TOML file holds.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    try:
        return Table(str(file), tomllib.loads(file.read_text()))
    except OSError as error:
        raise ConfigError(str(file), error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise ConfigError(str(file), "is not text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(file), f"is not TOML: {error}") from None


def _locate(given: str, base: Path, suffix: str, where: str) -> Path:
    """The file that a path, or the name of a shipped one, stands for."""
    if "/" in given or given.endswith(".toml"):
        return base / given
    file = SHIPPED / f"{given}{suffix}.toml"
    if not file.is_file():
        raise ConfigError(where, unknown("shipped file", given, shipped()) + "; or give a path")
    return file


def find_lab(given: str) -> Path:
    """The lab file that an argument names: a path, or the name of a shipped one.

    Raises:
        ConfigError: there is no shipped one of that name.
    """
    return _locate(given, Path(), "", "LAB")


def read_accelerator(file: Path) -> AcceleratorSpec:
    """An accelerator's file.

    Raises:
        ConfigError: it cannot be read, or what a lab needs of it is wrong.
    """
    top = read_toml(file)
    types = {}
    for table in top.tables("type"):
        name = table.text("name")
        types[name] = TypeSpec(name, table.whole("instances", 1, default=1))
    return AcceleratorSpec(file, top.table("accelerator").text("name"), types)


def read_lab(file: Path) -> LabSpec:
    """A lab file, and the accelerator file that it names.

    Raises:
        ConfigError: something in one of them cannot be used.
    """
    top = read_toml(file)
    top.only(("lab", "mdev", "vm"))
    lab = top.table("lab")
    lab.only(("name", "accelerator"))
    name = lab.name("name")
    given = lab.text("accelerator")
    accelerator = read_accelerator(
        _locate(given, file.parent, "-accel", f"{lab.where}.accelerator")
    )
    mdevs = tuple(_mdev(table, name, accelerator) for table in top.tables("mdev"))
    _distinct(top, "mdev", [mdev.name for mdev in mdevs])
    for kind in accelerator.types.values():
        wanted = sum(mdev.type == kind.name for mdev in mdevs)
        if wanted > kind.instances:
            raise top.refuse(
                "mdev",
                f"{wanted} mdevs of type {kind.name!r} (accepted: up to {kind.instances}, "
                f"says {accelerator.file})",
            )
    vms = tuple(_vm(table, [mdev.name for mdev in mdevs]) for table in top.tables("vm"))
    _distinct(top, "vm", [vm.name for vm in vms])
    _distinct(top, "vm", [mdev for vm in vms for mdev in vm.mdevs], what="mdev")
    return LabSpec(file, name, accelerator, mdevs, vms)


def _mdev(table: Table, lab: str, accelerator: AcceleratorSpec) -> MdevSpec:
    table.only(("name", "type", "weight"))
    name = table.name("name")
    kind = table.text("type").removeprefix(TYPE_PREFIX)
    if kind not in accelerator.types:
        raise table.refuse("type", unknown("type", kind, accelerator.types))
    weight = table.whole("weight", 1, 1000) if table.has("weight") else None
    return MdevSpec(name, kind, weight, mdev_uuid(lab, name))


def _vm(table: Table, mdevs: list[str]) -> VmSpec:
    table.only(("name", "mdevs", "memory", "cpus", "iommu", "kernel"))
    name = table.name("name")
    given = table.texts("mdevs", ())
    for at, mdev in enumerate(given):
        if mdev not in mdevs:
            raise table.refuse(f"mdevs[{at}]", unknown("mdev", mdev, mdevs))
    return VmSpec(
        name=name,
        mdevs=given,
        memory=table.size("memory", _LEAST_MEMORY, "512MiB"),
        cpus=table.whole("cpus", 1, 64, 1),
        iommu=table.choice("iommu", ("intel", "amd", "virtio", "none"), "intel"),
        kernel=table.texts("kernel", ()),
    )


def _distinct(top: Table, key: str, names: list[str], what: str = "") -> None:
    """Refuse a name that is there twice."""
    for at, name in enumerate(names):
        if name in names[:at]:
            wrong = (
                f"{what} {name!r} is given to two" if what else f"the name {name!r} is there twice"
            )
            raise top.refuse(key, wrong)
