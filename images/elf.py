"""Which shared libraries a program of the private root needs, and where they are in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from images.errors import HostError

FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64")
"""Where a private root keeps libraries, in the order in which the loader looks."""

MAGIC = b"\x7fELF"


class Needs(NamedTuple):
    """What one ELF file wants from the loader.

    Attributes:
        libraries: file names, as in DT_NEEDED.
        interpreter: absolute path of the loader, or None (a library, or a static program).
    """

    libraries: tuple[str, ...]
    interpreter: str | None


def needs(path: Path) -> Needs:
    """Read what ``path`` needs; a file that is not ELF needs nothing."""
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return Needs((), None)
        elf = ELFFile(stream)
        libraries = tuple(
            str(tag.needed)  # type: ignore[attr-defined]  # set for this tag alone
            for section in elf.iter_sections()
            if isinstance(section, DynamicSection)
            for tag in section.iter_tags("DT_NEEDED")
        )
        loaders = [
            str(segment.get_interp_name())
            for segment in elf.iter_segments()
            if isinstance(segment, InterpSegment)
        ]
        return Needs(libraries, loaders[0] if loaders else None)


def closure(root: Path, programs: Iterable[str]) -> list[str]:
    """Everything that must exist in a root for ``programs`` to start, themselves included.

    Args:
        root: the private root.
        programs: paths in it, without a leading slash.

    Returns:
        Paths in the root, sorted.  A library is named as programs ask for it
        (``libz.so.1``), not as the file behind its links is called.

    Raises:
        HostError: a library is in none of ``FOLDERS``.
    """
    found: set[str] = set()
    waiting = list(programs)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        libraries, interpreter = needs(root / path)
        if interpreter is not None:
            found.add(interpreter.lstrip("/"))
        waiting += (_library(root, name, path) for name in libraries)
    return sorted(found)


def _library(root: Path, name: str, wanted_by: str) -> str:
    """Where library ``name`` is."""
    for folder in FOLDERS:
        if (root / folder / name).exists():
            return f"{folder}/{name}"
    raise HostError(
        f"{wanted_by} needs the library {name}, and no package of the private root has it",
        "name the package that has it in images/recipe.py",
    )
