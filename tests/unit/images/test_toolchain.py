"""The toolchain and what it builds, with a make and archives of the test's own."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from images import archive, dmatest, packages, toolchain
from images.errors import BuildError, HostError
from images.progress import Silent
from images.sysroot import Sysroot
from images.toolchain import Toolchain

RELEASE, VERSION = "6.12.1+deb13-amd64", "6.12.1-1"


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    """A private root with a kernel, and nothing else."""
    (tmp_path / "sysroot/root/boot").mkdir(parents=True)
    (tmp_path / f"sysroot/root/boot/vmlinuz-{RELEASE}").write_bytes(b"")
    names = f'{{"linux-image-{RELEASE}_{VERSION}_amd64.deb": "", "make_4.4_amd64.deb": ""}}'
    (tmp_path / "sysroot/packages.json").write_text(names)
    return Sysroot(tmp_path / "sysroot")


@pytest.fixture
def tools(tmp_path: Path) -> Toolchain:
    """A toolchain whose make is a script of a test's."""
    (tmp_path / "tools/usr/bin").mkdir(parents=True)
    return Toolchain(tmp_path / "tools", RELEASE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "Kbuild").write_text("obj-m := own.o\n")
    return folder


def make(tools: Toolchain, script: str) -> None:
    file = tools.path / "usr/bin/make"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_kernel_version_is_that_of_its_package(sysroot: Sysroot):
    assert sysroot.kernel_version == VERSION


def test_modules_are_built_in_their_folder_against_the_headers(tools: Toolchain, source: Path):
    make(tools, f'echo "$@" > {source}/asked; echo own.o > {source}/modules.order')
    assert tools.build(source) == [source / "own.ko"]
    asked = (source / "asked").read_text().split()
    assert asked[:2] == ["-C", str(tools.path / f"usr/src/linux-headers-{RELEASE}")]
    assert f"M={source}" in asked


def test_variables_of_a_make_around_us_mean_nothing(
    tools: Toolchain, source: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MAKEFLAGS", "n")
    make(tools, f"env > {source}/seen; : > {source}/modules.order")
    tools.build(source)
    assert "MAKEFLAGS" not in (source / "seen").read_text()


def test_what_does_not_build_is_told_with_the_last_lines(tools: Toolchain, source: Path):
    make(tools, "seq 100; echo 'own.c:1: error: no' >&2; exit 2")
    with pytest.raises(BuildError, match="do not build: make ended with 2") as refused:
        tools.build(source)
    assert refused.value.details.splitlines()[-2:] == ["100", "own.c:1: error: no"]
    assert len(refused.value.details.splitlines()) == toolchain.LAST


def test_folder_without_a_makefile_or_with_a_space_is_refused(tools: Toolchain, tmp_path: Path):
    with pytest.raises(BuildError, match="has no Kbuild and no Makefile"):
        tools.build(tmp_path / "missing")
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/Makefile").touch()
    with pytest.raises(BuildError, match="make takes no path with a space"):
        tools.build(tmp_path / "a b")


def test_kernel_that_the_mirror_has_no_more_is_said_to_be_so(
    sysroot: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def gone(*_: object) -> list[Path]:
        raise HostError("apt-get install failed", "look", "E: Unable to locate package")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packages, "fetch", gone)
    with pytest.raises(HostError, match="make cannot be fetched: apt-get") as said:
        Toolchain.ensure(sysroot)
    assert str(sysroot.folder) in said.value.fix
    assert said.value.details == "E: Unable to locate package"


def package(folder: Path, files: dict[str, bytes]) -> Path:
    """A Debian archive with those files."""
    root = folder / "package"
    (root / "DEBIAN").mkdir(parents=True)
    control = "Package: own\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    (root / "DEBIAN/control").write_text(control)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    made = folder / "own.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(made)], check=True, capture_output=True)
    return made


def test_source_of_dmatest_is_found_in_the_archive_in_the_archive(tmp_path: Path):
    (tmp_path / "dmatest.c").write_bytes(b"the source")
    for name in ("drivers/dma/dmatest.c", "drivers/dma/dmatest.c.orig"):
        with tarfile.open(tmp_path / "tree.tar.xz", "w:xz") as tree:
            tree.add(tmp_path / "dmatest.c", f"linux-source-6.12/{name}")
        found = package(
            tmp_path / name.replace("/", "-"),
            {
                "usr/share/doc/x": b"",
                "usr/src/linux-source-6.12.tar.xz": (tmp_path / "tree.tar.xz").read_bytes(),
            },
        )
        if name.endswith(".c"):
            assert dmatest._source(found) == b"the source"
        else:
            with pytest.raises(HostError, match=r"has no drivers/dma/dmatest\.c"):
                dmatest._source(found)


def test_package_without_a_tree_in_it_is_refused(tmp_path: Path):
    with pytest.raises(HostError, match=r"own\.deb has no \.tar\.xz in it"):
        dmatest._source(package(tmp_path, {"usr/share/doc/x": b""}))


def test_archive_that_cannot_be_unpacked_is_named(tmp_path: Path):
    (tmp_path / "bad.deb").write_bytes(b"no archive")
    with pytest.raises(HostError, match=r"cannot unpack bad\.deb"):
        archive.unpack([tmp_path / "bad.deb"], tmp_path / "root", Silent())
