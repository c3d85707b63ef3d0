"""Another user of the machine; only root can become one."""

import os
import subprocess
from contextlib import contextmanager

import pytest

STRANGER = 51_234
"""An id that no user has."""

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def nobody_special():
    """This process has no more rights than a user who is not root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(before)


def start_as(uid, script, *arguments):
    """The process of a Python script of another user, who may read nothing of ours."""
    return subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", script, *map(str, arguments)],
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )


def run_as(uid, script, *arguments):
    """What such a script prints."""
    with start_as(uid, script, *arguments) as process:
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return out
