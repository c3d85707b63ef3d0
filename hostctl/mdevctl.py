"""What mdevctl does, done with our emulator: definitions in files, mdevs behind a control socket.

Each verb accepts and refuses what mdevctl's does, and leaves the same behind.  Where mdevctl
would run callout scripts, attributes are read and written directly.

Source: mdevctl 1.4.0, mdevctl(8).
"""

import dataclasses
import errno
import uuid as uuids
from collections.abc import Sequence
from pathlib import Path

from hostctl.control import Control, Mdev, Type
from mdevemu.definitions import Attributes, Definition, Definitions, read
from mdevemu.errors import ConfigError, shown


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What ``modify`` does to a definition; None leaves a thing as it is.

    Attributes:
        add: an attribute to add at ``index``, or at the end.
        delete: take the attribute at ``index`` out, or the last one.
        auto: how it starts.
        file: a definition that replaces all of it.
    """

    type: str | None = None
    add: tuple[str, str] | None = None
    delete: bool = False
    index: int | None = None
    auto: bool | None = None
    file: Path | None = None


class Mdevctl:
    """Definitions below a root, and the mdevs of the accelerator that is up, if one is.

    Attributes:
        parent: the accelerator's address; None if none is up.
    """

    def __init__(self, definitions: Definitions | None, control: Control | None) -> None:
        """Without ``definitions`` there are none, and none can be made."""
        self._files = definitions
        self._control = control
        self.parent = control.accelerator().address if control else None

    @property
    def _definitions(self) -> Definitions:
        assert self._files is not None, "the caller has a folder of definitions"
        return self._files

    @property
    def _running(self) -> Control:
        assert self._control is not None, "an mdev runs"
        return self._control

    # What there is.

    def defined(self, uuid: str | None = None, parent: str | None = None) -> list[Definition]:
        """Definitions, by parent and UUID."""
        return self._files.all(uuid, parent) if self._files else []

    def active(self, uuid: str | None = None, parent: str | None = None) -> list[Definition]:
        """Running mdevs as definitions of what they are now, by UUID.

        They start as their definitions do, if they have any; their attributes are those that
        can be changed.
        """
        if self._control is None or parent not in (None, self.parent):
            return []
        found = [each for each in self._control.mdevs() if uuid in (None, each.uuid)]
        return [self._as_definition(each) for each in sorted(found, key=lambda each: each.uuid)]

    def types(self, parent: str | None = None) -> tuple[str, list[Type]] | None:
        """The parent and its types, by id; None if that parent is not up."""
        if self._control is None or self.parent is None or parent not in (None, self.parent):
            return None
        return self.parent, sorted(self._control.types(), key=lambda each: each.id)

    def runs(self, definition: Definition) -> bool:
        """An mdev runs as it is defined: with its UUID, parent and type."""
        found = self._one_active(definition.uuid)
        wanted = (definition.parent, definition.type)
        return found is not None and (found.parent, found.type) == wanted

    def is_defined(self, active: Definition) -> bool:
        """A running mdev has a definition."""
        return bool(self.defined(active.uuid, active.parent))

    def _as_definition(self, mdev: Mdev) -> Definition:
        assert self.parent is not None
        auto = any(each.auto for each in self.defined(mdev.uuid, self.parent))
        attributes = tuple(
            (each.name, each.value) for each in self._running.attributes(mdev.uuid) if each.writable
        )
        return Definition(mdev.uuid, self.parent, mdev.type, auto, attributes)

    def _one_active(self, uuid: str) -> Definition | None:
        return next(iter(self.active(uuid)), None)

    # Definitions.

    def define(
        self, uuid: str | None, parent: str | None, type_: str | None, auto: bool, file: Path | None
    ) -> str:
        """Define an mdev; returns its UUID.  Running mdevs stay as they are.

        Without a parent or a type, those of the running mdev of that UUID are taken, and
        with it its attributes.

        Raises:
            ConfigError: something is missing, or it is defined already; nothing was changed.
        """
        with self._definitions.locked():
            made = self._to_define(uuid, parent, type_, auto, file)
            if self.defined(made.uuid, made.parent):
                raise ConfigError("UUID", f"{made.uuid} is defined on {made.parent} already")
            self._definitions.write(made)
        return made.uuid

    def _to_define(
        self, uuid: str | None, parent: str | None, type_: str | None, auto: bool, file: Path | None
    ) -> Definition:
        new = uuid or str(uuids.uuid4())
        if file is not None:
            return read(file, new, _needed(parent, "--parent", "a definition in a file"))
        active = self._one_active(uuid) if uuid else None
        attributes: Attributes = ()
        if active is not None:
            if parent is None and type_ is not None:
                raise ConfigError("--parent", "is needed with --type")
            parent, type_, attributes = (
                parent or active.parent,
                type_ or active.type,
                active.attributes,
            )
        parent = _needed(parent, "--parent", "an mdev that does not run")
        type_ = _needed(type_, "--type", "an mdev that does not run")
        return Definition(new, parent, type_, auto, attributes)

    def undefine(self, uuid: str, parent: str | None) -> None:
        """Remove the definitions of a UUID.  Running mdevs stay as they are.

        Raises:
            ConfigError: there is none; nothing was changed.
        """
        with self._definitions.locked():
            found = self.defined(uuid, parent)
            if not found:
                raise ConfigError("UUID", f"{uuid} is not defined", errno.ENOENT)
            for each in found:
                self._definitions.remove(each)

    def modify(self, uuid: str, parent: str | None, change: Change) -> None:
        """Change a definition.  Running mdevs stay as they are.

        Raises:
            ConfigError: there is not exactly one, or it cannot be changed so; nothing was changed.
        """
        with self._definitions.locked():
            if change.file is not None:
                where = _needed(parent, "--parent", "a definition in a file")
                self._definitions.write(read(change.file, uuid, where))
                return
            old = self._one_defined(uuid, parent)
            new = dataclasses.replace(
                old,
                type=change.type or old.type,
                auto=old.auto if change.auto is None else change.auto,
                attributes=_changed(old.attributes, change),
            )
            self._definitions.write(new)

    def modify_live(self, uuid: str, parent: str | None, file: Path, *, defined: bool) -> None:
        """Give a running mdev the attributes in a file; with ``defined``, its definition too.

        Raises:
            ConfigError: it does not run, is of another type, or an attribute is refused; the
                mdev has its former attributes, and nothing was defined.
        """
        active = next(iter(self.active(uuid, parent)), None)
        if active is None:
            raise ConfigError("UUID", f"{uuid} does not run", errno.ENOENT)
        wanted = read(file, uuid, active.parent)
        if wanted.type != active.type:
            raise ConfigError(str(file), f"the running mdev is of type {active.type}")
        if not defined:
            self._running.set_attributes(uuid, wanted.attributes)
            return
        with self._definitions.locked():
            if self._one_defined(uuid, active.parent).type != active.type:
                raise ConfigError("UUID", f"{uuid} is defined with another type")
            self._running.set_attributes(uuid, wanted.attributes)
            self._definitions.write(wanted)

    def _one_defined(self, uuid: str, parent: str | None) -> Definition:
        found = self.defined(uuid, parent)
        if len(found) != 1:
            where = ", ".join(each.parent for each in found)
            wrong = f"is defined on {where}: name one by --parent" if found else "is not defined"
            raise ConfigError("UUID", f"{uuid} {wrong}", errno.EINVAL if found else errno.ENOENT)
        return found[0]

    # Running mdevs.

    def start(
        self, uuid: str | None, parent: str | None, type_: str | None, file: Path | None
    ) -> str:
        """Start a defined mdev, or a transient one; returns its UUID.

        Raises:
            ConfigError: it is not described enough, or cannot be created as described; nothing
                was changed.
        """
        wanted = self._to_start(uuid, parent, type_, file)
        if self._control is None or wanted.parent != self.parent:
            have = self.parent or "none"
            raise ConfigError("--parent", f"{wanted.parent!r} is not up (accepted: {have})")
        self._control.create(wanted.type, name=None, uuid=wanted.uuid, weight=None)
        try:
            self._control.set_attributes(wanted.uuid, wanted.attributes)
        except ConfigError:
            self._control.remove(wanted.uuid)
            raise
        return wanted.uuid

    def _to_start(
        self, uuid: str | None, parent: str | None, type_: str | None, file: Path | None
    ) -> Definition:
        new = uuid or str(uuids.uuid4())
        if file is not None:
            return read(file, new, _needed(parent, "--parent", "a definition in a file"))
        found = self.defined(uuid, parent) if uuid else []
        if found:
            one = self._one_defined(new, parent)
            if type_ not in (None, one.type):
                raise ConfigError("--type", f"{uuid} is defined with type {one.type}")
            return one
        parent = _needed(parent, "--parent", "an mdev that is not defined")
        type_ = _needed(type_, "--type", "an mdev that is not defined")
        return Definition(new, parent, type_, auto=False)

    def stop(self, uuid: str, *, force: bool = False) -> None:
        """Remove a running mdev; with ``force`` also under a VMM's hands.

        Raises:
            ConfigError: it does not run (ENOENT), or a VMM is connected to it (EBUSY).
        """
        if self._one_active(uuid) is None:
            raise ConfigError("UUID", f"{uuid} does not run", errno.ENOENT)
        self._running.remove(uuid, force=force)


def _needed(value: str | None, option: str, what: str) -> str:
    if value is None:
        raise ConfigError(option, f"is needed for {what}")
    return value


def _changed(old: Attributes, change: Change) -> Attributes:
    """Attributes with one more or one less.

    Raises:
        ConfigError: there is no such index.
    """
    made = list(old)
    last = len(made) if change.add else len(made) - 1
    if change.index is not None and change.index > last:
        have = shown([name for name, _ in old])
        raise ConfigError("--index", f"{change.index} is beyond the attributes {have}")
    if change.add:
        made.insert(len(made) if change.index is None else change.index, change.add)
    elif change.delete and made:
        del made[-1 if change.index is None else change.index]
    return tuple(made)


def list_json(found: Sequence[Definition], *, one: bool) -> object:
    """Mdevs as mdevctl's JSON; with ``one``, a single one is what its file would hold."""
    if one and len(found) <= 1:
        return found[0].content if found else []
    parents: dict[str, list[object]] = {}
    for each in found:
        parents.setdefault(each.parent, []).append({each.uuid: each.content})
    return [parents] if parents else []


def list_text(
    found: Sequence[Definition], marked: Sequence[Definition], mark: str, *, verbose: bool
) -> str:
    """Mdevs as mdevctl's lines; those that are ``marked`` get the mark."""
    lines = []
    for each in found:
        suffix = f" ({mark})" if each in marked else ""
        start = each.content["start"]
        lines.append(f"{each.uuid} {each.parent} {each.type} {start}{suffix}")
        if verbose and each.attributes:
            lines.append("  Attrs:")
            for at, (name, value) in enumerate(each.attributes):
                lines.append(f'    @{{{at}}}: {{"{name}":"{value}"}}')
    return "".join(f"{line}\n" for line in lines)


def types_json(found: tuple[str, list[Type]] | None) -> object:
    """Types as mdevctl's JSON."""
    if found is None:
        return []
    parent, types = found
    return [{parent: [{each.id: dict(_type_facts(each))} for each in types]}]


def types_text(found: tuple[str, list[Type]] | None) -> str:
    """Types as mdevctl's lines."""
    if found is None:
        return ""
    parent, types = found
    titles = {"available_instances": "Available instances", "device_api": "Device API"}
    lines = [parent]
    for each in types:
        lines.append(f"  {each.id}")
        for key, value in _type_facts(each):
            lines.append(f"    {titles.get(key, key.capitalize())}: {value}")
    return "".join(f"{line}\n" for line in lines)


def _type_facts(kind: Type) -> list[tuple[str, int | str]]:
    """What mdevctl tells of a type, in its order."""
    return [
        ("available_instances", kind.available),
        ("device_api", kind.device_api),
        ("name", kind.name),
        ("description", kind.description.replace("\n", ", ")),
    ]
