"""Kernel modules to load: files that an operator built, or the kernel's own by their names."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from images import dmatest
from images.progress import Progress
from mdevemu.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """A module that an operator built.

    Attributes:
        file: it.
        name: by which the kernel knows it.
        needs: names of modules that are loaded before it.
    """

    file: Path
    name: str
    needs: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> Self:
        """What a module file says of itself.

        Spec: modinfo(8), name and depends

        Raises:
            ConfigError: it cannot be read, or is no module.
        """
        try:
            with file.open("rb") as stream:
                section = ELFFile(stream).get_section_by_name(".modinfo")
                content = section.data() if section is not None else b""
        except OSError as error:
            raise ConfigError(str(file), error.strerror or str(error)) from None
        except (ELFError, ValueError, AssertionError):
            content = b""
        pairs = (entry.decode(errors="replace").partition("=") for entry in content.split(b"\0"))
        facts = {key: value for key, _, value in pairs}
        if "name" not in facts:
            raise ConfigError(str(file), "is no kernel module (accepted: NAME.ko as kbuild makes)")
        needs = tuple(name for name in facts.get("depends", "").split(",") if name)
        return cls(file, facts["name"], needs)


@dataclass(frozen=True, slots=True)
class Module:
    """A module to load.

    Attributes:
        name: by which the kernel knows it.
        parameters: as on insmod's command line.
        file: the operator's; None for one of the kernel's own.
    """

    name: str
    parameters: tuple[str, ...] = ()
    file: ModuleFile | None = None

    @classmethod
    def parse(cls, text: str, *, debian: bool, progress: Progress | None = None) -> Self:
        """A module from insmod's words: a path that ends with .ko, or a name; then parameters.

        Args:
            text: quoted as for a shell.
            debian: the guest has Debian's kernel, for which dmatest is built.
            progress: told if it must be.

        Raises:
            ConfigError: it is no such thing, or no module.
            images.errors.HostError: dmatest cannot be built.
        """
        try:
            first, *parameters = shlex.split(text) or [""]
        except ValueError as error:
            raise ConfigError("module", f"{text!r}: {error}") from None
        file = None
        if first.endswith(".ko"):
            file = ModuleFile.read(Path(first))
        elif first == dmatest.NAME and debian:
            file = ModuleFile.read(dmatest.ensure(progress=progress))
        elif not first.replace("-", "_").isidentifier():
            accepted = "a path that ends with .ko, or a name; then NAME=VALUE"
            raise ConfigError("module", f"{text!r} (accepted: {accepted})")
        return cls(file.name if file else first, tuple(parameters), file)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Modules of the kernel's own that it takes."""
        return (self.name,) if self.file is None else self.file.needs
