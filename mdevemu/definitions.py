"""Definitions of mdevs that outlive them, in mdevctl's files.

A definition is ``etc/mdevctl.d/<parent>/<uuid>`` below a root folder: a JSON object with a
type, a start mode and a list of attributes, which are applied in its order.

Source: mdevctl 1.4.0, mdevctl(8), "Files".
"""

import contextlib
import fcntl
import json
import os
import uuid as uuids
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdevemu import durable
from mdevemu.errors import ConfigError, shown

FOLDER = "etc/mdevctl.d"
AUTO, MANUAL = "auto", "manual"
LONGEST = 1 << 20
"""Bytes of a file that are read; a definition is far shorter."""

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """One mdev, as it shall be started.

    Attributes:
        uuid: 36 characters, lower case.
        parent: the accelerator's address.
        type: id of its type.
        auto: it is started when its parent comes up.
        attributes: names and values, in the order in which they are written.
    """

    uuid: str
    parent: str
    type: str
    auto: bool
    attributes: Attributes = ()

    @property
    def content(self) -> dict[str, Any]:
        """What its file holds."""
        return {
            "mdev_type": self.type,
            "start": AUTO if self.auto else MANUAL,
            "attrs": [{name: value} for name, value in self.attributes],
        }


def pretty(content: object) -> str:
    """JSON as mdevctl writes it."""
    return json.dumps(content, indent=2, ensure_ascii=False)


def parse(where: str, uuid: str, parent: str, text: str) -> Definition:
    """A definition from the content of its file; ``where`` names it in errors.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise ConfigError(where, f"is not JSON: {wrong}") from None
    if not isinstance(found, dict):
        raise ConfigError(where, f"{shown(found)} is not a JSON object")
    kind, start = found.get("mdev_type"), found.get("start")
    if not isinstance(kind, str):
        raise ConfigError(f"{where}: mdev_type", f"{shown(kind)} is not a text")
    if start is None:
        raise ConfigError(f"{where}: start", "is missing")
    attributes = tuple(_attribute(where, each) for each in _list(where, found.get("attrs")))
    return Definition(uuid, parent, kind, start == AUTO, attributes)


def _list(where: str, found: object) -> list[object]:
    if found is None:
        return []
    if not isinstance(found, list):
        raise ConfigError(f"{where}: attrs", f"{shown(found)} is not a list")
    return found


def _attribute(where: str, found: object) -> tuple[str, str]:
    if isinstance(found, dict) and len(found) == 1:
        ((name, value),) = found.items()
        if isinstance(value, str):
            return name, value
    accepted = 'accepted: objects of one member with a text, as {"weight": "3"}'
    raise ConfigError(f"{where}: attrs", f"{shown(found)} ({accepted})")


def read(path: Path, uuid: str, parent: str) -> Definition:
    """The definition in a file, which may be somewhere else.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST)
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is not text") from None
    return parse(str(path), uuid, parent, text)


class Definitions:
    """All definitions below one root folder, which need not be there yet.

    Attributes:
        root: the folder that mdevctl calls MDEVCTL_ENV_ROOT.
        folder: where they are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER

    def files(self, uuid: str | None = None, parent: str | None = None) -> list[Path]:
        """Files of definitions, by parent and then by UUID.

        Raises:
            ConfigError: a folder cannot be read.
        """
        found = []
        try:
            for folder in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
                if folder.is_dir() and parent in (None, folder.name):
                    names = (path for path in folder.iterdir() if _is_uuid(path.name))
                    found += sorted(path for path in names if uuid in (None, path.name))
        except OSError as error:
            raise ConfigError(str(self.folder), error.strerror or str(error)) from None
        return found

    def all(self, uuid: str | None = None, parent: str | None = None) -> list[Definition]:
        """Definitions, by parent and then by UUID.

        Raises:
            ConfigError: one cannot be read.
        """
        return [self.of(path) for path in self.files(uuid, parent)]

    def of(self, path: Path) -> Definition:
        """The definition in one of ``files``.

        Raises:
            ConfigError: it cannot be read.
        """
        return read(path, path.name, path.parent.name)

    def write(self, definition: Definition) -> None:
        """Make a definition, or replace it; the lock is held.

        Raises:
            ConfigError: its parent is no name, or it cannot be written; it is as it was.
        """
        if definition.parent in ("", ".", "..") or "/" in definition.parent:
            raise ConfigError("parent", f"{shown(definition.parent)} is no name of a device")
        place = self.folder / definition.parent / definition.uuid
        try:
            durable.make_folder(place.parent)
            durable.write(place, pretty(definition.content).encode(), self.folder / ".new")
        except OSError as error:
            raise ConfigError(str(place), error.strerror or str(error)) from None

    def remove(self, definition: Definition) -> None:
        """Remove a definition; the lock is held.

        Raises:
            ConfigError: it cannot be removed.
        """
        place = self.folder / definition.parent / definition.uuid
        try:
            durable.remove(place)
        except OSError as error:
            raise ConfigError(str(place), error.strerror or str(error)) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of all definitions; wait for whoever holds it.

        Raises:
            ConfigError: the folder cannot be used.
        """
        try:
            durable.make_folder(self.folder)
            handle = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(str(self.folder), error.strerror or str(error)) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _is_uuid(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(uuids.UUID(name)) == name
    return False
