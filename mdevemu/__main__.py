"""``python -m mdevemu``: serve an accelerator, describe a device, check the IOMMU."""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

import click

from mdevemu.describe import FORMATS
from mdevemu.emulator import CONTROL_SOCKET, Emulator
from mdevemu.errors import ConfigError, complain
from mdevemu.garbage import Residents
from mdevemu.iommu import bench, verify
from mdevemu.personalities import registry
from mdevemu.profile import load, locate

PR_SET_PDEATHSIG = 1  # Linux, <linux/prctl.h>


@click.group()
def main() -> None:
    """A simulated accelerator, sliced into mediated devices behind vfio-user sockets."""


@main.command()
@click.argument("profile")
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the sockets; made with mode 0700.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder with definitions in etc/mdevctl.d; the automatic ones are started. Without "
    "--state, it keeps what engines were reprogrammed to.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Folder that keeps the mdevs: they are saved to it at the end, and brought back from it; "
    "and what engines were reprogrammed to.",
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Save mdevs that have changed to the folder of --state so often, while they work.",
)
@click.option("--parent", type=int, help="End when the process with this id, our parent, ends.")
def serve(
    profile: str,
    runtime: Path,
    root: Path | None,
    state: Path | None,
    save_every: float | None,
    parent: int | None,
) -> None:
    """Serve an accelerator until SIGTERM, SIGINT or the command quit.

    PROFILE is a file, or the name of a profile that comes with the program.
    Prints one line of JSON when its control socket listens.  Exit status 1: it ended,
    and an mdev that should have been saved was not.
    """
    if parent is not None:
        _end_with(parent)
    _allow_descriptors()
    if save_every is not None and state is None:
        raise ConfigError("--save-every", "needs --state FOLDER to save to")
    interval = None if save_every is None else round(save_every * 1e9)
    ready = json.dumps({"ready": True, "control": str(runtime / CONTROL_SOCKET)})
    spec = load(locate(profile))
    emulator = Emulator(spec, runtime, root=root, state=state, save_every=interval)
    Residents(emulator.trace, len(emulator.parent.mdevs))
    lost = emulator.serve(lambda: print(ready, flush=True))
    for line in lost:
        complain(line)
    sys.exit(int(bool(lost)))


@main.command()
@click.argument("personality")
@click.option(
    "--format", "form", type=click.Choice(sorted(FORMATS)), default="markdown", show_default=True
)
def describe(personality: str, form: str) -> None:
    """Print a device's registers, structs and codes, made from its declarations."""
    click.echo(FORMATS[form](registry.find(personality)), nl=False)


@main.command()
@click.argument(
    "files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE..."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def vectors(files: tuple[Path, ...], as_json: bool) -> None:
    """Hold the IOMMU against recorded answers, plain or in xz; exit status 1 if one differs."""
    found = []
    for file in files:
        tally = verify.verify(file)
        found.append(tally)
        if not as_json:
            for line in verify.lines(tally):
                click.echo(line)
    if as_json:
        click.echo(json.dumps({"files": [verify.record(tally) for tally in found]}))
    sys.exit(int(any(tally.mismatches for tally in found)))


@main.group(name="bench")
def benchmarks() -> None:
    """Measure how fast something is on this machine."""


@benchmarks.command()
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=9,
    show_default=True,
    help="How often everything is measured.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def iommu(rounds: int, as_json: bool) -> None:
    """Compare translations with dictionary lookups; each number is the median of all rounds."""
    found = bench.measure(rounds)
    if as_json:
        click.echo(json.dumps({"rounds": rounds, "kinds": bench.record(found)}))
        return
    for line in bench.lines(found):
        click.echo(line)


def _allow_descriptors() -> None:
    """Take as many descriptors as we may have: clients lend files and eventfds by the hundred."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _end_with(parent: int) -> None:
    """Have the kernel end us with SIGTERM when our parent ends, also if it just has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise ConfigError("--parent", f"process {parent} is not our parent, or is gone")


if __name__ == "__main__":
    try:
        main()
    except ConfigError as wrong:
        click.echo(f"mdevemu: {wrong}", err=True)
        sys.exit(2)
