"""What every test leaves behind: nothing."""

import pytest

from tests.support.bench import Bench


@pytest.fixture(autouse=True)
def benches_are_closed():
    """Close each bench that a test made."""
    before = list(Bench.made)
    yield
    for bench in [bench for bench in Bench.made if bench not in before]:
        bench.close()
