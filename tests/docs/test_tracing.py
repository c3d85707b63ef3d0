"""docs/tracing.md lists the kinds as they are declared, and its examples run."""

import json
import re
from pathlib import Path

import pytest

from mdevemu.following.follower import DEPTH
from mdevemu.following.kinds import KINDS
from tests.support.serving import Serving, short_folder

PAGE = (Path(__file__).parents[2] / "docs/tracing.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_table_of_kinds_is_up_to_date():
    _, found, table = PAGE.partition("| kind | meaning |\n|---|---|\n")
    assert found
    rows = [f"| `{kind}` | {meaning} |" for kind, meaning in KINDS.items()]
    assert table.split("\n\n")[0].splitlines() == rows


def test_room_is_the_one_that_there_is():
    assert f"Up to {DEPTH} events wait" in PAGE


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example, tmp_path):
    saved = tmp_path / "red.jsonl"
    saved.write_text(json.dumps({"number": 1, "time": 2, "kind": "session.open", "mdev": "red"}))
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            serving.control()("create-mdev", type="mdevemu-native", name="red")
            path = str(folder / "run" / "control.sock")
            text = example.replace("/run/demo/control.sock", path)
            exec(text.replace("red.jsonl", str(saved)), {})
        finally:
            serving.stop()
