"""Access lists of files, as the kernel takes and gives them."""

import errno
import os
import struct
from pathlib import Path

import pytest

from mdevemu import acl

GROUP, OTHER = 0x04, 0x20
"""Spec: Linux, include/uapi/linux/posix_acl.h"""


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "file"
    made.touch(0o700)
    return made


def test_users_are_admitted_besides_the_owner_and_nobody_else(file):
    file.chmod(0o777)
    acl.admit(file, {9, 7}, acl.READ | acl.WRITE)
    assert acl.admitted(file) == {7: 6, 9: 6}
    assert os.stat(file).st_mode & 0o707 == 0o700
    entries = struct.iter_unpack("<HHI", os.getxattr(file, "system.posix_acl_access")[4:])
    granted = {tag: permissions for tag, permissions, _ in entries}
    assert (granted[GROUP], granted[OTHER]) == (0, 0)
    acl.admit(file, {9}, acl.EXECUTE)
    assert acl.admitted(file) == {9: 1}


def test_without_users_its_mode_is_all_there_is(file):
    acl.admit(file, {9}, acl.READ)
    acl.admit(file, (), 0)
    assert acl.admitted(file) == {}
    assert os.stat(file).st_mode & 0o777 == 0o700
    assert os.listxattr(file) == []


def test_mode_that_was_changed_since_counts(file):
    acl.admit(file, {9}, acl.READ | acl.WRITE)
    file.chmod(0o740)
    assert acl.admitted(file) == {9: 4}


def test_file_system_without_lists_is_an_error():
    with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is looked at)
        acl.admit(Path("/proc/self/comm"), {9}, acl.READ)
    assert caught.value.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES)
    assert acl.admitted(Path("/proc/self/comm")) == {}
