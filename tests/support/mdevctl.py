"""Two ways to the same thing: Debian's mdevctl on our live tree, and ``hostctl mdev``."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostctl.cli import main
from images.errors import HostError
from images.recipe import of_release
from images.sysroot import Sysroot
from mdevemu.definitions import FOLDER
from tests.support.serving import LIMIT, ROOT, Serving

PARENT = "0000:3b:00.0"
FETCHING = 180.0
"""Seconds for libfuse to be fetched, where the machine has none."""

RELEASE = "trixie"
"""The first release of Debian with an mdevctl that looks at MDEVCTL_ENV_ROOT."""


def program():
    """How to run Debian's mdevctl; a skip where it cannot be had."""
    try:
        return Sysroot.ensure(None, of_release(RELEASE, "mdevctl")).program("usr/bin/mdevctl")
    except HostError as missing:
        pytest.skip(f"no mdevctl from Debian: {missing}")


def mounted(folder, control):
    """The process that serves the tree below ``folder``; a skip where there is no FUSE.

    Its paths are relative, as they are typed.
    """
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/fuse: {error.strerror}")
    command = [sys.executable, "-m", "hostctl", "sysfs", "mount", folder.name]
    process = subprocess.Popen(
        [*command, "--control", os.path.relpath(control, folder.parent)],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + FETCHING
    while process.poll() is None and not os.path.ismount(folder / "sys"):
        if time.monotonic() > end:
            process.kill()
        time.sleep(0.02)
    if process.returncode is not None:
        pytest.skip(f"the tree cannot be mounted: {process.communicate()[1]}")
    return process


class World:
    """An accelerator with definitions, and one way to work on them."""

    def __init__(self, folder, text):
        self.folder = folder
        self.text = text
        self.root = folder / "root"
        self.root.mkdir(exist_ok=True)
        self.up()

    def up(self):
        self.serving = Serving(self.folder, "--root", str(self.root), text=self.text)
        self.socket = self.serving.runtime / "control.sock"

    def down(self):
        return self.serving.stop()

    def state(self):
        """Everything that is left behind: definitions byte for byte, mdevs and attributes."""
        place = self.root / FOLDER
        files = {
            str(path.relative_to(place)): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        control = self.serving.control()
        mdevs = {
            each["uuid"]: (each["type"], each["weight"], each["hbm"])
            for each in control("query-mdevs")
        }
        control.close()
        return files, mdevs


class Stock(World):
    """Debian's mdevctl, on the tree through FUSE."""

    def __init__(self, folder, text):
        self.mdevctl = program()
        super().__init__(folder, text)
        self.mount = mounted(self.root, self.socket)

    def run(self, *arguments):
        """(whether it succeeded, what it printed)."""
        done = subprocess.run(
            [*self.mdevctl.argv_prefix, *arguments],
            env=os.environ | {"MDEVCTL_ENV_ROOT": str(self.root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        return done.returncode == 0, done.stdout

    def close(self):
        self.mount.send_signal(signal.SIGINT)
        _, said = self.mount.communicate(timeout=LIMIT)
        assert (self.mount.returncode, said) == (0, "mdev tree at root/sys; Ctrl-C ends it\n")
        assert not os.path.ismount(self.root / "sys")
        self.down()


class Ours(World):
    """``hostctl mdev``, in this process."""

    def run(self, *arguments):
        """(whether it succeeded, what it printed)."""
        before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
        out, err = io.StringIO(), io.StringIO()
        where = [] if arguments[0] == "types" else ["--root", str(self.root)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main.run(["mdev", *arguments, *where, "--control", str(self.socket)])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert (status == 0) == (err.getvalue() == ""), err.getvalue()
        return status == 0, out.getvalue()

    def close(self):
        self.down()


def shipped(name):
    """The text of a shipped profile."""
    return (Path(ROOT) / "mdevemu/profile/profiles" / f"{name}.toml").read_text()
