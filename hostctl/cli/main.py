"""The whole command line; the one place where errors become exit statuses."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click
from rich.markup import escape

from hostctl.cli import (
    accel_config,
    bench,
    coverage,
    demo,
    doctor,
    engine,
    fault,
    iommu,
    lab,
    layout,
    mdev,
    module,
    new,
    profile,
    sysfs,
    topology,
    trace,
    vectors,
    vfio_user,
    vm,
    vm_run,
)
from hostctl.cli.options import Commands
from hostctl.errors import ENVIRONMENT, INTERRUPTED, OK, USAGE, HostError, exit_status
from hostctl.output import Output
from hostctl.processes import Terminated
from images.errors import HostError as ImageError
from mdevemu import __version__
from mdevemu.errors import MdevError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hostctl")
def hostctl() -> None:
    """Slice a simulated accelerator, give the slices to VMs, and see that they stay apart.

    Exit status: 0 ok, 1 something did not hold, 2 usage, 3 this machine, 4 device or guest,
    124 timeout, 130 interrupted.
    """


for command in (
    doctor.doctor,
    demo.demo,
    lab.up,
    lab.down,
    lab.ps,
    lab.cleanup,
    vm.run,
    vm.vm,
    mdev.mdev,
    module.module,
    profile.profile,
    accel_config.accel_config,
    layout.layout,
    topology.find,
    topology.topo,
    engine.engine,
    sysfs.sysfs,
    iommu.iommu,
    fault.fault,
    coverage.coverage,
    new.new,
    new.describe,
    bench.bench,
    vfio_user.vfio_user,
    trace.trace,
):
    hostctl.add_command(command)
iommu.iommu.add_command(vectors.vectors)
vm.vm.add_command(vm_run.run)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(signal.Signals(number))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    output = Output(json="--json" in arguments)
    try:
        status = hostctl.main(list(arguments), prog_name="hostctl", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else OK
    except click.ClickException as error:
        return _refuse(output, "UsageError", error.format_message(), USAGE)
    except MdevError as error:
        return _refuse(output, type(error).__name__, str(error), exit_status(error))
    except ImageError as error:
        return _refuse(output, "HostError", str(error), ENVIRONMENT)
    except (click.Abort, KeyboardInterrupt):
        return _refuse(output, "Interrupted", "interrupted", INTERRUPTED)
    except Terminated as error:
        return 128 + error.number
    except BrokenPipeError:
        # The reader has seen enough; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f": {error.filename}" if error.filename else ""
        full = HostError(
            f"{error.strerror}{place}",
            "free some, or point TMPDIR, XDG_RUNTIME_DIR and XDG_CACHE_HOME to where there is",
        )
        return _refuse(output, "HostError", str(full), ENVIRONMENT)


def _refuse(output: Output, kind: str, message: str, status: int) -> int:
    """Say an error on stderr, and as data for whoever asked for JSON."""
    output.narration.print(f"[bold red]error:[/] {escape(message)}")
    if output.json:
        output.record("error", {"error": {"kind": kind, "message": message, "status": status}})
    return status
