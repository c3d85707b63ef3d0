"""Where labs live while they are up: one folder each, with a record of what runs in it."""

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hostctl.errors import HostError
from hostctl.processes import Identity
from hostctl.tables import Table
from mdevemu import durable
from mdevemu.errors import ConfigError, unknown

# The longest name in a lab's folder: emulator/mdev-<36 characters>.sock.
_LONGEST = len("emulator/mdev-.sock") + 36
_SOCKET_PATH_LIMIT = 108
_RECORD = "lab.json"
_LOCK = "lock"


@dataclass(slots=True)
class VmRecord:
    """A VM of a lab that is up.

    Attributes:
        process: QEMU; None until it was started.
        argv: its whole command line.
        environment: variables that the command line needs.
        agent: the agent's socket.
        mdevs: names of its mdevs.
        accelerator: "kvm" or "tcg".
        ready: its agent has answered.
    """

    name: str
    argv: list[str]
    environment: dict[str, str]
    agent: str
    qmp: str
    mdevs: list[str]
    accelerator: str
    process: Identity | None = None
    ready: bool = False


@dataclass(slots=True)
class Record:
    """What a lab consists of while it is up, as its folder tells everybody.

    Attributes:
        owner: the hostctl that takes it down when it ends.
        state: "starting", "up" or "stopping".
        control: the emulator's control socket.
        since: seconds since the epoch.
    """

    name: str
    file: str
    owner: Identity
    since: float
    control: str
    state: str = "starting"
    emulator: Identity | None = None
    vms: list[VmRecord] = field(default_factory=list)

    @property
    def processes(self) -> dict[str, Identity]:
        """Every process of the lab by its role, in the order in which they end."""
        roles = {f"vm {vm.name}": vm.process for vm in self.vms}
        return {
            role: process
            for role, process in {"owner": self.owner, **roles, "emulator": self.emulator}.items()
            if process is not None
        }


def root() -> Path:
    """The folder that holds the labs of this user; made if it is missing, and only ours.

    Raises:
        HostError: it belongs to somebody else, others may write in it, or its path is
            too long for the sockets in it.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "mdevemu" if given else Path(f"/tmp/mdevemu-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise HostError(
            f"{folder} cannot be made: {error.strerror}",
            "set XDG_RUNTIME_DIR to a folder of yours",
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HostError(
            f"{folder} is not a folder that only this user can enter",
            "remove it, or set XDG_RUNTIME_DIR to a folder of yours",
        )
    return folder


class Folder:
    """The folder of one lab.

    Attributes:
        path: it.
    """

    def __init__(self, path: Path) -> None:
        """``path`` need not exist yet.

        Raises:
            HostError: sockets in it would have names that are too long.
        """
        if len(os.fsencode(path)) + 1 + _LONGEST >= _SOCKET_PATH_LIMIT:
            raise HostError(
                f"{path}: sockets in it would have names longer than {_SOCKET_PATH_LIMIT} bytes",
                "set XDG_RUNTIME_DIR to a folder with a short path",
            )
        self.path = path

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.path.name

    @property
    def emulator(self) -> Path:
        """The emulator's runtime folder: its control socket and one socket per mdev."""
        return self.path / "emulator"

    @property
    def control(self) -> Path:
        """The emulator's control socket."""
        return self.emulator / "control.sock"

    def mdev_socket(self, uuid: str) -> Path:
        """The vfio-user socket of an mdev."""
        return self.emulator / f"mdev-{uuid}.sock"

    def file(self, vm: str, what: str) -> Path:
        """A file of one VM: "agent.sock", "qmp.sock", "console.log" or "qemu.log"."""
        return self.path / f"{vm}.{what}"

    def read(self) -> Record | None:
        """The lab's record; None if there is none, or if it was cut short by a crash."""
        try:
            found = json.loads((self.path / _RECORD).read_text())
            return _parse(Table(_RECORD, found))
        except (FileNotFoundError, NotADirectoryError, ValueError, ConfigError):
            return None

    def write(self, record: Record) -> None:
        """Replace the record at once; a reader sees the old one or the new one."""
        durable.write(self.path / _RECORD, json.dumps(asdict(record), indent=1).encode() + b"\n")

    @contextlib.contextmanager
    def locked(self, what: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a lock of the lab; it falls when its holder ends, however that happens.

        With ``waiting``, which is then called, wait for whoever holds it.

        Raises:
            HostError: somebody else holds it, or the folder is gone.
        """
        try:
            handle = os.open(self.path / f"{what}.{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:
            raise HostError(f"lab {self.name!r} is not there any more") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    who = f"lab {self.name!r}: {what} is in use by another hostctl"
                    raise HostError(who) from None
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _identity(record: Table, role: str) -> Identity | None:
    if record.raw(role) is None:
        return None
    process = record.table(role)
    return Identity(process.whole("pid", 1), process.whole("start", 0), process.text("boot"))


def _vm(vm: Table) -> VmRecord:
    environment = vm.table("environment")
    return VmRecord(
        name=vm.text("name"),
        argv=list(vm.texts("argv")),
        environment={name: environment.text(name) for name in environment},
        agent=vm.text("agent"),
        qmp=vm.text("qmp"),
        mdevs=list(vm.texts("mdevs")),
        accelerator=vm.text("accelerator"),
        process=_identity(vm, "process"),
        ready=vm.truth("ready"),
    )


def _parse(record: Table) -> Record:
    owner = _identity(record, "owner")
    if owner is None:
        raise record.refuse("owner", "is missing")
    return Record(
        name=record.text("name"),
        file=record.text("file"),
        owner=owner,
        since=record.number("since"),
        control=record.text("control"),
        state=record.text("state"),
        emulator=_identity(record, "emulator"),
        vms=[_vm(vm) for vm in record.tables("vms")],
    )


def folder_of(name: str) -> Folder:
    """The folder that the lab of that name has, or would have."""
    return Folder(root() / name)


def folders() -> list[Folder]:
    """Every lab's folder, corpses included, by name."""
    return [Folder(path) for path in sorted(root().iterdir()) if path.is_dir()]


def running() -> dict[str, tuple[Folder, Record]]:
    """Labs whose owner lives, by name."""
    found = {}
    for folder in folders():
        record = folder.read()
        if record is not None and record.owner.alive:
            found[record.name] = (folder, record)
    return found


def select(name: str | None) -> tuple[Folder, Record]:
    """The lab of that name, or the only one that runs.

    Raises:
        ConfigError: no such lab runs, or the name is needed to choose one.
    """
    labs = running()
    if name is not None:
        if name not in labs:
            raise ConfigError("--lab", unknown("running lab", name, labs))
        return labs[name]
    if not labs:
        raise ConfigError("--lab", "no lab is running; start one with 'hostctl up LAB.toml'")
    if len(labs) > 1:
        raise ConfigError("--lab", f"more than one lab is running, name one of: {', '.join(labs)}")
    return next(iter(labs.values()))
