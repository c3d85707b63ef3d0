"""What every test begins with, and what it leaves behind: nothing."""

import signal

import pytest

from tests.support.bench import Bench


def pytest_configure():
    """Let Ctrl-C reach what tests start, also where a shell runs us in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def benches_are_closed():
    """Close each bench that a test made."""
    before = list(Bench.made)
    yield
    for bench in [bench for bench in Bench.made if bench not in before]:
        bench.close()
