"""dmatest, Linux's test of DMA drivers, which Debian's kernels leave out: built from their source.

Spec: Linux, Documentation/driver-api/dmaengine/dmatest.rst
"""

import hashlib
import subprocess
import tarfile
from pathlib import Path

from images import cache
from images.errors import HostError
from images.progress import Progress, Silent
from images.sysroot import Sysroot
from images.toolchain import Toolchain, fetch

NAME = "dmatest"
SOURCE = f"drivers/dma/{NAME}.c"
"""Where it is in the kernel's tree."""

ASSUMED = ("binutils", "xz-utils")
"""What the package of the kernel's source asks for, to work with it."""


def ensure(sysroot: Sysroot | None = None, progress: Progress | None = None) -> Path:
    """The module file for the private root's kernel; made if the cache does not have it.

    Raises:
        HostError: it cannot be made; the cache is as before.
    """
    progress = progress or Silent()
    sysroot = sysroot or Sysroot.ensure(progress)
    toolchain = Toolchain.ensure(sysroot, progress)
    key = hashlib.sha256(f"{sysroot.kernel_version} {toolchain.path.name}".encode()).hexdigest()
    folder = cache.folder() / "modules" / f"{NAME}-{sysroot.kernel_release}-{key[:16]}"
    if not folder.exists():
        with cache.locked(folder):
            if not folder.exists():
                _make(folder, sysroot, toolchain, progress)
    return folder / f"{NAME}.ko"


def _make(folder: Path, sysroot: Sysroot, toolchain: Toolchain, progress: Progress) -> None:
    """Build it beside its place, then put it there; the lock is held."""
    state = folder.with_name(f"{folder.name}.apt")
    series = ".".join(sysroot.kernel_version.split(".")[:2])
    package = f"linux-source-{series}={sysroot.kernel_version}"
    (archive,) = fetch(state, sysroot, (package,), ASSUMED, progress)
    making = folder.with_name(f"{folder.name}.new")
    cache.remove(making)
    making.mkdir()
    progress.phase(NAME)
    (making / f"{NAME}.c").write_bytes(_source(archive))
    (making / "Makefile").write_text(f"obj-m := {NAME}.o\n")
    toolchain.build(making)
    progress.done()
    making.rename(folder)
    cache.remove(state)


def _source(archive: Path) -> bytes:
    """The source file, from the archive of the package that has the kernel's whole tree."""
    unpacking = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(unpacking, stdout=subprocess.PIPE) as package:
        try:
            with tarfile.open(fileobj=package.stdout, mode="r|") as files:
                for tree in files:
                    if tree.name.endswith(".tar.xz"):
                        packed = files.extractfile(tree)
                        with tarfile.open(fileobj=packed, mode="r|xz") as sources:
                            return _member(sources)
        finally:
            package.kill()  # it has more to say, which nobody wants to know
    raise HostError(f"{archive.name} has no .tar.xz in it", "report it: Debian has changed it")


def _member(sources: tarfile.TarFile) -> bytes:
    for file in sources:
        if file.name.partition("/")[2] == SOURCE:
            found = sources.extractfile(file)
            assert found is not None
            return found.read()
    raise HostError(f"the kernel's source has no {SOURCE}", "report it: Linux has moved it")
