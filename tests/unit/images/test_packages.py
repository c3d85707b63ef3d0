"""apt with a state of its own: nothing unsigned, nothing of the machine's touched."""

import hashlib
from pathlib import Path

import pytest

from images import packages
from images.errors import HostError
from images.packages import Apt
from images.progress import Silent

INDEX = """\
Package: hello
Version: 1:2.0-1
Architecture: amd64
Depends: assumed-thing, hello-data (>= 1)
Filename: hello.deb
Size: 4
SHA256: {sum}

Package: hello-data
Version: 1.0~rc1
Architecture: all
Filename: hello-data.deb
Size: 4
SHA256: {sum}
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """An archive of two packages, which nobody has signed."""
    folder = tmp_path / "mirror"
    index = folder / "dists/trixie/main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    content = INDEX.format(sum=hashlib.sha256(b"deb\n").hexdigest()).encode()
    index.write_bytes(content)
    (folder / "dists/trixie/Release").write_text(
        "Origin: Debian\nSuite: stable\nCodename: trixie\nComponents: main\n"
        "Architectures: amd64\nDate: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:\n"
        f" {hashlib.sha256(content).hexdigest()} {len(content)} main/binary-amd64/Packages\n"
    )
    for name in ("hello", "hello-data"):
        (folder / f"{name}.deb").write_bytes(b"deb\n")
    return folder


def made(tmp_path: Path, mirror: Path, options: str) -> Apt:
    source = f"deb [{options}] file:{mirror} trixie main\n"
    return Apt(tmp_path / "state", {"assumed-thing": ""}, source)


def test_update_of_an_unsigned_mirror_is_refused(tmp_path: Path, mirror: Path):
    apt = made(tmp_path, mirror, "arch=amd64")
    with pytest.raises(HostError, match="apt-get update failed") as raised:
        apt.run("update", progress=Silent())
    assert "not signed" in raised.value.details


def test_resolve_gives_what_is_needed_and_leaves_out_what_is_assumed(tmp_path: Path, mirror: Path):
    apt = made(tmp_path, mirror, "arch=amd64 trusted=yes")
    apt.run("update", progress=Silent())
    assert apt.resolve(["hello"], Silent()) == [
        "hello-data_1.0~rc1_all.deb",
        "hello_1%3a2.0-1_amd64.deb",
    ]


def test_resolve_of_an_unknown_package_names_it(tmp_path: Path, mirror: Path):
    apt = made(tmp_path, mirror, "arch=amd64 trusted=yes")
    apt.run("update", progress=Silent())
    with pytest.raises(HostError) as raised:
        apt.resolve(["no-such-package"], Silent())
    assert "no-such-package" in raised.value.details


def test_keyring_of_a_machine_that_knows_the_suite_is_the_installed_one(tmp_path: Path):
    (tmp_path / "debian-archive-keyring.gpg").write_bytes(b"")
    (tmp_path / "debian-archive-trixie-automatic.gpg").write_bytes(b"")
    found = packages.keyring(tmp_path / "state", "trixie", Silent(), installed=tmp_path)
    assert found == tmp_path / "debian-archive-keyring.gpg"


def test_keyring_in_its_newer_form_is_found(tmp_path: Path):
    (tmp_path / "debian-archive-keyring.pgp").write_bytes(b"")
    (tmp_path / "debian-archive-trixie-automatic.pgp").write_bytes(b"")
    found = packages.keyring(tmp_path / "state", "trixie", Silent(), installed=tmp_path)
    assert found.suffix == ".pgp"
