"""Saved mdevs in files: who each was, then its state as a stream.

A file begins with a line of JSON.  See ``mdevemu.durable`` for how it is written.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from mdevemu.definitions import Attributes
from mdevemu.errors import ConfigError, shown
from mdevemu.profile import Place
from mdevemu.units import MIB

SUFFIX = ".mdev"
PART = MIB
"""Bytes that are read in one step."""
LONGEST_LINE = 4 * MIB
"""Bytes of the first line: more than control clients can give an mdev in names and attributes."""
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Definition:
    """What an operator had said of an mdev.

    Attributes:
        hbm, work_queue: its place.
        attributes: all that can be written, in the order in which it is.
    """

    uuid: str
    name: str
    type: str
    hbm: int | None
    work_queue: str | None
    attributes: Attributes

    @property
    def place(self) -> Place:
        """Where it was."""
        return Place(self.hbm, self.work_queue)


def first_line(definition: Definition) -> bytes:
    """What a file begins with."""
    facts = asdict(definition) | {"attributes": dict(definition.attributes)}
    return json.dumps({"mdevemu-state": FORMAT, **facts}).encode() + b"\n"


def read(path: Path) -> tuple[Definition, Iterator[bytes]]:
    """Who a file is about, and its stream, in parts.

    Raises:
        ConfigError: it cannot be read, or is none; so do the parts.
    """
    try:
        # The generator closes it, or whoever collects the generator.
        file = open(path, "rb", opener=_at_once)  # noqa: SIM115
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
    kinds = {
        "uuid": (str,),
        "name": (str,),
        "type": (str,),
        "hbm": (int, NoneType),
        "work_queue": (str, NoneType),
        "attributes": (dict,),
    }
    if given.keys() != kinds.keys():
        raise ConfigError(str(path), f"has the keys {shown(sorted(given))}, not {sorted(kinds)}")
    for key, accepted in kinds.items():
        if type(given[key]) not in accepted:
            kind = accepted[0].__name__
            raise ConfigError(f"{path}: {key}", f"{shown(given[key])} is no {kind}")
    attributes = given.pop("attributes")
    for name, value in attributes.items():
        if type(value) is not str:
            raise ConfigError(f"{path}: attributes: {name}", f"{shown(value)} is no str")
    return Definition(**given, attributes=tuple(attributes.items()))


def _at_once(path: str, flags: int) -> int:
    """Open what is there, and do not wait for a writer if that is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _cannot(path: Path, wrong: OSError) -> ConfigError:
    return ConfigError(str(path), wrong.strerror or str(wrong), wrong.errno or 0)
