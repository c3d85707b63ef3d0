"""Who cannot mount the mdev tree is told what is missing; tests/protocol mounts it."""

import os
import re
from pathlib import Path

import pytest

from hostctl.errors import HostError
from hostctl.sysfs.mount import check
from tests.support.users import nobody_special

OPEN = Path(os.devnull)
"""A device that everybody may open."""


def test_machine_without_fuse_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"there is no .*/fuse") as caught:
        check(tmp_path / "fuse")
    assert "modprobe" in caught.value.fix


def test_device_of_others_is_named(tmp_path: Path) -> None:
    device = tmp_path / "fuse"
    device.touch(0)
    wrong = re.escape(f"{device} is not for this user")
    with nobody_special(), pytest.raises(HostError, match=wrong) as caught:
        check(device)
    assert "chmod" in caught.value.fix


def test_user_needs_the_helper_and_root_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with nobody_special(), pytest.raises(HostError, match="no fusermount3") as caught:
        check(OPEN)
    assert "unshare" in caught.value.fix
    if os.geteuid() == 0:
        check(OPEN)
