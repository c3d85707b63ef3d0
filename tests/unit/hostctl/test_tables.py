"""Typed reading of tables: what is refused is named."""

from collections.abc import Callable

import pytest

from hostctl.tables import Table
from mdevemu.errors import ConfigError


def table(**values: object) -> Table:
    return Table("lab.toml: vm[0]", values)


def refusal(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "size"),
    [(4096, 4096), ("64KiB", 65536), ("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("100B", 100)],
)
def test_size_accepts_numbers_and_binary_units(given: object, size: int) -> None:
    assert table(memory=given).size("memory", 1) == size


@pytest.mark.parametrize("given", ["512MB", "512 megs", "-1MiB", 1.5, True, ["1MiB"], ""])
def test_size_of_another_form_is_refused_with_what_is_accepted(given: object) -> None:
    text = refusal(table(memory=given).size, "memory", 1)
    assert text.startswith("lab.toml: vm[0].memory: ")
    assert '"512MiB"' in text


def test_size_below_least_is_refused() -> None:
    assert "65536 bytes are too few" in refusal(table(memory="64KiB").size, "memory", 1 << 20)


def test_unknown_key_names_nearest_and_all_accepted() -> None:
    text = refusal(table(memroy=1).only, ("name", "memory"))
    assert "'memroy'" in text
    assert "did you mean 'memory'" in text
    assert "accepted: memory, name" in text


@pytest.mark.parametrize("given", ["Red", "1st", "a_b", "", "x" * 17, "../up", "a b"])
def test_name_of_another_form_is_refused(given: str) -> None:
    assert "vm[0].name" in refusal(table(name=given).name, "name")


def test_whole_refuses_booleans_fractions_and_out_of_range() -> None:
    for wrong in (True, 1.0, "1", None):
        assert "whole number" in refusal(table(cpus=wrong).whole, "cpus", 1, 64)
    assert "accepted: 1 to 64" in refusal(table(cpus=65).whole, "cpus", 1, 64)


def test_missing_key_without_default_is_refused() -> None:
    assert refusal(table().text, "name") == "lab.toml: vm[0].name: is missing"


def test_choice_names_nearest() -> None:
    assert "did you mean 'intel'" in refusal(
        table(iommu="intell").choice, "iommu", ("intel", "none")
    )


def test_texts_names_the_item_that_is_wrong() -> None:
    assert "vm[0].mdevs[1]: must be a text" in refusal(table(mdevs=["red", 3]).texts, "mdevs")
    assert "list of texts" in refusal(table(mdevs="red").texts, "mdevs")


def test_not_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a table, not a whole number"):
        Table("lab.toml: lab", 3)
