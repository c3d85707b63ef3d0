"""An emulator as hostctl starts it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.emulator import Emulator
from hostctl.spec import find_lab, read_lab
from tests.unit.hostctl.command import Hostctl


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """For sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def hostctl(folder: Path) -> Hostctl:
    """Commands with their runtime folder there."""
    return Hostctl(folder)


@pytest.fixture(scope="module")
def ioat() -> Iterator[Emulator]:
    """The accelerator of the lab ioat, without its lab."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        accelerator = read_lab(find_lab("ioat")).profile
        made = Emulator(accelerator, Path(name) / "run", Path(name) / "log", os.getpid())
        yield made
        made.close()
