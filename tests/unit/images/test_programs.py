"""Which QEMU is used: real programs that say what a QEMU says."""

from pathlib import Path

import pytest

from images import programs
from images.errors import HostError
from images.programs import Program

PRIVATE = Program(["/private/qemu"], {}, "private")


def qemu(folder: Path, text: str, device: int = 0) -> str:
    """Put a program into ``folder`` that prints ``text`` for --version; the folder as a PATH."""
    file = folder / programs.QEMU
    file.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "{text}"; exit 0; }}\nexit {device}\n'
    )
    file.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)", (11, 1)),
        ("QEMU emulator version 10.0.13\nCopyright", (10, 0)),
        ("qemu-img version 11.1.3", None),
        ("", None),
    ],
)
def test_version_of_what_a_program_prints(text, found):
    assert programs.version(text) == found


@pytest.mark.parametrize("release", ["10.1.0", "10.2", "11.1.3"])
def test_find_qemu_with_a_new_one_on_the_path_uses_it(tmp_path: Path, release: str):
    path = qemu(tmp_path, f"QEMU emulator version {release}")
    found = programs.find_qemu(lambda: PRIVATE, path)
    assert found.argv_prefix == [str(tmp_path / programs.QEMU)]
    assert found.env == {}


@pytest.mark.parametrize(
    ("text", "device", "reason"),
    [
        ("QEMU emulator version 7.2.0", 0, "its version is 7.2, needed is 10.1"),
        ("QEMU emulator version 10.1.0", 1, "it lacks the device vfio-user-pci"),
        ("hello", 0, "it is not a QEMU"),
    ],
)
def test_find_qemu_with_an_unfit_one_uses_the_private_root(tmp_path: Path, text, device, reason):
    path = qemu(tmp_path, text, device)
    assert programs.find_qemu(lambda: PRIVATE, path) is PRIVATE
    assert programs.unfit(Program([f"{path}/{programs.QEMU}"])) == reason


def test_find_qemu_with_none_on_the_path_uses_the_private_root(tmp_path: Path):
    assert programs.find_qemu(lambda: PRIVATE, str(tmp_path)) is PRIVATE


def test_run_of_a_failing_program_shows_what_it_said():
    with pytest.raises(HostError, match="exit status 3") as raised:
        Program(["/bin/sh", "-c"], {}, "sh").run("echo broken >&2; exit 3")
    assert raised.value.details == "broken"


def test_run_of_an_absent_program_says_that_it_does_not_start(tmp_path: Path):
    with pytest.raises(HostError, match="does not start"):
        Program([str(tmp_path / "none")], {}, "none").run()


def test_run_adds_to_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEPT", "1")
    shell = Program(["/bin/sh", "-c"], {"ADDED": "2"})
    assert shell.run("echo $KEPT$ADDED$MORE", MORE="3") == b"123\n"
