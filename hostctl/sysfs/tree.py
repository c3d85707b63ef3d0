"""The files below ``/sys`` that the kernel has for mdevs: what they hold, what writing them does.

Spec: Linux, Documentation/driver-api/vfio-mediated-device.rst, "Mediated Device Management
Interface Through sysfs".
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Union

from hostctl.control import Attribute, Control, Mdev, Type
from mdevemu.errors import ConfigError

READ, WRITE = 0o444, 0o200
UUID_CHARACTERS = 36


@dataclass(frozen=True, slots=True)
class File:
    """A file; without ``read`` it can only be written, and the other way round."""

    read: Callable[[], str] | None = None
    write: Callable[[str], None] | None = None

    @property
    def mode(self) -> int:
        """Its permissions."""
        return (READ if self.read else 0) | (WRITE if self.write else 0)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, with the path in it."""

    target: str


Folder = Mapping[str, "Node"]
Node = Union[File, Link, Folder]  # noqa: UP007 (a type that names itself)


class Tree:
    """What is there now; each look asks the emulator."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._accelerator = control.accelerator()

    def look(self, path: str) -> Node:
        """What is at a path, ``/`` being ``/sys``.

        Raises:
            FileNotFoundError: nothing.
            HostError: the emulator does not answer.
        """
        node: Node = self._root()
        for name in path.strip("/").split("/"):
            if not name:
                continue
            if isinstance(node, File | Link) or name not in node:
                raise FileNotFoundError(errno.ENOENT, path)
            node = node[name]
        return node

    def _root(self) -> Folder:
        accelerator, mdevs = self._accelerator, self._control.mdevs()
        place = f"devices/{accelerator.root}/{accelerator.address}"
        return {
            "bus": {
                "mdev": {
                    "devices": {each.uuid: Link(f"../../../{place}/{each.uuid}") for each in mdevs}
                }
            },
            "class": {"mdev_bus": {accelerator.address: Link(f"../../{place}")}},
            "devices": {accelerator.root: {accelerator.address: self._parent(mdevs)}},
        }

    def _parent(self, mdevs: list[Mdev]) -> Folder:
        types = {kind.id: self._type(kind, mdevs) for kind in self._control.types()}
        return {
            "mdev_supported_types": types,
            "numa_node": _fixed(self._accelerator.numa_node),
            **{each.uuid: _Lazy(partial(self._mdev, each)) for each in mdevs},
        }

    def _type(self, kind: Type, mdevs: list[Mdev]) -> Folder:
        return {
            "available_instances": _fixed(kind.available),
            "create": File(write=partial(self._create, kind.id)),
            "description": _fixed(kind.description),
            "device_api": _fixed(kind.device_api),
            "devices": {
                each.uuid: Link(f"../../../{each.uuid}") for each in mdevs if each.type == kind.id
            },
            "name": _fixed(kind.name),
        }

    def _mdev(self, mdev: Mdev) -> dict[str, Node]:
        attributes = self._control.attributes(mdev.uuid)
        return {
            "mdev_type": Link(f"../mdev_supported_types/{mdev.type}"),
            "remove": File(write=partial(self._remove, mdev.uuid)),
            **{each.name: self._attribute(mdev.uuid, each) for each in attributes},
        }

    def _attribute(self, uuid: str, attribute: Attribute) -> File:
        write = partial(self._control.set_attribute, uuid, attribute.name)
        return File(lambda: f"{attribute.value}\n", write if attribute.writable else None)

    def _create(self, kind: str, data: str) -> None:
        """Take a UUID of 36 characters, or 37 with a newline, as the kernel does."""
        uuid = data.removesuffix("\n")
        if len(uuid) != UUID_CHARACTERS:
            raise ConfigError("create", f"{len(data)} characters (accepted: a UUID)")
        self._control.create(kind, name=None, uuid=uuid, weight=None)

    def _remove(self, uuid: str, data: str) -> None:
        """Remove it if a number that is not 0 is written, as the kernel does."""
        if not data.strip().isdigit():
            raise ConfigError("remove", "a number is written to it (accepted: 1)")
        if int(data):
            self._control.remove(uuid)


class _Lazy(Mapping[str, Node]):
    """A folder whose content is asked for when somebody looks into it."""

    def __init__(self, make: Callable[[], Folder]) -> None:
        self._make = make

    @cached_property
    def _content(self) -> Folder:
        return self._make()

    def __getitem__(self, name: str) -> Node:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def _fixed(value: object) -> File:
    """A file that holds this."""
    return File(lambda: f"{value}\n")
