"""What is searched for dead cycles while mdevs come and go, and that removed ones are found."""

import gc
import weakref

import pytest

from mdevemu.emulator import Emulator
from mdevemu.garbage import FEW, Residents
from mdevemu.profile import parse
from tests.support.bench import BASE
from tests.support.serving import short_folder


@pytest.fixture
def emulator():
    """One whose mdevs are residents; nothing is searched but when they are created."""
    with short_folder() as folder:
        made = Emulator(parse("bench.toml", BASE), folder / "run")
        gc.disable()
        before = gc.get_threshold()
        Residents(made.trace, 0)
        yield made
        made.close()
        gc.set_threshold(*before)
        gc.enable()
        gc.unfreeze()


def create(emulator, count):
    """Names of new mdevs, and weak references to them."""
    made = [emulator.parent.find(emulator._create("mdevemu-adder")["uuid"]) for _ in range(count)]
    return [each.uuid for each in made], [weakref.ref(each.personality) for each in made]


def remove(emulator, uuids):
    for uuid in uuids:
        emulator._remove_named(uuid, force=True)


def searched(thing):
    return any(each is thing for each in gc.get_objects())


def test_mdevs_are_not_searched_once_the_next_is_there(emulator):
    _, (first,) = create(emulator, 1)
    create(emulator, 1)
    assert first() is not None
    assert not searched(first())


def test_removed_mdevs_are_found_when_as_many_are_left(emulator):
    more, _ = create(emulator, FEW + 4)
    gone, found = create(emulator, FEW + 4)
    remove(emulator, gone)
    create(emulator, 1)
    assert all(each() for each in found), "one more is left"
    remove(emulator, more[:2])
    create(emulator, 1)
    assert not any(each() for each in found)


def test_nothing_keeps_removed_mdevs(emulator):
    gone, found = create(emulator, FEW)
    remove(emulator, gone)
    create(emulator, 1)
    assert not any(each() for each in found)


def test_few_removed_mdevs_are_no_reason_to_search(emulator):
    gone, found = create(emulator, FEW - 1)
    remove(emulator, gone)
    create(emulator, 1)
    assert all(each() for each in found)
