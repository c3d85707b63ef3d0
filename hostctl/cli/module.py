"""``hostctl module``: kernel modules for the guest's kernel."""

from pathlib import Path

import click

from hostctl.cli.options import Commands, json_option
from hostctl.output import Output
from images import dmatest
from images.errors import BuildError
from images.progress import Console
from images.sysroot import Sysroot
from images.toolchain import Toolchain
from mdevemu.errors import ConfigError


@click.group(cls=Commands)
def module() -> None:
    """Modules for the kernel of the guests."""


@module.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def build(folder: Path, as_json: bool) -> None:
    """Build the modules in FOLDER, which has a Makefile or a Kbuild; print where they are.

    Compiler and headers are fetched the first time.
    """
    output = Output(json=as_json)
    progress = Console(output.err)
    toolchain = Toolchain.ensure(Sysroot.ensure(progress), progress)
    try:
        made = toolchain.build(folder)
    except BuildError as error:
        said = f"{error.wrong}\n{error.details or error.fix}"
        raise ConfigError("FOLDER", said) from None
    _tell(output, "module.build", toolchain.release, made)


@module.command("dmatest")
@json_option
def build_dmatest(as_json: bool) -> None:
    """Build dmatest, Linux's test of DMA drivers, and print where it is."""
    output = Output(json=as_json)
    progress = Console(output.err)
    sysroot = Sysroot.ensure(progress)
    made = dmatest.ensure(sysroot, progress)
    _tell(output, "module.dmatest", sysroot.kernel_release, [made])


def _tell(output: Output, name: str, release: str, made: list[Path]) -> None:
    if output.json:
        output.record(name, {"release": release, "modules": [str(file) for file in made]})
        return
    for file in made:
        output.line(str(file))
