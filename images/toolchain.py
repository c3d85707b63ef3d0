"""The toolchain: the headers of the guest's kernel and their compiler, which build its modules."""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from images import archive, cache, elf, packages
from images.errors import BuildError, HostError
from images.progress import Progress, Silent
from images.recipe import Compiler, Suite
from images.sysroot import LIBRARIES, LOADER, Sysroot

LAYOUT = 1
"""Counts the ways in which this module has laid a toolchain out."""

LAST = 20
"""Lines of the compiler's that an error quotes."""

RENAMED = ".elf"
"""What the file name of a program ends with behind its `WRAPPER`."""

WRAPPER = """\
#!/bin/sh
exec '{loader}' --library-path '{libraries}' --argv0 "$0" '{program}' "$@"
"""
"""A program of the toolchain as others start it: by its own loader, with its own libraries."""

BUILD = ("Kbuild", "Makefile")
"""Files of which a module's folder has one.  Spec: Linux, Documentation/kbuild/modules.rst §3.1"""


@dataclass(frozen=True)
class Toolchain:
    """A compiler, and a kernel's headers.

    Attributes:
        path: the private root that has them.
        release: the kernel's, as in ``uname -r``.
    """

    path: Path
    release: str

    @classmethod
    def ensure(
        cls,
        sysroot: Sysroot,
        progress: Progress | None = None,
        compiler: Compiler | None = None,
    ) -> Self:
        """The toolchain for the private root's kernel; made if the cache does not have it.

        Raises:
            HostError: it cannot be made; what was fetched is kept for the next try.
        """
        compiler = compiler or Compiler()
        release = sysroot.kernel_release
        inputs = f"{LAYOUT} {compiler!r} {release} {sysroot.kernel_version}"
        key = hashlib.sha256(inputs.encode()).hexdigest()[:16]
        folder = cache.folder() / "toolchain" / f"{release}-{key}"
        if not folder.exists():
            with cache.locked(folder):
                if not folder.exists():
                    _make(folder, sysroot, compiler, progress or Silent())
        return cls(folder, release)

    @property
    def headers(self) -> Path:
        """What a module's makefile calls the kernel's build folder."""
        return self.path / "usr/src" / f"linux-headers-{self.release}"

    def build(self, folder: Path) -> list[Path]:
        """Build the modules in ``folder``, as ``make -C HEADERS M=FOLDER`` does.

        Returns:
            The modules, sorted.

        Raises:
            BuildError: make failed; what it had made until then is there.
            HostError: make does not start.
        """
        folder = folder.absolute()
        if not any((folder / name).is_file() for name in BUILD):
            raise BuildError(f"{folder} has no {' and no '.join(BUILD)}", "write 'obj-m := NAME.o'")
        if any(character.isspace() for character in str(folder)):
            raise BuildError(f"{folder}: make takes no path with a space", "rename the folder")
        # Types for BPF programs would need one more program, and nobody here reads them.
        options = (f"-j{os.cpu_count()}", f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=")
        inherited = {name: value for name, value in os.environ.items() if "MAKE" not in name}
        environment = {
            **inherited,
            "LC_ALL": "C",
            "PATH": f"{self.path / 'usr/bin'}:{os.environ.get('PATH', os.defpath)}",
        }
        try:
            done = subprocess.run(
                ["make", "-C", str(self.headers), *options, "modules"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        except OSError as error:
            raise HostError(f"make does not start: {error}", f"remove {self.path}") from error
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip().splitlines()
            raise BuildError(
                f"the modules in {folder} do not build: make ended with {done.returncode}",
                "see its last lines below",
                "\n".join(said[-LAST:]),
            )
        order = (folder / "modules.order").read_text().split()
        return sorted(folder / Path(name).with_suffix(".ko") for name in order)


def _make(folder: Path, sysroot: Sysroot, compiler: Compiler, progress: Progress) -> None:
    """Make the toolchain beside its place, then put it there; the lock is held."""
    release = sysroot.kernel_release
    state = folder.with_name(f"{folder.name}.apt")
    names = (f"linux-headers-{release}", *compiler.packages)
    archives = fetch(state, sysroot, names, compiler.assumed, progress)
    making = folder.with_name(f"{folder.name}.new")
    cache.remove(making)
    progress.phase("compiler and kernel headers")
    archive.unpack(archives, making, progress)
    # Debian's makefile includes another one by the path that it has on an installed system.
    makefile = making / "usr/src" / f"linux-headers-{release}" / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{folder}/usr/src/"))
    for file in sorted(making.rglob("*")):
        # The C library is a program, too; but nobody starts it.
        executable = os.access(file, os.X_OK) and ".so" not in file.name
        if executable and file.is_file() and not file.is_symlink():
            _wrap(file, making, folder)
    progress.done()
    making.rename(folder)
    cache.remove(state)


def fetch(
    state: Path,
    sysroot: Sysroot,
    names: Sequence[str],
    assumed: Iterable[str],
    progress: Progress,
) -> list[Path]:
    """Fetch packages that belong to the private root's kernel, with all that they need.

    Args:
        state: a folder for apt's state.
        names: package names.
        assumed: packages that are not wanted.

    Raises:
        HostError: they cannot be had, maybe because the mirror has gone on to a newer kernel.
    """
    release, version = sysroot.kernel_release, sysroot.kernel_version
    left_out = {**dict.fromkeys(assumed, ""), "linux-image": f"linux-image-{release} (= {version})"}
    suites = (Suite(Compiler.suite),)
    try:
        return packages.fetch(state, suites, names, left_out, progress, f"modules of {release}")
    except HostError as error:
        raise HostError(
            f"{' '.join(names)} cannot be fetched: {error.wrong}",
            f"if your mirror has a newer kernel than {version}, remove {sysroot.folder} "
            "to have it fetched; else see below",
            error.details,
        ) from error


def _wrap(file: Path, making: Path, folder: Path) -> None:
    """Let a program of the toolchain be started by its path, wherever its libraries are.

    Args:
        making: where the toolchain is while it is made.
        folder: where it will be.
    """
    if elf.needs(file).interpreter is None:
        return
    program = file.rename(f"{file}{RENAMED}")
    text = WRAPPER.format(
        loader=folder / LOADER,
        libraries=folder / LIBRARIES,
        program=folder / program.relative_to(making),
    )
    file.write_text(text)
    file.chmod(0o755)
