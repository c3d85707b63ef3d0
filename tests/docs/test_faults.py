"""docs/fault-injection.md lists the kinds of faults as they are declared."""

from pathlib import Path

from mdevemu.faults.commands import KINDS
from mdevemu.faults.injection import option

PAGE = (Path(__file__).parents[2] / "docs/fault-injection.md").read_text()


def row(kind):
    options = " ".join(
        f"`{option(name)}`" + "*" * (name in kind.needs) for name in sorted(kind.takes)
    )
    return f"| `{kind.name}` | {kind.occasion} | {kind.effect} | {options} |"


def test_table_of_kinds_is_up_to_date():
    head = "| kind | strikes | what becomes of it | options |\n|---|---|---|---|\n"
    _, found, table = PAGE.partition(head)
    assert found
    assert table.split("\n\n")[0].splitlines() == [row(kind) for kind, _ in KINDS.values()]
