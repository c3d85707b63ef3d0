"""Devices of other distributions: found by their entry points, refused by name."""

import sys
from pathlib import Path

import pytest

from mdevemu.errors import ConfigError
from mdevemu.personalities import registry
from mdevemu.personalities.adder import Adder
from mdevemu.profile import parse
from tests.support.bench import BASE, Bench


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions; ``install`` adds one."""
    monkeypatch.syspath_prepend(tmp_path)
    registry.installed.cache_clear()
    before = set(sys.modules)

    def install(distribution: str, entry: str, **modules: str) -> None:
        info = Path(tmp_path) / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[mdevemu.personalities]\n{entry}\n")
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        registry.installed.cache_clear()

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]
    registry.installed.cache_clear()


BLINKER = "from mdevemu.personalities.adder import Adder\nclass Blinker(Adder):\n    pass\n"


def refusal(name="blinker"):
    with pytest.raises(ConfigError) as caught:
        registry.find(name)
    return str(caught.value)


def test_ours_are_found():
    assert registry.find("adder") is Adder


def test_device_of_another_distribution_makes_an_mdev(site):
    site("acme", "blinker = acme_blinker:Blinker", acme_blinker=BLINKER)
    assert "blinker" in registry.names()
    kind = {"name": "b", "personality": "blinker"}
    bench = Bench(BASE | {"type": [kind]})
    mdev = bench.mdev("b")
    assert type(mdev.personality).__name__ == "Blinker"
    bench.parent.remove(mdev)


def test_unknown_name_is_refused_with_all_that_there_are(site):
    site("acme", "blinker = acme_blinker:Blinker", acme_blinker=BLINKER)
    with pytest.raises(ConfigError, match=r"did you mean 'blinker'\?.*adder, blinker, ioat"):
        parse("x.toml", BASE | {"type": [{"name": "b", "personality": "blinkre"}]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "ModuleNotFoundError: No module named 'acme_blinker'"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("x = = 1", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "AttributeError"),
        ("Blinker = 7", "is 7, not a subclass of Personality"),
        ("class Blinker: pass", "not a subclass of Personality"),
        (
            "from mdevemu.accel import Personality as Blinker",
            "lacks an identity, or a method that it must have",
        ),
    ],
)
def test_device_that_cannot_be_used_is_refused_by_its_distribution(site, text, words):
    site("acme", "blinker = acme_blinker:Blinker", **({"acme_blinker": text} if text else {}))
    said = refusal()
    assert said.startswith("personality 'blinker' of acme: acme_blinker:Blinker ")
    assert words in said


def test_name_of_ours_that_another_distribution_has_too_is_refused(site):
    site("acme", "adder = acme_blinker:Blinker", acme_blinker=BLINKER)
    assert "'adder' is ours, and acme has it too" in refusal("adder")
    assert registry.find("ioat").__name__ == "Ioat", "the others are as they were"


def test_name_that_two_distributions_have_is_refused(site):
    site("acme", "blinker = acme_blinker:Blinker", acme_blinker=BLINKER)
    site("other", "blinker = acme_blinker:Blinker")
    assert "acme and other; uninstall all but one" in refusal()
