"""What a program needs is found, and a missing library is named."""

import shutil
from pathlib import Path

import pytest

from images import elf
from images.errors import HostError

PROGRAM = Path("/usr/bin/env")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one program of this machine in it, without its libraries."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    shutil.copy(PROGRAM, tmp_path / "usr/bin/env")
    return tmp_path


def test_needs_of_a_program_has_libraries_and_the_loader():
    found = elf.needs(PROGRAM)
    assert "libc.so.6" in found.libraries
    assert found.interpreter is not None
    assert "ld-linux" in found.interpreter


def test_needs_of_a_script_is_nothing(tmp_path: Path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert elf.needs(script) == elf.Needs((), None)


def test_closure_has_the_libraries_and_the_loader(root: Path):
    libraries = root / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for name in elf.needs(PROGRAM).libraries:
        shutil.copy(Path("/") / libraries.relative_to(root) / name, libraries)
    (root / "usr/lib64").mkdir()
    shutil.copy("/usr/lib64/ld-linux-x86-64.so.2", root / "usr/lib64")
    found = elf.closure(root, ["usr/bin/env"])
    assert "usr/bin/env" in found
    assert "usr/lib/x86_64-linux-gnu/libc.so.6" in found
    assert "lib64/ld-linux-x86-64.so.2" in found
    assert found == sorted(set(found))


def test_closure_without_a_library_names_it_and_who_wants_it(root: Path):
    with pytest.raises(HostError, match=r"usr/bin/env needs the library libc\.so\.6"):
        elf.closure(root, ["usr/bin/env"])
