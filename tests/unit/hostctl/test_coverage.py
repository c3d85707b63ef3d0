"""``hostctl coverage``: collected from an ioat, saved, merged, shown."""

import json

import pytest

from hostctl.cli.main import run
from hostctl.coverage import SCHEMA, merged, read, record, summary
from hostctl.errors import OK, USAGE
from mdevemu.vfio_user.client import Client

HOLE = 1 << 40


@pytest.fixture(scope="module")
def saved(ioat, tmp_path_factory):
    """Two runs: the first reads, the second starts a channel at an address without memory."""
    folder, control = tmp_path_factory.mktemp("runs"), ["--control", str(ioat.control_path)]
    assert run(["coverage", "on", *control]) == OK
    mdev = ioat.control.create("mdevemu-ioat", name="red", uuid=None, weight=None)
    client = Client(mdev.socket, timeout=10)
    client.read_u32(0, 0x08)
    assert run(["coverage", "save", str(folder / "one.json"), *control]) == OK
    client.write_u16(7, 4, 6)
    client.write_u64(0, 0x90, HOLE)
    client.write_u16(0, 0x86, 1)
    for _ in range(100):
        if ioat.control.faults():
            break
    client.close()
    assert run(["coverage", "save", str(folder / "two.json"), *control]) == OK
    assert run(["coverage", "off", *control]) == OK
    return folder / "one.json", folder / "two.json"


def test_saved_runs_hold_what_was_tried(saved):
    one, two = (read(path)["ioat"] for path in saved)
    assert one.registers["bar0.version"].reads == 1
    assert one.registers["bar0.channel_chain"].writes == 0
    assert two.registers["bar0.channel_chain"].writes == 1
    assert two.statuses["CHAIN_ADDRESS"] == 1
    assert two.iommu_faults["Read page fault"] == 1
    assert two.operations == {"COPY": 0}


def test_sum_of_runs_is_the_same_in_any_order(saved):
    one, two = map(read, saved)
    total = merged([one, two])
    assert record(total) == record(merged([two, one]))
    assert total["ioat"].registers["bar0.version"].reads == 2
    assert record(merged([one])) == record(one)


def test_merge_writes_a_file_that_can_be_read_again(saved, tmp_path):
    into = tmp_path / "all.json"
    assert run(["coverage", "merge", *map(str, saved), "--output", str(into)]) == OK
    assert record(read(into)) == record(merged(map(read, saved)))
    assert list(tmp_path.iterdir()) == [into]


def test_table_names_what_was_never_tried(saved, capsys):
    assert run(["coverage", "show", str(saved[1])]) == OK
    lines = capsys.readouterr().out.splitlines()
    rows = {line[8:27].strip(): line for line in lines}
    assert rows["operations"].split()[-3:] == ["0", "1", "COPY"]
    never = rows["statuses"].split(None, 4)[-1]
    assert "READ_DATA" in never
    assert "CHAIN_ADDRESS" not in never
    assert "bar0.interrupt_control" in rows["registers written"]
    assert "bar0.channel_chain" not in rows["registers written"]
    assert "bar0.version" not in rows["registers written"], "it cannot be written"


def test_registers_are_shown_with_their_fields(saved, capsys):
    assert run(["coverage", "show", str(saved[1]), "--registers"]) == OK
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ioat", "bar0.version", "1", "-"] in rows
    assert ["ioat", "bar0.channel_chain", "iova", "0", "1"] in rows


def test_table_as_data(saved, capsys):
    assert run(["coverage", "show", *map(str, saved), "--json"]) == OK
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.coverage.show/1"
    [row] = [row for row in said["summary"] if row["what"] == "operations"]
    assert row == {
        "device": "ioat", "what": "operations", "tried": 0, "all": 1, "never": ["COPY"]
    }  # fmt: skip
    assert said["coverage"]["schema"] == SCHEMA
    total = merged(map(read, saved))
    assert len(said["summary"]) == len(summary(total))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a table, not a list"),
        ("{}", "schema: is None (accepted: 'mdevemu.coverage/1')"),
        ('{"schema": "mdevemu.coverage/2"}', "(accepted: 'mdevemu.coverage/1')"),
        ('{"schema": "mdevemu.coverage/1"}', "devices: is missing"),
        ('{"schema": "mdevemu.coverage/1", "devices": {"x": {}}}', "devices.x.registers"),
        (
            '{"schema": "mdevemu.coverage/1", "devices": {"x": {"registers": {}, '
            '"operations": {"COPY": -1}}}}',
            "operations.COPY: -1 is out of range",
        ),
    ],
)
def test_file_that_is_no_coverage_is_refused(tmp_path, capsys, text, words):
    file = tmp_path / "bad.json"
    file.write_text(text)
    into = tmp_path / "all.json"
    into.write_text("before")
    assert run(["coverage", "merge", str(file), "--output", str(into)]) == USAGE
    said = "".join(capsys.readouterr().err.split("\n"))
    assert str(file) in said
    assert words in said
    assert into.read_text() == "before"


def test_file_that_is_not_there_is_refused(tmp_path, capsys):
    assert run(["coverage", "show", str(tmp_path / "none.json")]) == USAGE
    assert "No such file" in capsys.readouterr().err
    assert run(["coverage", "merge", str(tmp_path / "n.json"), "--output", "/nowhere/x"]) == USAGE
