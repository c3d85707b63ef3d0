"""The private root: a folder with Debian packages in it, from which we run and copy.

Nothing in it is installed: no script of a package is run, and nothing needs root.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from images import archive, cache, packages, programs
from images.errors import HostError, NoModule
from images.programs import Program
from images.progress import Progress, Silent
from images.recipe import Root

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LAYOUT = 1
"""Counts the ways in which this module has laid a private root out."""


@dataclass(frozen=True)
class Sysroot:
    """A private root that is whole.

    Attributes:
        folder: what is kept of it: ``root``, ``packages.json`` and, of a kernel, ``vmlinux``.
    """

    folder: Path

    @classmethod
    def ensure(cls, progress: Progress | None = None, root: Root | None = None) -> Self:
        """The private root that ``root`` describes; made if the cache does not have it.

        A cached one needs no network, whatever the mirror has in the meantime.

        Raises:
            HostError: it cannot be made; what was fetched is kept for the next try.
        """
        root = root or Root()
        progress = progress or Silent()
        key = hashlib.sha256(f"{LAYOUT} {root!r}".encode()).hexdigest()[:16]
        folder = cache.folder() / "sysroot" / key
        if not folder.exists():
            with cache.locked(folder):
                if not folder.exists():
                    _make(folder, root, progress)
        return cls(folder)

    @property
    def path(self) -> Path:
        """The root itself."""
        return self.folder / "root"

    @functools.cached_property
    def identity(self) -> str:
        """Hash of every package in it, in hex."""
        return hashlib.sha256((self.folder / "packages.json").read_bytes()).hexdigest()

    @property
    def packages(self) -> dict[str, str]:
        """SHA-256 in hex by name of archive (``pciutils_1%3a3.13.0-2_amd64.deb``)."""
        content: dict[str, str] = json.loads((self.folder / "packages.json").read_text())
        return content

    @functools.cached_property
    def kernel_release(self) -> str:
        """What ``uname -r`` says in a guest."""
        (kernel,) = (self.path / "boot").glob("vmlinuz-*")
        return kernel.name.partition("-")[2]

    @functools.cached_property
    def kernel_version(self) -> str:
        """The version of the kernel's package (``6.12.107-1``)."""
        (found,) = (
            version
            for name, version, _ in (file.split("_", 2) for file in self.packages)
            if name == f"linux-image-{self.kernel_release}"
        )
        return found.replace("%3a", ":")

    @property
    def kernel(self) -> Path:
        """The kernel as Debian ships it: a compressed bzImage."""
        return self.path / "boot" / f"vmlinuz-{self.kernel_release}"

    @property
    def vmlinux(self) -> Path:
        """The kernel unpacked: an ELF file with a PVH entry, which QEMU's -kernel boots.

        It starts 0.8 s earlier under TCG, where the guest would unpack it itself.
        """
        return self.folder / "vmlinux"

    @property
    def modules(self) -> Path:
        """The folder of the kernel's modules, with modules.dep."""
        return self.path / "usr/lib/modules" / self.kernel_release

    def module_closure(self, names: Iterable[str]) -> list[Path]:
        """Module files of ``names`` and of all that they need, in an order in which they load.

        A module that is built into the kernel is in no file and is left out.

        Raises:
            NoModule: the kernel has no such module.
        """
        known = self._modules
        order: dict[Path, None] = {}
        for name in names:
            plain = name.replace("-", "_")
            if plain in known:
                order.update(dict.fromkeys(known[plain]))
            elif plain not in self._built_in:
                raise NoModule(
                    f"kernel {self.kernel_release} has no module {name}",
                    "leave the name out, or use a kernel that has it",
                )
        return list(order)

    @functools.cached_property
    def _modules(self) -> dict[str, list[Path]]:
        """Files to load by module, the module itself last.

        Spec: modules.dep(5): a module, then what it needs, the first to load last
        """
        known = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            file, _, others = line.partition(":")
            load = [*reversed(others.split()), file]
            known[module_name(file)] = [self.modules / each for each in load]
        return known

    @functools.cached_property
    def _built_in(self) -> frozenset[str]:
        lines = (self.modules / "modules.builtin").read_text().splitlines()
        return frozenset(map(module_name, lines))

    def program(self, path: str, name: str = "") -> Program:
        """How to run a program of the root with the root's own loader and libraries.

        Args:
            path: in the root.
            name: argv[0] for a program that looks at it.
        """
        root = self.path
        loader = [str(root / LOADER), "--library-path", str(root / LIBRARIES)]
        if name:
            loader += ["--argv0", name]
        return Program([*loader, str(root / path)], {}, f"{path} of the private root")

    def qemu(self) -> Program:
        """The root's QEMU, with its own firmware and modules (``-accel qtest`` is one)."""
        plain = self.program(f"usr/bin/{programs.QEMU}")
        firmware = (self.path / "usr/share" / name for name in ("qemu", "seabios"))
        arguments = [word for folder in firmware for word in ("-L", str(folder))]
        modules = {"QEMU_MODULE_DIR": str(self.path / LIBRARIES / "qemu")}
        return Program([*plain.argv_prefix, *arguments], modules, plain.origin)


def module_name(file: str | Path) -> str:
    """The name by which a module file is loaded: ``kernel/x/vfio-pci.ko.xz`` is vfio_pci."""
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def find_qemu(progress: Progress | None = None) -> Program:
    """The QEMU to use: 10.1 or later on the PATH, else the private root's.

    Raises:
        HostError: the private root is needed and cannot be made.
    """
    return programs.find_qemu(lambda: Sysroot.ensure(progress).qemu())


def _make(folder: Path, root: Root, progress: Progress) -> None:
    """Make the private root beside its place, then put it there; the lock is held."""
    if os.uname().machine != "x86_64":
        raise HostError(
            f"this machine is {os.uname().machine}; the private root has x86-64 programs",
            f"put a {programs.QEMU} on the PATH and build the image on an x86-64 machine",
        )
    state = folder.with_name(f"{folder.name}.apt")
    archives = packages.fetch(
        state, root.suites, root.packages, dict(root.assumed), progress, "the private root"
    )
    making = folder.with_name(f"{folder.name}.new")
    cache.remove(making)
    progress.phase("private root")
    archive.unpack(archives, making / "root", progress)
    sysroot = Sysroot(making)
    if (sysroot.path / "boot").is_dir():
        depmod = sysroot.program("usr/bin/kmod", "depmod")
        depmod.run("-b", str(sysroot.path), sysroot.kernel_release)
        _extract_kernel(sysroot)
    sums = {file.name: _sha256(file) for file in archives}
    (making / "packages.json").write_text(json.dumps(sums, indent=1))
    progress.done()
    making.rename(folder)
    cache.remove(state)


def _extract_kernel(sysroot: Sysroot) -> None:
    """Unpack the kernel inside the bzImage.

    Spec: Linux, Documentation/arch/x86/boot.rst, setup_sects, payload_offset, payload_length
    """
    image = sysroot.kernel.read_bytes()
    sectors = image[0x1F1] or 4
    offset = (sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    packed = sysroot.folder / "vmlinux.zst"
    packed.write_bytes(image[offset : offset + length - 4])  # the last 4 are the unpacked size
    sysroot.program("usr/bin/zstd").run("-q", "-d", str(packed), "-o", str(sysroot.vmlinux))
    packed.unlink()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
