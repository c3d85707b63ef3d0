"""A guest's file system with the modules of a kernel of the operator's on top, as one initramfs."""

import shutil
from pathlib import Path

from hostctl.vm.kernel import Modules
from images import cpio
from images.cpio import Tree


def write(output: Path, initrd: Path, modules: Modules) -> None:
    """Write the guest's file system ``initrd``, and then ``modules``, to ``output``.

    The kernel unpacks one archive after the other, and later files win.
    Spec: Linux, Documentation/driver-api/early-userspace/buffer-format.rst

    Raises:
        OSError: something cannot be read or written.
    """
    tree = Tree()
    home = f"usr/lib/modules/{modules.release}"
    for file in modules.files():
        tree.add(f"{home}/{file.relative_to(modules.folder)}", cpio.file(file.read_bytes()))
    with output.open("wb") as stream, initrd.open("rb") as base:
        shutil.copyfileobj(base, stream)
        tree.write(stream)
