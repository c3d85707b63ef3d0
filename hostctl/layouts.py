"""Layouts: how many mdevs of each type there shall be, under labels, in files.

Our own files are TOML, a table ``[layout.LABEL]`` each with counts by type.  Those of NVIDIA's
mig-parted are read as they are; this accelerator is their device 0.

Source: mig-parted, README.md, "mig-configs".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostctl.spec import TYPE_PREFIX, read_toml
from hostctl.tables import Table, choose_name
from mdevemu.errors import ConfigError, unknown

Layout = Mapping[str, int]
"""Counts by type id."""

MOST = 4096
"""Mdevs of one type that a layout can ask for."""

_FILTER = "device-filter"


def read_layouts(file: Path, types: Sequence[str]) -> dict[str, Layout]:
    """The layouts in a file, by label; ``types`` are the ids that the accelerator has.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used.
    """
    if file.suffix in (".yaml", ".yml"):
        return _mig_parted(_read_yaml(file), types)
    top = read_toml(file)
    top.only(("layout",))
    layouts = top.table("layout")
    return {label: _counts(layouts.table(label), types) for label in layouts}


def choose(layouts: Mapping[str, Layout], label: str | None) -> tuple[str, Layout]:
    """The layout of a label, or the only one.

    Raises:
        ConfigError: there is none, or the label is needed.
    """
    label = choose_name("LABEL", "layout", label, layouts)
    return label, layouts[label]


def as_toml(label: str, layout: Layout) -> str:
    """A file with one layout."""
    lines = [f'"{kind.removeprefix(TYPE_PREFIX)}" = {count}' for kind, count in layout.items()]
    return "\n".join([f'[layout."{label}"]', *lines, ""])


def _read_yaml(file: Path) -> Table:
    import yaml  # here, as no other command has a use for it

    try:
        return Table(str(file), yaml.safe_load(file.read_text()))
    except OSError as error:
        raise ConfigError(str(file), error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise ConfigError(str(file), "is not text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        wrong = " ".join(str(error).split())
        raise ConfigError(str(file), f"is not YAML: {wrong}") from None


def _counts(table: Table, types: Sequence[str]) -> Layout:
    """Counts by type id, from a table whose keys are types."""
    found: Counter[str] = Counter()
    for key in table:
        kind = TYPE_PREFIX + key.removeprefix(TYPE_PREFIX)
        if kind not in types:
            names = [each.removeprefix(TYPE_PREFIX) for each in types]
            raise table.refuse("", unknown("type", key, names))
        found[kind] += table.whole(key, 0, MOST)
    return found


def _mig_parted(top: Table, types: Sequence[str]) -> dict[str, Layout]:
    """The configurations of a mig-parted file, as far as they are for this accelerator."""
    top.only(("version", "mig-configs"))
    if top.raw("version") not in ("v1", 1):
        raise top.refuse("version", f"{top.raw('version')!r} (accepted: v1)")
    configs = top.table("mig-configs")
    found = {}
    for label in configs:
        entries = [entry for entry in configs.tables(label) if _is_ours(entry, types)]
        if len(entries) > 1:
            raise configs.refuse(label, "more than one entry is for device 0")
        # A configuration for other devices or models is none of ours.
        if entries:
            found[label] = _entry(entries[0], types)
    return found


def _is_ours(entry: Table, types: Sequence[str]) -> bool:
    """An entry is for device 0; one for some models, if it names only types that we have."""
    entry.only(("devices", _FILTER, "mig-enabled", "mig-devices"))
    devices = entry.raw("devices")
    if devices != "all" and not (isinstance(devices, list) and 0 in devices):
        return False
    if not entry.has(_FILTER) or not entry.has("mig-devices"):
        return True
    return all(TYPE_PREFIX + key in types for key in entry.table("mig-devices"))


def _entry(entry: Table, types: Sequence[str]) -> Layout:
    """What one entry asks for; nothing at all where MIG is off."""
    if not entry.truth("mig-enabled") or not entry.has("mig-devices"):
        return {}
    return _counts(entry.table("mig-devices"), types)
