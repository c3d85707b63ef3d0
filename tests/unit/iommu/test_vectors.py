"""Every answer of the reference model; see tests/vectors/README.md."""

import pytest

from tests.support.vectors import replay, scenarios

SHARES = 10


@pytest.fixture(scope="module")
def every():
    return list(scenarios())


@pytest.mark.parametrize("share", range(SHARES))
def test_iommu_answers_as_the_reference_model(every, share):
    mine = every[share::SHARES]
    assert len(mine) == 3000 // SHARES
    for scenario in mine:
        replay(scenario)
