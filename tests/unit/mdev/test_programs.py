"""What is kept of engines that were reprogrammed: as it was, or not at all."""

import json
import os

import pytest

from mdevemu.accel.engine import Policy, Program, Use, coded, engine
from mdevemu.accel.scheduler import Scheduler
from mdevemu.errors import ConfigError
from mdevemu.mdev.programs import keep, place, restore


def engines():
    return [engine("dma0", ["nop", "copy"]), engine("crypto0", ["sha256"]), engine("z", ["nop"])]


def facts(found):
    return [(each.name, each.functions, each.version) for each in found]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "down" / "engines.json"


def two_pieces():
    yield 1
    yield 1
    return 0


def change(file, found, at, *names, policy=Policy.KILL):
    keep(file, found, found[at], names)
    found[at].reprogram(Program(coded(names), policy, lambda: None))


def test_engines_do_what_they_did(file):
    before = engines()
    change(file, before, 0, "fill")
    change(file, before, 1, "nop", "copy")
    change(file, before, 0, "compare", "fill")
    after = engines()
    restore(file, after)
    assert facts(after) == facts(before)
    assert [each.version for each in after] == [2, 1, 0]


def test_change_that_waits_is_kept_as_one_that_is_over(file):
    before = engines()
    lane = Scheduler(lambda: 0).flow(1).lane(pytest.fail)
    next(Use(lane, before[0]).run(two_pieces()))
    change(file, before, 0, "fill", policy=Policy.DRAIN)
    change(file, before, 1, "nop")
    after = engines()
    restore(file, after)
    assert facts(after) == [("dma0", ["fill"], 1), ("crypto0", ["nop"], 1), ("z", ["nop"], 0)]
    change(file, before, 0, "compare")
    after = engines()
    restore(file, after)
    assert facts(after) == facts(before)


def test_without_a_file_nothing_changes(file):
    found = engines()
    restore(file, found)
    assert facts(found) == facts(engines())


def test_file_that_cannot_be_written_is_as_it_was(file):
    found = engines()
    change(file, found, 0, "fill")
    before = file.read_bytes()
    (file.parent / ".engines.json.new").mkdir()
    with pytest.raises(ConfigError, match=r"engines\.json"):
        keep(file, found, found[1], ["nop"])
    assert file.read_bytes() == before


GOOD = {"mdevemu-engines": 1, "engines": {"dma0": {"operations": ["fill"], "version": 3}}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "engines of version 1"),
        (b"[" * 100_000, "engines of version 1"),
        (b" " * (2 << 20), "engines of version 1"),
        ([], "engines of version 1"),
        (GOOD | {"mdevemu-engines": 2}, "engines of version 1"),
        (GOOD | {"engines": 3}, "3 is not an object"),
        (GOOD | {"engines": {"dma9": {}}}, "unknown engine 'dma9'; did you mean 'dma0'"),
        (GOOD | {"engines": {"dma0": []}}, "dma0: "),
        (GOOD | {"engines": {"dma0": {"operations": []}}}, "operations and a version"),
        (GOOD | {"engines": {"dma0": {"operations": 1, "version": 1}}}, "list of operations"),
        (GOOD | {"engines": {"dma0": {"operations": ["fil"], "version": 1}}}, "'fill'"),
        (GOOD | {"engines": {"dma0": {"operations": [[]], "version": 1}}}, "unknown operation"),
        (GOOD | {"engines": {"dma0": {"operations": ["nop"], "version": 0}}}, "1 or more"),
        (GOOD | {"engines": {"dma0": {"operations": ["nop"], "version": True}}}, "1 or more"),
        (
            GOOD | {"engines": {**GOOD["engines"], "z": {"operations": ["nop"], "version": "1"}}},
            "z: '1'",
        ),
    ],
)
def test_file_that_cannot_be_used_is_refused_whole(tmp_path, content, said):
    file = tmp_path / "engines.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    found = engines()
    with pytest.raises(ConfigError) as refused:
        restore(file, found)
    assert str(file) in str(refused.value)
    assert said in str(refused.value)
    assert facts(found) == facts(engines())


def test_folder_in_place_of_the_file_is_refused(tmp_path):
    os.mkdir(tmp_path / "engines.json")
    with pytest.raises(ConfigError, match="directory"):
        restore(tmp_path / "engines.json", engines())


def test_place_is_with_the_mdevs_or_beside_the_definitions(tmp_path):
    state, root = tmp_path / "state", tmp_path / "root"
    assert place(state, root, "0000:01:00.0") == state / "engines.json"
    assert place(None, root, "0000:01:00.0") == root / "etc/mdevemu.d/0000:01:00.0.json"
    assert place(None, None, "0000:01:00.0") is None
