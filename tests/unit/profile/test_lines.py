"""Lines of keys in TOML files."""

import pytest

from mdevemu.errors import ConfigError
from mdevemu.profile import load
from mdevemu.profile.lines import LONGEST_STATEMENT, Lines

TEXT = '''\
# [not] = "this"
top = 1
[accelerator]
name = """
[type]
x = 1"""   # still the name
hbm.size = 5

[[type]]
a = [
  1, # one
  [2],
]
"b c" = { d = 1 }
[[type]]
[type.inner]
x = 1
[[type]]
a = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("top",), 2),
        (("accelerator",), 3),
        (("accelerator", "name"), 4),
        (("accelerator", "hbm"), 7),
        (("accelerator", "hbm", "size"), 7),
        (("accelerator", "nothing"), 3),
        (("type",), 9),
        (("type", 0), 9),
        (("type", 0, "a"), 10),
        (("type", 0, "b c", "d"), 14),
        (("type", 1), 15),
        (("type", 1, "inner", "x"), 17),
        (("type", 2, "a"), 19),
        (("type", 3, "a"), 9),
        (("nowhere", "at", "all"), 1),
    ],
)
def test_key_is_found_on_its_line(path, line):
    assert Lines(TEXT).of(path) == line


def test_statement_that_never_seems_to_end_costs_only_itself():
    text = "x = [\n" + "1,\n" * (LONGEST_STATEMENT + 5) + "]\n[t]\ny = 1\n"
    assert Lines(text).of(("t", "y")) == text.count("\n")


def test_refusal_of_a_file_names_line_and_key(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[accelerator]\nname = "mine"\nhbm = 0\n\n[[engine]]\nname = "e"\n'
        'operations = [\n  "copy",\n  "cpoy",\n]\n[[type]]\nname = "t"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith("mine.toml:7: [[engine]] 1: operations: unknown value")
    file.write_text('[accelerator]\nname = "mine"\nhbm = 0\nhmb = 1\n')
    with pytest.raises(ConfigError, match=r"mine.toml:4: \[accelerator\]: unknown key 'hmb'"):
        load(file)
    file.write_text('[accelerator]\nname = "mine\n')
    with pytest.raises(ConfigError, match="line 2"):
        load(file)
