"""The composition root: one accelerator, its loop, its sockets."""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mdevemu import acl
from mdevemu.autostart import start_defined
from mdevemu.control import Argument, Command, Control
from mdevemu.coverage import Coverage
from mdevemu.definitions import Attributes, Definition, Definitions
from mdevemu.disk import Disk
from mdevemu.errors import ConfigError, complain, shown
from mdevemu.faults import Faults
from mdevemu.following import Following
from mdevemu.inspection import Inspection
from mdevemu.keeping import Keeping
from mdevemu.layouts import Hands, Layouts
from mdevemu.loop import Loop
from mdevemu.mdev import attributes, programs
from mdevemu.mdev.parent import Mdev, Parent
from mdevemu.profile import DEVICE_API, AcceleratorSpec, Place
from mdevemu.reprogramming import Reprogramming
from mdevemu.trace import Event, Trace
from mdevemu.users import Users
from mdevemu.vfio_user.server import Server

CONTROL_SOCKET = "control.sock"


class Emulator:
    """An accelerator that is up."""

    def __init__(
        self,
        spec: AcceleratorSpec,
        runtime: Path,
        clock: Callable[[], int] = time.monotonic_ns,
        root: Path | None = None,
        state: Path | None = None,
        save_every: int | None = None,
    ) -> None:
        """Make ``runtime``, a folder of mode 0700, and listen for control in it.

        Engines do what a run before left them at, in ``state`` or else below ``root``.
        The mdevs that it left in the folder ``state`` are brought back; those that change are
        saved to it every so many nanoseconds, if ``save_every`` is given.
        Below ``root`` are definitions; those that are automatic are started.

        Raises:
            ConfigError: a folder, a socket, a saved mdev or what is kept of engines cannot be
                used; nothing is left.
        """
        # Clients are told of files, and look for them from wherever they are.
        state, root = state and state.absolute(), root and root.absolute()
        self.trace = Trace(clock)
        self.parent = Parent(spec, self.trace, clock)
        self._runtime = runtime  # as it was given: names of sockets are short
        self._leaving = False
        self._servers: dict[str, Server] = {}
        self.inspection = Inspection(self.parent, self._tell)
        self.faults = Faults(self.parent)
        kept = programs.place(state, root, spec.address)
        self.reprogramming = Reprogramming(self.parent, self._tell, kept)
        self.coverage = Coverage(self.parent, on=spec.coverage)
        hands = Hands(self._create_at, self._remove_for_good, self._attached)
        self._layouts = Layouts(self.parent, hands)
        self._disk = Disk()
        self.keeping = Keeping(self.parent, state, self._tell, self._serve, clock, self._disk)
        self.following = Following(self.parent)
        self.users = Users(self.parent, runtime)
        _make_private(runtime)
        self._loop = Loop(clock, self.parent.scheduler.alarms)
        self._loop.work(self.work)
        self._loop.watch(self._disk.fileno(), self._disk.settle)
        self.control = Control(runtime / CONTROL_SOCKET, self._loop, self._commands())
        self.trace.listen(self._heard)
        self._root = root
        try:
            self.keeping.restore_all()
        except ConfigError:
            self.close()
            raise
        if save_every is not None:
            self.keeping.save_every(save_every)
        if root is not None:
            start_defined(Definitions(root), spec.address, self._start_defined, self._not_started)

    def serve(self, ready: Callable[[], None] = lambda: None) -> Sequence[str]:
        """Run until ``quit``, SIGTERM or SIGINT; then save mdevs, and take everything down.

        ``ready`` is called once all of these end it properly.  Returns a line for each
        mdev that should have been saved at the end, and was not.
        """
        wakeups, woken = socket.socketpair()
        for end in (wakeups, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._loop.stop())
        self._loop.watch(wakeups.fileno(), lambda: _drain(wakeups))
        try:
            ready()
            self._loop.run()
            return self._keep()
        finally:
            signal.set_wakeup_fd(-1)
            self.close()
            wakeups.close()
            woken.close()
            # One more signal while the interpreter goes down must not look like a crash.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

    def _keep(self) -> Sequence[str]:
        """Save what the next run shall have; what could not be."""
        self._leaving = True
        self.keeping.leave()
        self._finish_saving()
        self.keeping.lost.clear()
        self.keeping.save_all(last=True)
        self._finish_saving()
        return [*self.keeping.lost, *self.keeping.unfinished()]

    def _finish_saving(self) -> None:
        """Serve until what is being saved is; another signal ends this as well."""
        if self.keeping.busy:
            self._loop.go_on()
            self._loop.run()

    def close(self) -> None:
        """Remove every mdev and socket."""
        self.control.event("SHUTDOWN", {})
        for mdev in list(self.parent.mdevs.values()):
            self._remove(mdev)
        self.control.close()
        self._loop.close()
        self._disk.close()

    def work(self) -> bool:
        """Do one piece of work; False when there is none left."""
        busy = self.parent.step()
        busy |= self.keeping.step(others=busy and not self._leaving)
        if self.parent.host.faulted:
            self.inspection.collect()
        if self._leaving and not self.keeping.busy:
            self._loop.stop()
        return busy

    def _tell(self, name: str, facts: Mapping[str, object]) -> None:
        if name == "IOMMU_FAULT":
            self.coverage.iommu_fault(facts)
        self.control.event(name, facts)

    def _heard(self, event: Event) -> None:
        """Tell control clients of VMMs that come and go, and of those that may not."""
        names = {
            "session.open": ("CLIENT_CONNECTED", ()),
            "session.close": ("CLIENT_DISCONNECTED", ()),
            "session.refused": ("CLIENT_REFUSED", ("reason", "uid", "pid")),
        }
        if event.name in names:
            name, keys = names[event.name]
            told = {key: event.facts[key] for key in keys if key in event.facts}
            self.control.event(name, {"mdev": event.facts["session"]} | told)

    # Commands of the control socket.

    def _commands(self) -> list[Command]:
        return [
            Command("query-status", lambda: {"status": "running", "running": True}),
            Command("query-accelerator", self._query_accelerator),
            Command("query-topology", self.parent.topology),
            Command("query-types", self._query_types),
            Command("explain-mdev", self._explain, [Argument("type")]),
            Command("query-mdevs", self._query_mdevs),
            Command(
                "create-mdev",
                self._create,
                [
                    Argument("type"),
                    Argument("uuid", optional=True),
                    Argument("name", optional=True),
                    Argument("weight", "int", optional=True),
                    Argument("attributes", "object", optional=True),
                ],
            ),
            Command(
                "remove-mdev",
                self._remove_named,
                [Argument("uuid"), Argument("force", "bool", True)],
            ),
            Command("query-attributes", self._query_attributes, [Argument("uuid")]),
            Command(
                "set-attribute",
                self._set_attribute,
                [Argument("uuid"), Argument("name"), Argument("value")],
            ),
            Command("query-counters", self._query_counters, [Argument("mdev", optional=True)]),
            *self.inspection.commands(),
            *self.faults.commands(),
            *self.coverage.commands(),
            *self._layouts.commands(),
            *self.reprogramming.commands(),
            *self.keeping.commands(),
            *self.following.commands(),
            Command("quit", self._quit),
        ]

    def _query_accelerator(self) -> dict[str, object]:
        parent = self.parent
        return {
            "name": parent.spec.name,
            "address": parent.spec.address,
            "root": parent.spec.root,
            "numa-node": parent.spec.numa_node,
            "device-id": parent.spec.device_id,
            "pid": os.getpid(),
            "runtime": str(self._runtime.absolute()),
            "definitions": self._root and str(self._root),
            "hbm": {"total": parent.hbm.size, "free": parent.hbm.free_bytes},
            "engines": [
                {
                    "name": engine.name,
                    "operations": sorted(engine.functions),
                    "busy-ns": engine.busy_ns,
                    "commands": engine.commands,
                }
                for engine in parent.engines.all
            ],
        }

    def _query_types(self) -> list[dict[str, object]]:
        return [
            {
                "id": kind.id,
                "name": kind.name,
                "description": kind.details,
                "device-api": DEVICE_API,
                "available-instances": self.parent.available(kind),
                "personality": kind.personality,
                "hbm": kind.hbm,
                "weight": kind.weight,
                "queues": kind.queues,
            }
            for kind in self.parent.types.values()
        ]

    def _explain(self, type: str) -> dict[str, object]:
        found = self.parent.explain(type, self._attached())
        place = found.place
        return {
            "type": found.type,
            "place": place and {"hbm": place.hbm, "work-queue": place.work_queue},
            "lacking": list(found.lacking),
            "blocking": list(found.blocking),
            "fitting": [{"type": name, "count": count} for name, count in found.fitting.items()],
            "moves": None if found.moves is None else [asdict(move) for move in found.moves],
            "exhausted": found.exhausted,
        }

    def _attached(self) -> set[str]:
        """UUIDs of mdevs with a VMM."""
        return {uuid for uuid, server in self._servers.items() if server.attached}

    def _query_mdevs(self) -> list[dict[str, object]]:
        return [self._show(mdev) for mdev in self.parent.mdevs.values()]

    def _show(self, mdev: Mdev) -> dict[str, object]:
        part, use = mdev.partition, asdict(mdev.personality.hbm_use)
        in_use = {name.replace("_", "-"): count for name, count in use.items()}
        return {
            "uuid": mdev.uuid,
            "name": mdev.name,
            "type": mdev.type.id,
            "personality": mdev.type.personality,
            "attach": mdev.type.attach,
            "device-id": mdev.space.device_id,
            "pasid": mdev.space.pasid,
            "socket": str(self._servers[mdev.uuid].path.absolute()),
            "weight": mdev.flow.weight,
            "users": sorted(mdev.users),
            "hbm": {"base": part.offset, "size": part.size, **in_use} if part else None,
            "work-queue": mdev.place.work_queue,
            "attached": self._servers[mdev.uuid].attached,
        }

    def _create(
        self,
        type: str,
        uuid: str | None = None,
        name: str | None = None,
        weight: int | None = None,
        attributes: dict[str, object] | None = None,
    ) -> dict[str, object]:
        given = [] if weight is None else [("weight", str(weight))]
        for key, value in (attributes or {}).items():
            if not isinstance(value, str):
                raise ConfigError("attributes", f"{key}: {shown(value)} is not a text")
            given.append((key, value))
        return self._show(self._create_at(type, uuid, name, None, tuple(given)))

    def _create_at(
        self,
        type: str,
        uuid: str | None,
        name: str | None,
        place: Place | None,
        given: Attributes,
    ) -> Mdev:
        """Make an mdev with its attributes and its socket."""
        mdev = self.parent.create(type, uuid=uuid, name=name, place=place)
        try:
            self._serve(mdev, given)
        except ConfigError:
            self.parent.remove(mdev)
            raise
        return mdev

    def _serve(self, mdev: Mdev, given: Attributes) -> dict[str, object]:
        """Give a new mdev its attributes and its socket.

        Raises:
            ConfigError: an attribute is refused, or there can be no socket.
        """
        for name, value in given:
            attributes.write(self.parent, mdev, name, value)
        path = self._runtime / f"mdev-{mdev.uuid}.sock"
        server = Server(path, mdev.function, mdev.space, self._loop, self.trace, mdev.name)
        mdev.admit = partial(self.users.admit, mdev, server)
        if mdev.users:
            try:
                mdev.admit(mdev.users)
            except ConfigError:
                server.close()
                raise
        self._servers[mdev.uuid] = server
        self.coverage.watch(mdev)
        shown = self._show(mdev)
        self.control.event("MDEV_CREATED", shown)
        return shown

    def _start_defined(self, definition: Definition) -> None:
        """Create an mdev with its attributes, or not at all; one that was brought back stays."""
        if definition.uuid in self.parent.mdevs:
            return
        self._create_at(definition.type, definition.uuid, None, None, definition.attributes)

    def _not_started(self, uuid: str, wrong: ConfigError) -> None:
        self.trace.emit("mdev.not_started", uuid=uuid, why=str(wrong))
        complain(f"{uuid} is not started: {wrong}")

    def _remove_named(self, uuid: str, force: bool = False) -> dict[str, object]:
        mdev = self.parent.find(uuid)
        if self._servers[mdev.uuid].attached and not force:
            raise ConfigError("mdev", f"{uuid!r} is attached to a VMM", errno.EBUSY)
        self._remove_for_good(mdev)
        return {}

    def _remove_for_good(self, mdev: Mdev) -> None:
        self._remove(mdev)
        self.keeping.forget(mdev)

    def _remove(self, mdev: Mdev) -> None:
        self._servers.pop(mdev.uuid).close()
        self.users.forget(mdev)
        self.keeping.end(mdev)
        self.inspection.collect()  # while its PASID is still its own
        self.faults.forget(mdev)
        self.parent.remove(mdev)
        self.control.event("MDEV_REMOVED", {"uuid": mdev.uuid, "name": mdev.name})

    def _query_attributes(self, uuid: str) -> list[dict[str, object]]:
        mdev = self.parent.find(uuid)
        return [
            {"name": name, "value": each.read(mdev), "writable": each.write is not None}
            for name, each in attributes.ATTRIBUTES.items()
        ]

    def _set_attribute(self, uuid: str, name: str, value: str) -> dict[str, object]:
        attributes.write(self.parent, self.parent.find(uuid), name, value)
        return {}

    def _query_counters(self, mdev: str | None = None) -> list[dict[str, object]]:
        chosen = [self.parent.find(mdev)] if mdev else list(self.parent.mdevs.values())
        return [
            {"mdev": each.name, **each.personality.counts(), "weight": each.flow.weight}
            | {"busy-ns": each.flow.busy_ns, "work": each.flow.work, "hbm-bytes": each.type.hbm}
            | self.faults.errors(each)
            for each in chosen
        ]

    def _quit(self) -> dict[str, object]:
        self._loop.stop()
        return {}


def _drain(end: socket.socket) -> None:
    """Take what is there; its bytes mean nothing."""
    end.recv(64)


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner can enter, or check that it is one.

    Raises:
        ConfigError: it cannot be made, or is not ours alone.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and acl.admitted(folder):
            acl.admit(folder, (), 0)  # they were users of a run that was killed
        facts = folder.stat()
    except OSError as error:
        raise ConfigError(str(folder), error.strerror or str(error)) from None
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise ConfigError(str(folder), "is not a folder of this user with mode 0700")
