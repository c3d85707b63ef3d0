"""LAB.toml: what a lab consists of, read and checked before anything starts."""

import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path

from hostctl.tables import Table
from mdevemu.errors import ConfigError, unknown
from mdevemu.profile import DRIVER, AcceleratorSpec, Holding, Occupancy, load, locate
from mdevemu.units import MIB

SHIPPED = Path(__file__).parent / "labs"
TYPE_PREFIX = f"{DRIVER}-"
_LEAST_MEMORY = 256 * MIB
_SPACE = uuid.UUID("6d646576-656d-5500-8000-6d6465760000")


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
    """A whole lab.

    Attributes:
        profile: the file of its accelerator's profile.
        definitions: the folder below which its accelerator's definitions are; None for none.
    """

    file: Path
    name: str
    profile: Path
    accelerator: AcceleratorSpec
    definitions: Path | None
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
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


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
    except (ValueError, RecursionError) as error:  # also of what is out of all proportion
        raise ConfigError(str(file), f"is not TOML: {error}") from None


def find_lab(given: str) -> Path:
    """The lab file that an argument names: a path, or the name of a shipped one.

    Raises:
        ConfigError: there is no shipped one of that name.
    """
    if "/" in given or given.endswith(".toml"):
        return Path(given)
    if given not in shipped():
        raise ConfigError("LAB", unknown("shipped lab", given, shipped()) + "; or give a path")
    return SHIPPED / f"{given}.toml"


def read_lab(file: Path) -> LabSpec:
    """A lab file, and the profile that it names.

    Raises:
        ConfigError: something in one of them cannot be used.
    """
    top = read_toml(file)
    top.only(("lab", "mdev", "vm"))
    lab = top.table("lab")
    lab.only(("name", "accelerator", "definitions"))
    name = lab.name("name")
    profile = locate(lab.text("accelerator"), file.parent, f"{lab.where}.accelerator")
    accelerator = load(profile)
    mdevs = tuple(_mdev(table, name, accelerator) for table in top.tables("mdev"))
    _distinct(top, "mdev", [mdev.name for mdev in mdevs])
    _fit(top, mdevs, accelerator)
    vms = tuple(_vm(table, [mdev.name for mdev in mdevs]) for table in top.tables("vm"))
    _distinct(top, "vm", [vm.name for vm in vms])
    _distinct(top, "vm", [mdev for vm in vms for mdev in vm.mdevs], what="mdev")
    given = lab.text("definitions") if lab.has("definitions") else None
    definitions = None if given is None else file.parent.resolve() / given
    return LabSpec(file, name, profile, accelerator, definitions, mdevs, vms)


def _mdev(table: Table, lab: str, accelerator: AcceleratorSpec) -> MdevSpec:
    table.only(("name", "type", "weight"))
    name = table.name("name")
    kind = table.text("type").removeprefix(TYPE_PREFIX)
    known = [each.name for each in accelerator.types]
    if kind not in known:
        raise table.refuse("type", unknown("type", kind, known))
    weight = table.whole("weight", 1, 1000) if table.has("weight") else None
    return MdevSpec(name, kind, weight, mdev_uuid(lab, name))


def _fit(top: Table, mdevs: tuple[MdevSpec, ...], accelerator: AcceleratorSpec) -> None:
    """Refuse mdevs that the accelerator has no room for, created in this order."""
    now = Occupancy(accelerator)
    types = {kind.name: kind for kind in accelerator.types}
    for mdev in mdevs:
        kind = types[mdev.type]
        place = now.place(kind)
        if place is None:
            raise top.refuse("mdev", f"no room for {mdev.name!r}: {'; '.join(now.lacking(kind))}")
        now = now.with_(Holding(mdev.name, kind, place))


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
