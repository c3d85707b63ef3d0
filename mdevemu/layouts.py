"""A layout applied to an accelerator: all of it, or nothing of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mdevemu.control import Argument, Command
from mdevemu.definitions import Attributes
from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.mdev import attributes
from mdevemu.mdev.parent import Mdev, Parent
from mdevemu.profile import Place
from mdevemu.profile.layout import Plan, plan


@dataclass(frozen=True, slots=True)
class Hands:
    """What applying a layout does to mdevs.

    Attributes:
        create: make one, by type id, UUID, name, place and attributes; it has a socket then.
        remove: take one back.
        attached: UUIDs of those with a VMM.
    """

    create: Callable[[str, str | None, str | None, Place, Attributes], Mdev]
    remove: Callable[[Mdev], None]
    attached: Callable[[], set[str]]


class Layouts:
    """Layouts on one accelerator."""

    def __init__(self, parent: Parent, hands: Hands) -> None:
        self._parent = parent
        self._hands = hands

    def commands(self) -> list[Command]:
        """Commands of the control socket; a layout is an object of counts by type id."""
        arguments = [Argument("layout", "object"), Argument("force", "bool", optional=True)]
        return [
            Command("plan-layout", self._plan, arguments),
            Command("apply-layout", self._apply, arguments),
        ]

    def _plan(self, layout: dict[str, object], force: bool = False) -> dict[str, object]:
        return _facts(self.plan(layout, force=force))

    def _apply(self, layout: dict[str, object], force: bool = False) -> dict[str, object]:
        return _facts(self.apply(layout, force=force))

    def plan(self, wanted: Mapping[str, object], *, force: bool) -> Plan:
        """How to get so many mdevs of each type, by type id.

        Raises:
            ConfigError: it cannot be; nothing has changed.
        """
        counts = {}
        for kind, count in wanted.items():
            if kind not in self._parent.types:
                raise ConfigError("layout", unknown("type", kind, self._parent.types))
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ConfigError("layout", f"{kind}: {shown(count)} (accepted: 0 or more)")
            counts[kind] = count
        return plan(self._parent.occupancy(self._hands.attached()), counts, force=force)

    def apply(self, wanted: Mapping[str, object], *, force: bool) -> Plan:
        """Get them.  What is removed has its HBM scrubbed, also where it is made again.

        Raises:
            ConfigError: it cannot be; the same mdevs are there as before, though those that
                were removed on the way have lost what was in their HBM.
        """
        made = self.plan(wanted, force=force)
        before = {name: _Former.of(self._parent.find(name)) for name in made.remove}
        for name in made.remove:
            self._hands.remove(self._parent.find(name))
        created: list[Mdev] = []
        try:
            for each in made.create:
                like = before[each.again] if each.again else _Former(each.type.id)
                created.append(like.again(self._hands, each.place))
        except ConfigError:
            for mdev in created:
                self._hands.remove(mdev)
            for former in before.values():
                former.again(self._hands, former.place)
            raise
        return made


def _facts(made: Plan) -> dict[str, object]:
    """A plan for the control socket."""
    return {
        "keep": list(made.keep),
        "remove": list(made.remove),
        "create": [
            {"type": each.type.id, "hbm": each.place.hbm, "again": each.again}
            for each in made.create
        ],
    }


@dataclass(frozen=True, slots=True)
class _Former:
    """An mdev that was, and may be again."""

    type: str
    uuid: str | None = None
    name: str | None = None
    place: Place = Place()  # noqa: RUF009 (it is frozen)
    attributes: Attributes = ()

    @classmethod
    def of(cls, mdev: Mdev) -> "_Former":
        name = None if mdev.name == mdev.uuid else mdev.name
        return cls(mdev.type.id, mdev.uuid, name, mdev.place, attributes.writable(mdev))

    def again(self, hands: Hands, place: Place) -> Mdev:
        """Make it, in a free place, its own or another."""
        mdev = hands.create(self.type, self.uuid, self.name, place, self.attributes)
        assert mdev.place == place, "what was planned is free"
        return mdev
