"""An mdev moves, at any moment: nothing is lost, nothing is done twice."""

import pytest

from tests.support.bench import Bench
from tests.support.moving import Busy, load, moved, saved, stopped


@pytest.mark.parametrize("seed", range(12))
def test_busy_device_moves_back_and_forth_and_completes_everything_once(seed):
    busy = Busy(seed)
    for turn in range(6):
        busy.go(busy.random.randrange(120))
        live = busy.random.randrange(3)
        moved(
            busy.driver,
            Bench(),
            patient=bool(turn % 2),
            live=live,
            rounds=lambda: busy.go(3),
        )
    busy.go(50)
    busy.check()
    busy.driver.close()


def test_state_that_was_loaded_is_saved_as_it_was():
    busy = Busy(7)
    busy.go(100)
    bench = busy.driver.bench
    assert stopped(bench, busy.driver.mdev) is None
    state = saved(busy.driver.mdev)
    there = Bench()
    other = there.mdev()
    load(there, other, state, size=1000)
    assert saved(other, size=777) == state
    busy.driver.close()
