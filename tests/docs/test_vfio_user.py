"""docs/vfio-user.md says what the code does: commands, limits, and examples that run."""

import re
from pathlib import Path

import pytest
from click import Group

from hostctl.cli.main import hostctl
from mdevemu.layout import sizeof
from mdevemu.mdev.host_iommu import FAR_END, FILES_END
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.features_wire import MAX_RANGES, MigState
from mdevemu.vfio_user.held import MOST_BYTES, MOST_FDS
from mdevemu.vfio_user.iofds_wire import IO_COMMAND, IO_RESPONSE, IoFd
from mdevemu.vfio_user.lender import LARGEST, MOST
from mdevemu.vfio_user.migration import ALLOWED
from mdevemu.vfio_user.pending import LIMIT
from mdevemu.vfio_user.wire import Command
from tests.support.serving import Serving, short_folder

PAGE = (Path(__file__).parents[2] / "docs/vfio-user.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_is_in_the_table_and_none_is_refused_as_such():
    rows = re.findall(r"^\| ([\d, ]+) [^|]*\| (yes|no) \|", PAGE, re.MULTILINE)
    said = {int(number): there for numbers, there in rows for number in numbers.split(",")}
    assert set(said) == set(wire.Command)
    assert set(said.values()) == {"yes"}


@pytest.mark.parametrize(
    "claim",
    [
        f"At most {MOST} messages are unanswered",
        f"and to {LARGEST >> 10} KiB",
        f"| REGION_WRITE_MULTI | {wire.MAX_WRITES} writes",
        f"| descriptors | {wire.MAX_FDS} in a message |",
        f"After {LIMIT / 1e9:g} s the request is refused with ETIMEDOUT",
        f"up to {MOST_BYTES >> 10} KiB and {MOST_FDS} descriptors",
        f"| ranges of DMA_LOGGING_START | {MAX_RANGES} ",
        f"An entry has the {sizeof(IoFd)} bytes",
        f"| access, {IO_COMMAND.size} bytes |",
        f"| answer, {IO_RESPONSE.size} bytes |",
        f"| DMA windows | {wire.MAX_MAPS}; {wire.MAX_WINDOW >> 40} TiB each",
        f"| mdevs with memory by message | {(FAR_END - FILES_END) >> 47} at a time",
    ],
)
def test_limit_is_the_one_in_force(claim):
    assert claim in PAGE


def test_table_of_states_is_the_one_in_force():
    [head] = re.findall(r"^\| (\| RUNNING .*) \|$", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| ((?:read and|MIG_|every).*) \|$", PAGE, re.MULTILINE)
    columns = [MigState[name.strip()] for name in head.split("|")[1:]]
    assert set(columns) == set(MigState)
    said = {
        what: dict(zip(columns, map(str.strip, cells), strict=True))
        for what, *cells in (row.split(" | ") for row in rows)
    }
    kinds = {
        "read and write regions": Command.REGION_READ,
        "MIG_DATA_READ": Command.MIG_DATA_READ,
        "MIG_DATA_WRITE": Command.MIG_DATA_WRITE,
        "everything else": Command.DEVICE_RESET,
    }
    assert said == {
        what: {each: "yes" if command in ALLOWED[each] else "EINVAL" for each in columns}
        for what, command in kinds.items()
    }


def test_every_command_line_is_one_that_there_is():
    lines = re.findall(r"hostctl ([a-z-]+) ([a-z-]+)", PAGE)
    assert len(lines) >= 6
    for group, command in lines:
        found = hostctl.commands[group]
        assert isinstance(found, Group)
        assert command in found.commands


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example):
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            path = serving.control()("create-mdev", type="mdevemu-native")["socket"]
            exec(example.replace("/run/demo/mdev.sock", path), {})
        finally:
            serving.stop()
