"""``hostctl sysfs``: the mdev tree of a Linux host, for tools that know nothing of us."""

import errno
import sys
from functools import partial
from pathlib import Path

import click

from hostctl import runtime
from hostctl.cli.options import Commands, emulator_options
from hostctl.control import Control
from hostctl.errors import HostError
from hostctl.output import Output
from hostctl.sysfs import callout
from hostctl.sysfs.mount import check, load_binding, serve
from images.progress import Console
from mdevemu.definitions import FOLDER
from mdevemu.errors import ConfigError

SCRIPTS = "usr/lib/mdevctl/scripts.d"


@click.group(cls=Commands)
def sysfs() -> None:
    """The mdev tree of a Linux host, for tools that know nothing of us."""


@sysfs.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@emulator_options
def mount(folder: Path, lab: str | None, control: str | None) -> None:
    """Serve the accelerator's mdev tree at DIR/sys until Ctrl-C.

    With MDEVCTL_ENV_ROOT=DIR, mdevctl works on it; what it defines is in DIR/etc/mdevctl.d.
    """
    output = Output()
    path = control or runtime.select(lab)[1].control
    Control(path).close()
    check()
    place = folder / "sys"
    _prepare(folder, place)
    binding = load_binding(Console(output.err))
    ready = partial(output.say, f"mdev tree at {place}; Ctrl-C ends it")
    serve(binding, lambda: Control(path), place, ready)


def _prepare(folder: Path, place: Path) -> None:
    """Make the folders that mdevctl looks for, and our callout script in its place."""
    script = folder / SCRIPTS / "callouts" / "mdevemu"
    try:
        for each in (folder / FOLDER, script.parent, folder / SCRIPTS / "notifiers", place):
            each.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise ConfigError(str(place), "is not empty")
        source = Path(callout.__file__).read_text()
        script.write_text(f"#!{sys.executable} -I\n{source}")
        script.chmod(0o755)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            fix = f"umount {place}, or fusermount3 -u {place}"
            raise HostError(f"{place} is mounted, and who served it is gone", fix) from None
        raise ConfigError(str(folder), error.strerror or str(error)) from None
