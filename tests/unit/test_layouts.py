"""A layout is applied whole, or everything is as it was, whichever creation the machine refuses."""

import errno

import pytest

from mdevemu.errors import ConfigError
from mdevemu.layouts import Hands, Layouts
from mdevemu.mdev import attributes
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
            made = self.parent.create(f"mdevemu-{kind}", name=name)
            attributes.write(self.parent, made, "weight", str(len(name)))
            attributes.write(self.parent, made, "bandwidth_limit", "1000000")

    def create(self, kind, uuid, name, place, given):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise ConfigError("socket", "no descriptor is left", errno.EUSERS)
        made = self.parent.create(kind, uuid=uuid, name=name, place=place)
        for attribute, value in given:
            attributes.write(self.parent, made, attribute, value)
        return made

    def state(self):
        """Everything of an mdev that an operator sees, by UUID."""
        return {
            mdev.uuid: (mdev.name, mdev.type.id, attributes.writable(mdev), mdev.place)
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
    found = {name: dict(given) for name, _, given, _ in machine.state().values()}
    assert (found["red"]["weight"], found["blue"]["weight"], len(found)) == ("3", "4", 4)
    assert found["red"]["bandwidth_limit"] == "1000000"


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
