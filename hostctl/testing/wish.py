"""What a test wants of its accelerator and its guests, as its markers say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hostctl.tables import Table
from hostctl.vm import accelerator
from mdevemu.errors import ConfigError, unknown
from mdevemu.profile import locate
from mdevemu.units import GIB, MIB

MARKER = "accel"

VIOMMUS = ("none", "intel", "amd", "virtio")
_MOST_TENANTS = 8
_WHOLE: Mapping[str, object] = {"name": "whole", "hbm": "16MiB", "instances": _MOST_TENANTS}
_ALONE = (("profile", "types"), ("profile", "personality"), ("types", "personality"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wish:
    """Arguments of ``@pytest.mark.accel``, checked.

    Attributes:
        personality: of the one type of the accelerator, if neither types nor profile are given.
        types: tables ``[[type]]`` of a profile, as dictionaries.
        profile: a profile's file, or the name of one that comes with the program.
        type: name of the type that mdevs are of; None is the first.
        tenants: how many there are, of ``tenants`` and of ``vms``.
        kernel: a bzImage; None is Debian's.
        tree: the folder with that kernel's modules.
        modules: loaded in each guest before its first test; see ``hostctl.vm.run.Request``.
        viommu: the guests' IOMMU.
        memory: bytes of each guest.
        cpus: of each guest.
        append: words for the kernels' command line.
        share: folder of the host's that guests have at /share.
        seconds: that a command in a guest may take, if the test says nothing else.
        boot_seconds: that a guest may take until it is ready, with its modules.
    """

    personality: str = "native"
    types: tuple[Mapping[str, object], ...] = ()
    profile: str | None = None
    type: str | None = None
    tenants: int = 2
    kernel: Path | None = None
    tree: Path | None = None
    modules: tuple[str, ...] = ()
    viommu: str = "none"
    memory: int = GIB
    cpus: int = 1
    append: tuple[str, ...] = ()
    share: Path | None = None
    seconds: float = 60.0
    boot_seconds: float = 180.0

    @property
    def text(self) -> str:
        """The accelerator's profile.

        Raises:
            ConfigError: there is none of that name, or it cannot be read.
        """
        if self.profile is None:
            return accelerator.text(self.types or [{**_WHOLE, "personality": self.personality}])
        file = locate(self.profile, Path(), f"{MARKER}.profile")
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            reason = getattr(wrong, "strerror", None) or "is not text"
            raise ConfigError(str(file), reason) from None

    @property
    def accelerator(self) -> tuple[object, ...]:
        """Equal for wishes that one accelerator fulfils."""
        return (self.text,)

    @property
    def guest(self) -> tuple[object, ...]:
        """Equal for wishes that one guest fulfils."""
        built = self.kernel, self.tree, self.modules, self.append
        return *built, self.type, self.viommu, self.memory, self.cpus, self.share


def accepted() -> tuple[str, ...]:
    """Names of the marker's arguments."""
    return tuple(each.name for each in fields(Wish))


def gather(markers: Iterable[tuple[Sequence[object], Mapping[str, object]]]) -> dict[str, object]:
    """What markers say together; a later one has the last word about each argument.

    Args:
        markers: positional and named arguments of each.

    Raises:
        ConfigError: an argument is not accepted.
    """
    given: dict[str, object] = {}
    for positional, named in markers:
        if positional:
            names = ", ".join(accepted())
            raise ConfigError(MARKER, f"takes named arguments only (accepted: {names})")
        given.update(named)
    for name in given:
        if name not in accepted():
            raise ConfigError(MARKER, unknown("argument", name, accepted()))
    for pair in _ALONE:
        if all(name in given for name in pair):
            raise ConfigError(MARKER, f"{pair[0]} and {pair[1]} exclude each other")
    return {key: str(each) if isinstance(each, Path) else each for key, each in given.items()}


def parse(given: Mapping[str, object]) -> Wish:
    """Check the values of arguments.

    Raises:
        ConfigError: one cannot be used.
    """
    table = Table(MARKER, given)
    types = table.tables("types")
    if table.has("types") and not types:
        raise table.refuse("types", "is empty (accepted: dictionaries, each a table [[type]])")
    return Wish(
        personality=table.text("personality", "native"),
        types=tuple(_type(each) for each in types),
        profile=_text(table, "profile"),
        type=_text(table, "type"),
        tenants=table.whole("tenants", 1, _MOST_TENANTS, default=2),
        kernel=_path(table, "kernel"),
        tree=_path(table, "tree"),
        modules=table.texts("modules", ()),
        viommu=table.choice("viommu", VIOMMUS, "none"),
        memory=table.size("memory", 256 * MIB, GIB),
        cpus=table.whole("cpus", 1, 64, default=1),
        append=table.texts("append", ()),
        share=_path(table, "share"),
        seconds=_seconds(table, "seconds", 60.0),
        boot_seconds=_seconds(table, "boot_seconds", 180.0),
    )


def _type(table: Table) -> Mapping[str, object]:
    table.text("name")
    return table.facts


def _text(table: Table, key: str) -> str | None:
    return table.text(key) if table.has(key) else None


def _path(table: Table, key: str) -> Path | None:
    return Path(table.text(key)) if table.has(key) else None


def _seconds(table: Table, key: str, default: float) -> float:
    seconds = table.number(key, default)
    if seconds <= 0:
        raise table.refuse(key, f"{seconds:g} is out of range (accepted: more than 0)")
    return seconds
