"""Names of causes, as the specification writes them."""

import pytest

from mdevemu.iommu import Cause, TransactionType


@pytest.mark.parametrize(
    ("number", "title"),
    [
        (5, "Read access fault"),
        (15, "Write/AMO page fault"),
        (20, "Instruction guest page fault"),
        (21, "Read guest-page fault"),
        (256, "All inbound transactions disallowed"),
        (258, "DDT entry not valid"),
        (266, "PDT entry not valid"),
        (273, "IOMMU MSI write access fault"),
        (274, "First/second-stage PT data corruption"),
    ],
)
def test_cause_has_its_title(number, title):
    assert Cause(number).title == title


def test_every_cause_and_type_has_a_title():
    assert all(cause.title for cause in Cause)
    assert all(kind.title for kind in TransactionType)
    assert TransactionType(3).title == "Untranslated write/AMO"
