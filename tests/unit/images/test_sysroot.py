"""What a private root tells about its kernel and its programs."""

from pathlib import Path

import pytest

from images import sysroot
from images.errors import HostError
from images.sysroot import Sysroot

RELEASE = "6.12.1+deb13-amd64"
DEPENDENCIES = """\
kernel/drivers/vfio/vfio.ko.xz:
kernel/drivers/vfio/pci/vfio-pci-core.ko.xz: kernel/drivers/vfio/vfio.ko.xz
kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/pci/vfio-pci-core.ko.xz \
kernel/drivers/vfio/vfio.ko.xz
kernel/drivers/vfio/vfio_iommu_type1.ko.xz: kernel/drivers/vfio/vfio.ko.xz
"""


@pytest.fixture
def root(tmp_path: Path) -> Sysroot:
    """A private root with a kernel's indexes, and nothing else."""
    modules = tmp_path / "root/usr/lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text(DEPENDENCIES)
    (modules / "modules.builtin").write_text("kernel/drivers/char/virtio_console.ko\n")
    (tmp_path / "root/boot").mkdir()
    (tmp_path / "root/boot" / f"vmlinuz-{RELEASE}").write_bytes(b"")
    return Sysroot(tmp_path)


def names(files: list[Path]) -> list[str]:
    return [sysroot.module_name(file) for file in files]


def test_kernel_release_is_that_of_the_kernel(root: Sysroot):
    assert root.kernel_release == RELEASE
    assert root.kernel.name == f"vmlinuz-{RELEASE}"


def test_module_closure_loads_what_is_needed_first(root: Sysroot):
    assert names(root.module_closure(["vfio-pci"])) == ["vfio", "vfio_pci_core", "vfio_pci"]


def test_module_closure_of_several_has_each_file_once(root: Sysroot):
    found = names(root.module_closure(["vfio_iommu_type1", "vfio_pci", "vfio"]))
    assert found == ["vfio", "vfio_iommu_type1", "vfio_pci_core", "vfio_pci"]


def test_module_closure_of_a_built_in_module_is_empty(root: Sysroot):
    assert root.module_closure(["virtio-console"]) == []


def test_module_closure_of_an_unknown_module_names_it(root: Sysroot):
    with pytest.raises(HostError, match="has no module nosuch"):
        root.module_closure(["nosuch"])


def test_program_runs_with_the_loader_and_the_libraries_of_the_root(root: Sysroot):
    found = root.program("usr/bin/kmod", "depmod").argv_prefix
    assert found[0].endswith("root/usr/lib64/ld-linux-x86-64.so.2")
    assert found[1:3] == ["--library-path", str(root.path / "usr/lib/x86_64-linux-gnu")]
    assert found[3:] == ["--argv0", "depmod", str(root.path / "usr/bin/kmod")]


def test_qemu_has_its_firmware_and_modules_from_the_root(root: Sysroot):
    found = root.qemu()
    assert found.argv_prefix[-4:] == [
        *("-L", str(root.path / "usr/share/qemu")),
        *("-L", str(root.path / "usr/share/seabios")),
    ]
    assert found.env["QEMU_MODULE_DIR"].startswith(str(root.path))
