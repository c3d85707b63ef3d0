"""Saved mdevs in files: who each was, then its state as a stream.

A file is whole or not there: it is written under another name, made durable, and renamed.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdevemu.errors import ConfigError, shown
from mdevemu.fds import Fd
from mdevemu.units import KIB, MIB

SUFFIX = ".mdev"
PART = MIB
"""Bytes that are read or written in one step."""
LONGEST_LINE = 4 * KIB
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Definition:
    """What an operator had said of an mdev."""

    uuid: str
    name: str
    type: str
    weight: int


class Draft:
    """A file that is being written, and appears when it is whole.

    Raises:
        ConfigError: it cannot be written; what was there before still is, also from ``write``
            and ``publish``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = Fd(os.open(self._beside, flags, 0o600))
        except OSError as wrong:
            raise _cannot(path, wrong) from None

    def write(self, data: bytes) -> None:
        """Append."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except OSError as wrong:
            self.discard()
            raise _cannot(self._path, wrong) from None

    def publish(self) -> None:
        """Make it durable, and put it in the place of what was there before."""
        try:
            os.fsync(self._file.fileno())
            self._beside.rename(self._path)
            with Fd(os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)) as folder:
                os.fsync(folder.fileno())
        except OSError as wrong:
            self.discard()
            raise _cannot(self._path, wrong) from None
        self._file.close()

    def discard(self) -> None:
        """Leave nothing of it."""
        self._file.close()
        self._beside.unlink(missing_ok=True)


def first_line(definition: Definition) -> bytes:
    """What a file begins with."""
    return json.dumps({"mdevemu-state": FORMAT, **asdict(definition)}).encode() + b"\n"


def read(path: Path) -> tuple[Definition, Iterator[bytes]]:
    """Who a file is about, and its stream, in parts.

    Raises:
        ConfigError: it cannot be read, or is none; so do the parts.
    """
    try:
        # The generator closes it, or whoever collects the generator.
        file = path.open("rb")
    except OSError as wrong:
        raise _cannot(path, wrong) from None

    def parts() -> Iterator[bytes]:
        with file:
            try:
                while part := file.read(PART):
                    yield part
            except OSError as wrong:
                raise _cannot(path, wrong) from None

    try:
        line = file.readline(LONGEST_LINE)
        return _definition(path, line), parts()
    except OSError as wrong:
        file.close()
        raise _cannot(path, wrong) from None
    except ConfigError:
        file.close()
        raise


def _definition(path: Path, line: bytes) -> Definition:
    try:
        given: Any = json.loads(line)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or given.pop("mdevemu-state", None) != FORMAT:
        raise ConfigError(str(path), f"is no saved mdev of version {FORMAT}")
    kinds = {"uuid": str, "name": str, "type": str, "weight": int}
    if given.keys() != kinds.keys():
        raise ConfigError(str(path), f"has the keys {shown(sorted(given))}, not {sorted(kinds)}")
    for key, kind in kinds.items():
        if type(given[key]) is not kind:
            raise ConfigError(f"{path}: {key}", f"{shown(given[key])} is no {kind.__name__}")
    return Definition(**given)


def _cannot(path: Path, wrong: OSError) -> ConfigError:
    return ConfigError(str(path), wrong.strerror or str(wrong), wrong.errno or 0)
