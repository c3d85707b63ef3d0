"""What engines were reprogrammed to, in a file that outlives the run.

It is an object of JSON that has, of each engine that was, operations and version.  It is
written before an engine changes, so it may be ahead of it, and is never behind.
See ``mdevemu.durable`` for how.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdevemu import durable
from mdevemu.accel.engine import Engine, coded, named
from mdevemu.accel.operations import OPERATIONS
from mdevemu.errors import ConfigError, shown, unknown

FORMAT = 1
IN_STATE = "engines.json"
BELOW_ROOT = "etc/mdevemu.d"
LONGEST = 1 << 20
"""Bytes of a file that are read; one is far shorter."""


def place(state: Path | None, root: Path | None, address: str) -> Path | None:
    """The file: where mdevs are kept if they are, else beside the definitions, else nowhere."""
    if state is not None:
        return state / IN_STATE
    return None if root is None else root / BELOW_ROOT / f"{address}.json"


def keep(path: Path, engines: Iterable[Engine], changing: Engine, names: Collection[str]) -> None:
    """Write down that an engine is about to do the operations of these names.

    Raises:
        ConfigError: it cannot be written; the file is as it was.
    """
    kept: dict[str, object] = {}
    for each in engines:
        program = each.program
        if each is changing:
            kept[each.name] = {"operations": list(names), "version": each.version + 1}
        elif program is not None:
            kept[each.name] = {"operations": named(program.operations), "version": each.version + 1}
        elif each.version:
            kept[each.name] = {"operations": each.functions, "version": each.version}
    content = json.dumps({"mdevemu-engines": FORMAT, "engines": kept}, indent=2)
    try:
        durable.make_folder(path.parent)
        durable.write(path, f"{content}\n".encode())
    except OSError as wrong:
        raise ConfigError(str(path), wrong.strerror or str(wrong), wrong.errno or 0) from None


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a file says of one engine."""

    operations: Sequence[str]
    version: int


def restore(path: Path, engines: Iterable[Engine]) -> None:
    """Have engines do what the file says; if there is none, they stay as they are.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used; nothing has changed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except FileNotFoundError:
        return
    except OSError as wrong:
        raise ConfigError(str(path), wrong.strerror or str(wrong), wrong.errno or 0) from None
    known = {each.name: each for each in engines}
    for name, kept in _read(str(path), data, known).items():
        known[name].operations, known[name].version = coded(kept.operations), kept.version


def _read(where: str, data: bytes, engines: Collection[str]) -> dict[str, _Kept]:
    """What is kept, by engine."""
    try:
        given: Any = json.loads(data) if len(data) <= LONGEST else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or given.get("mdevemu-engines") != FORMAT:
        raise ConfigError(where, f"has no engines of version {FORMAT}")
    kept = given.get("engines")
    if not isinstance(kept, dict):
        raise ConfigError(f"{where}: engines", f"{shown(kept)} is not an object")
    return {name: _engine(where, name, each, engines) for name, each in kept.items()}


def _engine(where: str, name: str, given: object, engines: Collection[str]) -> _Kept:
    """What is kept of one engine."""
    if name not in engines:
        raise ConfigError(f"{where}: engines", unknown("engine", name, engines))
    where = f"{where}: {name}"
    if not isinstance(given, dict) or given.keys() != {"operations", "version"}:
        raise ConfigError(where, f"{shown(given)} is not operations and a version")
    operations, version = given["operations"], given["version"]
    if not isinstance(operations, list):
        raise ConfigError(where, f"{shown(operations)} is not a list of operations")
    for each in operations:
        if not isinstance(each, str) or each not in OPERATIONS:
            raise ConfigError(where, unknown("operation", each, OPERATIONS))
    if type(version) is not int or version < 1:
        raise ConfigError(where, f"{shown(version)} is not a version (accepted: 1 or more)")
    return _Kept(operations, version)
