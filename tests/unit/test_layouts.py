"""A layout is applied whole, or everything is as it was, whichever creation the machine refuses."""

import errno

import pytest

from mdevemu.errors import ConfigError
from mdevemu.layouts import Hands, Layouts
from mdevemu.mdev.parent import Parent
from mdevemu.profile import load, locate
from mdevemu.trace import Trace

WANTED = {"mdevemu-4g.20gb": 1, "mdevemu-1g.5gb": 2, "mdevemu-1g.10gb": 1}


class Machine:
    """An accelerator on a machine that refuses one creation, counted from 1."""

    def __init__(self, fatal=None):
        self.parent = Parent(load(locate("hbm-8x")), Trace(int), int)
        self.left = fatal
        self.layouts = Layouts(self.parent, Hands(self.create, self.parent.remove, set))
        for name, kind in (("red", "1g.5gb"), ("blue", "1g.5gb"), ("green", "2g.10gb")):
            self.parent.create(f"mdevemu-{kind}", name=name, weight=len(name))

    def create(self, kind, uuid, name, weight, place):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise ConfigError("socket", "no descriptor is left", errno.EUSERS)
        return self.parent.create(kind, uuid=uuid, name=name, weight=weight, place=place)

    def state(self):
        """Everything of an mdev that an operator sees, by UUID."""
        return {
            mdev.uuid: (mdev.name, mdev.type.id, mdev.flow.weight, mdev.place)
            for mdev in self.parent.mdevs.values()
        }


def test_refusal_on_the_way_leaves_all_as_it_was():
    for fatal in range(1, 5):
        machine = Machine(fatal)
        before = machine.state()
        with pytest.raises(ConfigError, match="no descriptor"):
            machine.layouts.apply(WANTED, force=False)
        assert machine.state() == before
        machine.layouts.apply(WANTED, force=False)
    machine = Machine()
    plan = machine.layouts.apply(WANTED, force=False)
    assert len(plan.create) == 4
    names = {name: weight for name, _, weight, _ in machine.state().values()}
    assert (names["red"], names["blue"], len(names)) == (3, 4, 4)


@pytest.mark.parametrize(
    ("layout", "wrong"),
    [
        ({"mdevemu-1g": 1}, "unknown type 'mdevemu-1g'; did you mean 'mdevemu-1g.5gb'?"),
        ({"mdevemu-1g.5gb": -1}, "mdevemu-1g.5gb: -1 "),
        ({"mdevemu-1g.5gb": True}, "mdevemu-1g.5gb: True "),
        ({"mdevemu-1g.5gb": "1"}, "mdevemu-1g.5gb: '1' "),
    ],
)
def test_layout_that_is_none_is_refused(layout, wrong):
    machine = Machine()
    before = machine.state()
    with pytest.raises(ConfigError) as caught:
        machine.layouts.apply(layout, force=True)
    assert wrong in str(caught.value)
    assert machine.state() == before
