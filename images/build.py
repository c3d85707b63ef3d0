"""Recipe, private root and agent to a kernel and an initramfs; the same inputs, the same bytes."""

import hashlib
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import cache, cpio, elf
from images.cpio import Tree
from images.errors import HostError
from images.progress import Progress, Silent
from images.recipe import PORT, Recipe
from images.sysroot import Sysroot, module_name

PROJECT = Path(__file__).parent.parent
AGENT = PROJECT / "guest"
"""The package that the guest runs."""

HOME = "usr/lib/mdevemu"
"""Where the guest keeps it."""

KEPT = 4
"""Images that stay in the cache; older ones are removed when a new one is made."""

UNFINISHED = ".new-"
"""How the folder of an image that is being made begins; one is made at a time."""

INIT = """\
#!/bin/busybox sh
# First process of the guest: file systems, modules, device links; then the agent.
export PATH=/usr/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -s /proc/self/fd /dev/fd
if [ -e /sys/firmware/acpi/tables/VIOT ]; then
  # Every other device waits until its IOMMU has a driver.
  modprobe virtio_iommu
  for _ in $(seq 100); do
    ls /sys/class/virtio-ports/*/name > /dev/null 2>&1 && break
    sleep 0.1
  done
fi
# Of another kernel than the recipe's these may be missing, or modules.
modprobe -qa virtio_pci virtio_console {modules}
for port in /sys/class/virtio-ports/*; do
  read -r name < "$port/name" && ln -s "../${{port##*/}}" "/dev/virtio-ports/$name"
done
ifconfig lo up
hostname guest
read -r line < /proc/cmdline
case " $line " in *" mdevemu.shell "*) setsid cttyhack sh & ;; esac
PYTHONPATH=/{home} python3 -B -P -S -m guest --port {port}
echo "mdevemu: the agent ended with exit status $?"
poweroff -f
"""
"""Written to /init.  If the agent ends, so does the VM."""


@dataclass(frozen=True)
class Image:
    """A guest that boots.

    Attributes:
        kernel: an ELF kernel with a PVH entry, for QEMU's -kernel.
        initrd: an uncompressed initramfs (35 MB): under TCG zstd would add a second to the
            start, and lz4 gains nothing.
        release: the kernel's release, as in ``uname -r``.
        line: kernel parameters that it wants (``intel_iommu=on`` is the caller's to add).
        port: name of the virtio-serial port on which its agent answers.
    """

    kernel: Path
    initrd: Path
    release: str
    line: str
    port: str = PORT


def build(
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    *,
    agent: Path = AGENT,
    sysroot: Sysroot | None = None,
) -> Image:
    """The image of ``recipe``; made if the cache does not have it.

    Args:
        recipe: what is in it.
        progress: told about a private root or an image that must be made.
        agent: folder of the package ``guest``.
        sysroot: where everything else comes from.

    Raises:
        HostError: something that is needed is not there; the cache is as before.
    """
    recipe, progress = recipe or Recipe(), progress or Silent()
    sysroot = sysroot or Sysroot.ensure(progress)
    if not (agent / "__main__.py").exists():
        raise HostError(f"no agent in {agent}", "use a complete clone of the project")
    folder = cache.folder() / "images" / _key(recipe, agent, sysroot)
    if not folder.exists():
        with cache.locked(folder.parent / "build"):
            if not folder.exists():
                progress.phase("guest image")
                _make(folder, recipe, agent, sysroot, progress)
                progress.done()
    return Image(sysroot.vmlinux, folder / "initrd", sysroot.kernel_release, " ".join(recipe.line))


def _key(recipe: Recipe, agent: Path, sysroot: Sysroot) -> str:
    """Hash of every input: recipe, packages, the agent's sources and this package's own."""
    digest = hashlib.sha256(f"{recipe!r} {sysroot.identity}".encode())
    for package in (agent, PROJECT / "images"):
        for source in sorted(package.rglob("*.py")):
            content = source.read_bytes()
            digest.update(f"\0{source.relative_to(package.parent)} {len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _make(folder: Path, recipe: Recipe, agent: Path, sysroot: Sysroot, progress: Progress) -> None:
    """Make the image beside its place, then put it there; the lock is held."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = sorted(folder.parent.glob("*/initrd"), key=os.path.getmtime)
    for image in old[: 1 - KEPT]:
        cache.remove(image.parent)
    for dead in folder.parent.glob(f"{UNFINISHED}*"):
        cache.remove(dead)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.parent) as name:
        making = Path(name)
        tree = Tree()
        _base(tree, recipe, sysroot)
        progress.advance(0.1, "kernel modules")
        _modules(tree, recipe, sysroot, making / "modules")
        progress.advance(0.5, "Python")
        _python(tree, recipe, agent, sysroot, making / "python")
        progress.advance(0.9, "initramfs")
        (making / "image").mkdir()
        with (making / "image" / "initrd").open("wb") as output:
            tree.write(output)
        (making / "image").rename(folder)


def _base(tree: Tree, recipe: Recipe, sysroot: Sysroot) -> None:
    """Programs with their libraries, links, data, and what the kernel itself looks for."""
    root = sysroot.path
    for name in ("bin", "lib", "lib64", "sbin"):
        tree.add(name, cpio.link(f"usr/{name}"))
    for name in ("dev", "proc", "root", "run", "sys"):
        tree.add(name, cpio.folder())
    tree.add("tmp", cpio.folder(0o1777))
    tree.add("etc/passwd", cpio.file(b"root:x:0:0:root:/root:/bin/sh\n"))
    tree.add("etc/group", cpio.file(b"root:x:0:\n"))
    tree.add("dev/console", cpio.character(5, 1))
    tree.add("dev/null", cpio.character(1, 3, 0o666))
    applets = sysroot.program("usr/bin/busybox").run("--list").decode().split()
    for name in applets:
        tree.add(f"usr/bin/{name}", cpio.link("busybox"))
    extensions = (_extension(recipe, name) for name in recipe.extensions)
    for path in elf.closure(root, (*recipe.programs, *extensions)):
        tree.add(_merged(path), cpio.file((root / path).read_bytes(), 0o755))
    for path in recipe.data:
        tree.add(path, cpio.file((root / path).read_bytes()))
    for path, target in recipe.links:
        tree.add(path, cpio.link(target))
        if path.startswith("usr/sbin/"):
            tree.entries.pop(path.replace("sbin", "bin"), None)  # busybox has one too
    text = INIT.format(modules=" ".join(recipe.loaded), home=HOME, port=PORT)
    tree.add("init", cpio.file(text.encode(), 0o755))


def _modules(tree: Tree, recipe: Recipe, sysroot: Sysroot, stage: Path) -> None:
    """The recipe's kernel modules, unpacked here and not in the guest, and their indexes."""
    folder = f"usr/lib/modules/{sysroot.kernel_release}"
    staged = stage / folder
    for file in sysroot.module_closure((*recipe.loaded, *recipe.modules)):
        place = staged / file.relative_to(sysroot.modules).with_name(f"{module_name(file)}.ko")
        place.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        place.write_bytes(lzma.decompress(content) if file.suffix == ".xz" else content)
    for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(sysroot.modules / index, staged)
    (stage / "lib").symlink_to("usr/lib")
    depmod = sysroot.program("usr/bin/kmod", "depmod")
    depmod.run("-b", str(stage), sysroot.kernel_release)
    _copy(tree, staged, folder, "*")


def _python(tree: Tree, recipe: Recipe, agent: Path, sysroot: Sysroot, stage: Path) -> None:
    """Python's library and the agent, as byte code alone: no source is read in the guest.

    Half of what a guest needs from /init to the agent's first answer is Python's start; with
    sources beside the byte code it would stat and read three files for each module.
    """
    library = _library(recipe)
    shutil.copytree(
        sysroot.path / library, stage / library, ignore=_unwanted(recipe), symlinks=True
    )
    shutil.copytree(agent, stage / HOME / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    python = sysroot.program(f"usr/bin/python{recipe.python}")
    compiler = ["-B", "-S", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"]
    python.run(
        *(*compiler, "-s", str(stage), "-p", "/", str(stage)),
        PYTHONHOME=str(sysroot.path / "usr"),
        PYTHONHASHSEED="0",  # the order of constant sets is in the byte code
    )
    _copy(tree, stage, "", "*.pyc")


def _unwanted(recipe: Recipe) -> Callable[[str, list[str]], set[str]]:
    """Which names of a folder of Python's library stay behind."""

    def ignore(folder: str, names: list[str]) -> set[str]:
        stems = {name: name.partition(".")[0] for name in names}
        if Path(folder).name == "encodings":
            return {name for name in names if stems[name] not in recipe.encodings}
        left = {*recipe.left_out, "__pycache__", "lib-dynload"}
        return {name for name in names if stems[name] in left or stems[name].startswith("config-")}

    return ignore


def _copy(tree: Tree, source: Path, target: str, pattern: str) -> None:
    """Add every file below ``source`` whose name matches ``pattern``, below ``target``."""
    for file in sorted(source.rglob(pattern)):
        if file.is_file():
            tree.add(f"{target}/{file.relative_to(source)}", cpio.file(file.read_bytes()))


def _library(recipe: Recipe) -> str:
    """The folder of Python's library in the root."""
    return f"usr/lib/python{recipe.python}"


def _extension(recipe: Recipe, name: str) -> str:
    """The path in the root of a Python module in C."""
    interpreter = f"cpython-{recipe.python.replace('.', '')}"
    return f"{_library(recipe)}/lib-dynload/{name}.{interpreter}-x86_64-linux-gnu.so"


def _merged(path: str) -> str:
    """A path as it is in a root whose /bin, /lib and /sbin are links into /usr."""
    return path if path.startswith("usr/") else f"usr/{path}"
