"""Every test of libvfio-user has one of ours of the same name, or a reason not to."""

import importlib
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
LIST = tomllib.loads((HERE / "scenarios.toml").read_text())
SCENARIOS = {(module, name) for module, names in LIST["scenarios"].items() for name in names}


def modules():
    return [path.stem for path in HERE.glob("test_*.py") if path != Path(__file__)]


def written():
    """(module, test) of ours."""
    return {
        (module, name)
        for module in modules()
        for name in vars(importlib.import_module(f"{__package__}.{module}"))
        if name.startswith("test_")
    }


def reasons():
    """(module, test) of theirs that we have not, and why."""
    return [
        (tuple(name.split("::")), group["reason"])
        for group in LIST["not"]
        for name in group["tests"]
    ]


def test_every_scenario_is_written_or_has_one_reason():
    listed = [place for place, _ in reasons()]
    assert len(listed) == len(set(listed)), "a scenario with two reasons"
    assert SCENARIOS - written() == set(listed)


def test_every_test_is_a_scenario():
    assert written() <= SCENARIOS


def test_every_reason_says_something():
    assert all(len(reason.split()) > 3 for _, reason in reasons())


def test_list_is_whole():
    # What pytest collects of theirs: 224 functions, of which five run for three flags.
    assert len(SCENARIOS) == 224
