"""What an operator brings into a guest: modules behind its own file system, in one initramfs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from hostctl.vm.kernel import ModuleFile, Modules
from images import cpio
from images.cpio import Tree

FOLDER = "/run/modules"
"""Where single modules are in the guest."""


def place(module: ModuleFile) -> str:
    """The path of a single module in the guest."""
    return f"{FOLDER}/{module.name}.ko"


def write(
    output: Path, initrd: Path, modules: Modules | None, single: Sequence[ModuleFile]
) -> None:
    """Write the guest's file system ``initrd``, and modules on top of it, to ``output``.

    The kernel unpacks one archive after the other, and later files win.
    Spec: Linux, Documentation/driver-api/early-userspace/buffer-format.rst

    Raises:
        OSError: something cannot be read or written.
    """
    tree = Tree()
    for module in single:
        tree.add(place(module), cpio.file(module.file.read_bytes()))
    if modules is not None:
        home = f"usr/lib/modules/{modules.release}"
        for file in modules.files():
            tree.add(f"{home}/{file.relative_to(modules.folder)}", cpio.file(file.read_bytes()))
    with output.open("wb") as stream, initrd.open("rb") as base:
        shutil.copyfileobj(base, stream)
        tree.write(stream)
