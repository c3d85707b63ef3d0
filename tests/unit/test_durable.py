"""Files are old or new whenever their writer is killed: before each system call, any time."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mdevemu import durable
from mdevemu.definitions import Definition, Definitions
from mdevemu.errors import ConfigError

OLD, NEW = b"old " * 1000, b"new " * 3000
PARENT = "0000:01:00.0"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

STEPS = ["open", "write", "fsync", "close", "rename", "unlink", "mkdir"]


def child(script, *arguments):
    """A process that runs a script in this Python."""
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)])


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from mdevemu.definitions import Definition, Definitions
fatal, done = int(sys.argv[1]), 0
def deadly(name):
    real = getattr(os, name)
    def step(*given, **named):
        global done
        done += 1
        if done == fatal:
            if name == "write":
                real(given[0], bytes(given[1])[:7])  # a part of it is there already
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    setattr(os, name, step)
for name in sys.argv[5:]:
    deadly(name)
root, verb, kind = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
definitions = Definitions(root)
definition = Definition("UUID", "PARENT", kind, True, (("weight", "3"),))
with definitions.locked():
    getattr(definitions, verb)(definition)
""".replace("UUID", UUID).replace("PARENT", PARENT)


@pytest.mark.parametrize("verb", ["write", "remove"])
@pytest.mark.parametrize("before", [True, False])
def test_kill_before_any_system_call_leaves_the_old_or_the_new(tmp_path, verb, before):
    seen = set()
    for fatal in range(1, 60):
        root = tmp_path / str(fatal)
        definitions = Definitions(root)
        old = Definition(UUID, PARENT, "mdevemu-old", auto=False)
        if before:
            with definitions.locked():
                definitions.write(old)
        elif verb == "remove":
            return
        process = child(KILLED_AT, fatal, root, verb, "mdevemu-new", *STEPS)
        status = process.wait(30)
        found = [(each.type, each.attributes) for each in definitions.all()]
        whole = [("mdevemu-new", (("weight", "3"),))] if verb == "write" else []
        assert found in ([("mdevemu-old", ())] if before else [], whole)
        seen.add((status, found == whole))
        with definitions.locked():  # and the next one can write
            definitions.write(old)
        assert definitions.all() == [old]
        if status == 0:
            break
    assert status == 0
    assert {(-signal.SIGKILL, False), (-signal.SIGKILL, True), (0, True)} <= seen


FOREVER = """
import sys
from pathlib import Path
from mdevemu import durable
n = 0
while True:
    n += 1
    durable.write(Path(sys.argv[1]), (str(n) * 20000)[:20000].encode())
"""


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    file = tmp_path / "file"
    durable.write(file, b"0" * 20000)
    chance = random.Random(1)
    contents = set()
    for _ in range(12):
        process = child(FOREVER, file)
        before = file.read_bytes()
        while file.read_bytes() == before:
            time.sleep(0.001)
        time.sleep(chance.random() / 50)
        process.kill()
        process.wait(30)
        found = file.read_bytes()
        number = found[: len(found) // 2].decode()
        assert len(found) == 20000
        assert any(found == (number[:digits] * 20000)[:20000].encode() for digits in range(1, 7))
        contents.add(found)
    assert len(contents) > 1


@pytest.mark.parametrize("name", ["open", "write", "fsync", "rename"])
def test_file_stays_as_it_was_when_the_machine_refuses(tmp_path, monkeypatch, name):
    file = tmp_path / "file"
    durable.write(file, OLD)

    def refuse(*_given, **_named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        with pytest.raises(OSError, match="No space"):
            durable.write(file, NEW)
    assert file.read_bytes() == OLD
    durable.write(file, NEW)
    assert file.read_bytes() == NEW
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_bytes_are_flushed_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    steps = []

    def noted(name):
        real = getattr(os, name)

        def step(*given, **named):
            kind = (
                "folder" if name == "fsync" and os.path.isdir(f"/proc/self/fd/{given[0]}") else ""
            )
            steps.append(kind or name)
            return real(*given, **named)

        monkeypatch.setattr(os, name, step)

    for name in ("fsync", "rename", "unlink"):
        noted(name)
    durable.write(tmp_path / "file", NEW)
    durable.remove(tmp_path / "file")
    durable.make_folder(tmp_path / "a" / "b")
    assert steps == ["fsync", "rename", "folder", "unlink", "folder", "folder", "folder"]


def test_definition_that_is_none_is_refused_by_file_and_key(tmp_path):
    place = tmp_path / "etc/mdevctl.d" / PARENT
    place.mkdir(parents=True)
    definitions = Definitions(tmp_path)
    for content, wrong in (
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("7", "7 is not a JSON object"),
        ('{"start": "auto"}', "mdev_type: None is not a text"),
        ('{"mdev_type": 1, "start": "auto"}', "mdev_type: 1 is not a text"),
        ('{"mdev_type": "x"}', "start: is missing"),
        ('{"mdev_type": "x", "start": "auto", "attrs": {}}', "attrs: {} is not a list"),
        ('{"mdev_type": "x", "start": "auto", "attrs": [{}]}', "attrs: {} (accepted: objects"),
        ('{"mdev_type": "x", "start": "auto", "attrs": [{"a": 1}]}', "attrs: {'a': 1} (accepted"),
    ):
        (place / UUID).write_text(content)
        with pytest.raises(ConfigError) as caught:
            definitions.all()
        assert str(place / UUID) in str(caught.value)
        assert wrong in str(caught.value)
    (place / UUID).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not text"):
        definitions.all()


@pytest.mark.parametrize("parent", ["", ".", "..", "../x", "/x", "a/b"])
def test_parent_is_a_name_and_no_way_out_of_the_folder(tmp_path, parent):
    with pytest.raises(ConfigError, match="is no name of a device"):
        Definitions(tmp_path).write(Definition(UUID, parent, "mdevemu-x", auto=True))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_definitions_are_not_looked_at(tmp_path):
    definitions = Definitions(tmp_path)
    assert definitions.all() == []
    with definitions.locked():
        definitions.write(Definition(UUID, PARENT, "mdevemu-x", auto=True))
    place = definitions.folder / PARENT
    (place / "notes").write_text("{")
    (place / UUID.upper()).write_text("{")
    (definitions.folder / "callouts").write_text("{")
    (found,) = definitions.all()
    assert json.loads((place / UUID).read_text()) == found.content
