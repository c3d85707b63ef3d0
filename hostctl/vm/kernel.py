"""Kernels that an operator built: what they are, and where their modules are."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mdevemu.errors import ConfigError

_HEADER = 0x260  # bytes of a bzImage up to the end of the fields read here
_MAGIC = slice(0x202, 0x206)
_VERSION = slice(0x20E, 0x210)  # where the version's text is, less 0x200
_LONGEST = 256  # bytes of that text

INSTALL = "make modules_install INSTALL_MOD_STRIP=1 INSTALL_MOD_PATH=FOLDER"
"""How a kernel's modules get into a folder."""


def kernel_release(image: Path) -> str:
    """What ``uname -r`` says under the kernel in a bzImage.

    Spec: Linux, Documentation/arch/x86/boot.rst, header and kernel_version

    Raises:
        ConfigError: the file cannot be read, or is no bzImage.
    """
    try:
        with image.open("rb") as file:
            header = file.read(_HEADER)
            file.seek(int.from_bytes(header[_VERSION], "little") + 0x200)
            text = file.read(_LONGEST)
    except OSError as error:
        raise ConfigError(str(image), error.strerror or str(error)) from None
    words = text.partition(b"\0")[0].decode(errors="replace").split()
    if header[_MAGIC] != b"HdrS" or not words:
        raise ConfigError(str(image), "is no bzImage (accepted: arch/x86/boot/bzImage of a build)")
    return words[0]


@dataclass(frozen=True, slots=True)
class Modules:
    """The folder of a kernel's modules.

    Attributes:
        folder: it, with ``modules.dep``.
        release: of the kernel that they are for.
        size: bytes of all its files.
    """

    folder: Path
    release: str
    size: int

    @classmethod
    def find(cls, given: Path, release: str) -> Self:
        """The modules of one kernel, in ``given`` or where modules_install puts them below it.

        Raises:
            ConfigError: they are not there.
        """
        below = ("", release, f"lib/modules/{release}", f"usr/lib/modules/{release}")
        for folder in (given / name for name in below):
            if (folder / "modules.dep").is_file():
                # Where it has no name, as '.', it still has a place.
                found = folder.resolve().name
                if found != release:
                    raise ConfigError(
                        str(given), f"has the modules of kernel {found}, and this one is {release}"
                    )
                return cls(folder, release, sum(file.stat().st_size for file in _files(folder)))
        raise ConfigError(
            str(given), f"has no modules of kernel {release} (accepted: what '{INSTALL}' makes)"
        )

    def files(self) -> Iterator[Path]:
        """Every file, without the links to where the kernel was built."""
        return _files(self.folder)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (
            file
            for file in (Path(place, name) for name in sorted(names))
            if file.is_file() and not file.is_symlink()
        )
