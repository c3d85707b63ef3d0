"""Every answer of the reference model; see tests/vectors/README.md."""

from pathlib import Path

import pytest

from mdevemu.iommu.replay import replay
from mdevemu.iommu.vectors import scenarios

VECTORS = Path(__file__).parents[2] / "vectors" / "iommu-vectors.jsonl.xz"
SHARES = 10


@pytest.fixture(scope="module")
def every():
    return list(scenarios(VECTORS))


@pytest.mark.parametrize("share", range(SHARES))
def test_iommu_answers_as_the_reference_model(every, share):
    mine = every[share::SHARES]
    assert len(mine) == 3000 // SHARES
    for scenario in mine:
        assert replay(scenario) is None
