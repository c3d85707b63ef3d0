"""accel-config's files: bytes that it would write, profiles from what it wrote, refusals."""

import dataclasses
import json

import pytest

from hostctl.accel_config import load, save
from mdevemu.errors import ConfigError
from mdevemu.profile import load as load_profile
from mdevemu.profile import locate
from tests.unit.hostctl.command import Hostctl

SAVED = """\
[
  {
    "dev":"dsa0",
    "read_buffer_limit":0,
    "groups":[
      {
        "dev":"group0.0",
        "read_buffers_reserved":0,
        "use_read_buffer_limit":0,
        "read_buffers_allowed":7,
        "grouped_workqueues":[
          {
            "dev":"wq0.0",
            "mode":"shared",
            "size":12,
            "group_id":0,
            "priority":10,
            "block_on_fault":0,
            "max_batch_size":1,
            "max_transfer_size":16777216,
            "type":"user",
            "name":"net\\/rx",
            "driver_name":"user",
            "threshold":9,
            "ats_disable":0
          },
          {
            "dev":"wq0.1",
            "mode":"dedicated",
            "size":4,
            "group_id":0,
            "priority":15,
            "block_on_fault":0,
            "max_batch_size":1,
            "max_transfer_size":16777216,
            "type":"user",
            "name":"",
            "driver_name":"user",
            "threshold":0,
            "ats_disable":0
          }
        ],
        "grouped_engines":[
          {
            "dev":"engine0.0",
            "group_id":0
          }
        ]
      }
    ],
    "ungrouped_engines":[
      {
        "dev":"engine0.1"
      }
    ]
  }
]
"""


def loaded(tmp_path, text, device=None):
    (tmp_path / "saved.conf").write_text(text)
    made = tmp_path / "made.toml"
    made.write_text(load(tmp_path / "saved.conf", device, "made"))
    return load_profile(made)


def test_what_was_saved_and_loaded_is_saved_the_same(tmp_path):
    assert save(loaded(tmp_path, SAVED)) == SAVED


def test_shipped_profile_survives_the_way_there_and_back(tmp_path):
    before = load_profile(locate("queues"))
    after = loaded(tmp_path, save(before))
    assert (after.groups, after.work_queues) == (before.groups, before.work_queues)
    assert [kind.work_queues for kind in after.types] == [kind.work_queues for kind in before.types]


def test_loaded_queue_is_what_the_file_says(tmp_path):
    spec = loaded(tmp_path, SAVED)
    first, second = spec.work_queues.values()
    assert (first.label, first.size, first.threshold, first.priority) == ("net/rx", 12, 9, 10)
    assert (second.dedicated, second.places, second.priority) == (True, 4, 15)
    assert spec.groups[0].read_buffers == 7


def test_names_of_old_files_are_known_and_unknown_keys_are_passed_over(tmp_path):
    old = SAVED.replace("read_buffers_allowed", "tokens_allowed").replace("ats_disable", "later")
    assert save(loaded(tmp_path, old)) == SAVED


BUFFERS = (
    SAVED.replace('"read_buffer_limit":0', '"read_buffer_limit":5')
    .replace('"read_buffers_reserved":0', '"read_buffers_reserved":3')
    .replace('"use_read_buffer_limit":0', '"use_read_buffer_limit":1')
)


def test_read_buffers_are_what_the_file_says(tmp_path):
    spec = loaded(tmp_path, BUFFERS)
    group = spec.groups[0]
    assert (group.reserved, group.limited, group.read_buffers) == (3, True, 7)
    assert (spec.read_buffer_limit, spec.read_buffers) == (5, 96)
    assert save(spec) == BUFFERS


@pytest.mark.parametrize(
    ("old", "new", "total"),
    [
        ('"read_buffer_limit":5', '"read_buffer_limit":5,"max_read_buffers":9', 9),
        ('"read_buffers_allowed":7', '"read_buffers_allowed":200', 200),
        ('"read_buffers_reserved":3', '"read_buffers_reserved":0', None),
    ],
)
def test_device_has_as_many_read_buffers_as_the_file_needs(tmp_path, old, new, total):
    assert loaded(tmp_path, BUFFERS.replace(old, new)).read_buffers == total


def test_names_that_read_buffers_had_are_known(tmp_path):
    old = BUFFERS.replace("use_read_buffer_limit", "use_token_limit").replace(
        "read_buffers_reserved", "tokens_reserved"
    )
    assert save(loaded(tmp_path, old.replace("read_buffer_limit", "token_limit"))) == BUFFERS


def test_group_that_is_not_bound_is_saved_with_all_that_it_can_have(tmp_path):
    spec = load_profile(locate("queues"))
    two = dataclasses.replace(spec.groups[0], reserved=6), spec.groups[1]
    groups = json.loads(save(dataclasses.replace(spec, groups=two, read_buffers=16)))[0]["groups"]
    assert [each["read_buffers_allowed"] for each in groups] == [16, 10]


def test_one_of_several_devices_has_to_be_named(tmp_path):
    other = json.loads(SAVED)[0] | {"dev": "iax1"}
    both = json.dumps([*json.loads(SAVED), other])
    with pytest.raises(ConfigError, match=r"--device: is needed \(accepted: dsa0, iax1"):
        loaded(tmp_path, both)
    assert "deflate" in loaded(tmp_path, both, "iax1").engines[0].operations


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"mode":"shared"', '"mode":"common"', "dedicated, shared"),
        ('"priority":15', '"priority":16', "priority"),
        ('"threshold":9', '"threshold":13', "threshold"),
        ('"size":12', '"size":"many"', "size"),
        ('"dev":"dsa0"', '"dev":"gpu0"', "as dsa0 or iax1"),
        ('"dev":"dsa0"', '"dev":3', "dev"),
        ("[\n  {", "{\n  {", "is not JSON"),
        ('"grouped_workqueues"', '"none"', "no work queue"),
        ('"grouped_engines"', '"none"', "grouped_engines"),
        ('"dev":"wq0.1"', '"dev":"wq0.0"', "twice"),
        ('"use_read_buffer_limit":0', '"use_read_buffer_limit":1', "read-buffer-limit"),
        ('"use_read_buffer_limit":0', '"use_read_buffer_limit":2', "use_read_buffer_limit"),
        ('"read_buffers_reserved":0', '"read_buffers_reserved":8', "read-buffers-reserved"),
        ('"read_buffer_limit":0', '"read_buffer_limit":-1', "read_buffer_limit"),
    ],
)
def test_file_that_cannot_be_used_is_refused_with_what_is_wrong(tmp_path, old, new, said):
    assert old in SAVED
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, SAVED.replace(old, new, 1))


@pytest.mark.parametrize("text", ["[]", "3", "null", "[3]", '[{"dev":"dsa0"}]', "[" * 100_000])
def test_file_that_is_something_else_is_refused(tmp_path, text):
    with pytest.raises(ConfigError):
        loaded(tmp_path, text)


def test_accelerator_without_groups_has_nothing_to_save():
    with pytest.raises(ConfigError, match="no groups"):
        save(load_profile(locate("demo")))


def test_commands_save_and_load(tmp_path):
    hostctl = Hostctl(tmp_path)
    saved, made = tmp_path / "s.conf", tmp_path / "mine.toml"
    assert hostctl.run("accel-config", "save-config", "queues", "-s", str(saved)).returncode == 0
    shown = hostctl.run("accel-config", "save-config", "queues")
    assert shown.stdout == saved.read_text()
    done = hostctl.run("accel-config", "load-config", str(made), "-c", str(saved))
    assert done.stdout == f"{made}\n"
    assert hostctl.run("profile", "validate", str(made)).returncode == 0
    again = hostctl.run("accel-config", "load-config", str(made), "-c", str(saved))
    assert again.returncode == 2
    assert "File exists" in again.stderr
