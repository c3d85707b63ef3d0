"""``hostctl accel-config``: groups, work queues and engines in accel-config's own files."""

from pathlib import Path

import click

from hostctl.accel_config import load, save
from hostctl.cli.options import Commands
from hostctl.output import Output
from mdevemu.errors import ConfigError
from mdevemu.profile import NAME_CHARACTERS, is_name, locate
from mdevemu.profile import load as load_profile


@click.group(cls=Commands)
def accel_config() -> None:
    """Read and write the files of Intel's accel-config."""


@accel_config.command()
@click.argument("name", metavar="PROFILE")
@click.option("-s", "--saved-file", type=click.Path(path_type=Path), help="Instead of stdout.")
@click.option("--device", default="dsa0", show_default=True, help="What the device is called.")
def save_config(name: str, saved_file: Path | None, device: str) -> None:
    """Save the groups, queues and engines of PROFILE, a file or the name of a shipped one."""
    text = save(load_profile(locate(name)), device)
    if saved_file is None:
        Output().line(text.rstrip("\n"))
        return
    try:
        saved_file.write_text(text)
    except OSError as error:
        raise ConfigError(str(saved_file), error.strerror or str(error)) from None


@accel_config.command()
@click.argument("profile", metavar="PROFILE.toml", type=click.Path(path_type=Path))
@click.option(
    "-c", "--config-file", required=True, type=click.Path(path_type=Path), help="The file to load."
)
@click.option("--device", help="Which device of the file; needed if there are several.")
def load_config(profile: Path, config_file: Path, device: str | None) -> None:
    """Write a new profile that is set up as a device in a file of accel-config.

    It has a type for a dedicated queue (1dwq) and one for a place at a shared one (1swq).
    """
    if not is_name(profile.stem):
        wrong = f"{profile.stem!r} is no name (accepted: {NAME_CHARACTERS})"
        raise ConfigError(str(profile), wrong)
    text = load(config_file, device, profile.stem)
    try:
        with profile.open("x") as made:
            made.write(text)
    except OSError as error:
        raise ConfigError(str(profile), error.strerror or str(error)) from None
    Output().line(str(profile))
