"""What is made from the declarations is what they say now."""

from pathlib import Path

from mdevemu.describe import markdown, python
from mdevemu.personalities.ioat import Ioat
from mdevemu.personalities.native import Native

ROOT = Path(__file__).parents[2]
MARK = "<!-- generated: python -m mdevemu describe native -->\n"


def test_tables_of_the_native_device_are_up_to_date():
    _, found, tables = (ROOT / "docs/native.md").read_text().partition(MARK)
    assert found, "docs/native.md has lost the mark where its tables begin"
    assert tables.strip() == markdown(Native).strip()


def test_tables_of_the_ioat_device_are_up_to_date():
    _, found, tables = (ROOT / "docs/ioat.md").read_text().partition(MARK.replace("native", "ioat"))
    assert found, "docs/ioat.md has lost the mark where its tables begin"
    assert tables.strip() == markdown(Ioat).strip()


def test_constants_of_the_guest_drivers_are_up_to_date():
    assert (ROOT / "guest/native.py").read_text() == python(Native)
    assert (ROOT / "guest/ioat.py").read_text() == python(Ioat)
