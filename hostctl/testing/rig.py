"""An accelerator for the tests of one module, at one level, with the guests that use it."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from guest.access import Access
from hostctl.control import Control, Mdev
from hostctl.errors import HostError
from hostctl.lab import Lab, owned
from hostctl.output import Output
from hostctl.runtime import Folder
from hostctl.socket_access import SocketAccess
from hostctl.spec import TYPE_PREFIX, MdevSpec, VmSpec, mdev_uuid
from hostctl.testing.details import Details
from hostctl.testing.guests import VmUnderTest
from hostctl.testing.model import Model, ModelAccess
from hostctl.testing.moments import TEST, Moments
from hostctl.testing.qtest import QtestAccess
from hostctl.testing.wish import Wish
from hostctl.vm import accelerator
from hostctl.vm.run import Prepared, Request, boot, prepare
from images.errors import HostError as ImageError
from images.sysroot import find_qemu
from mdevemu.errors import ConfigError, MdevError, unknown
from mdevemu.profile import AcceleratorSpec, load

LEVELS = ("model", "socket", "qtest", "vm")
_PAUSE = 0.01
_CLIENT_SECONDS = 10.0


class Unavailable(MdevError):
    """This machine cannot do what a test needs.

    Attributes:
        wrong: what is missing or does not work.
        fix: what can be done about it; empty if there is nothing to say.
    """

    def __init__(self, wrong: str, fix: str) -> None:
        super().__init__(f"{wrong}\n  fix: {fix}" if fix else wrong)
        self.wrong = wrong
        self.fix = fix


class Wedged(MdevError):
    """A guest was lost in an earlier test."""


class Rig(Protocol):
    """An accelerator that is up.

    Attributes:
        level: one of `LEVELS`.
        control: its commands.
        moments: what the test at hand did.
    """

    level: str
    control: Control
    moments: Moments

    def create(self, name: str, wish: Wish) -> Mdev:
        """Make an mdev of the wish's type."""
        ...

    def connect(self, mdev: Mdev, base: int) -> Access:
        """A driver's access to an mdev; ``base``: the first Iova, if that is to be chosen."""
        ...

    def guest(self, name: str, wish: Wish) -> VmUnderTest:
        """The guest of that name, which is up and well, or was; started if there is none."""
        ...

    def keep_details(self) -> None:
        """Have accesses, commands, interrupts and walks in the trace too."""
        ...

    def idle(self) -> None:
        """Let time pass."""
        ...

    def now(self) -> int:
        """Nanoseconds on the clock of the trace."""
        ...

    def logs(self) -> Mapping[str, Path]:
        """Logs of its processes, by name."""
        ...

    def close(self) -> None:
        """Take everything down."""
        ...


def kind(accelerator: AcceleratorSpec, wish: Wish) -> str:
    """Name of the type that mdevs are of.

    Raises:
        ConfigError: there is no such type.
    """
    names = [each.name for each in accelerator.types]
    if wish.type is not None and wish.type not in names:
        raise ConfigError("type", unknown("type", wish.type, names))
    return wish.type or names[0]


class ModelRig:
    """The accelerator is in the test's process; see ``Rig``."""

    def __init__(self, wish: Wish) -> None:
        """Make it.

        Raises:
            ConfigError: the wish cannot be fulfilled.
        """
        self.level = "model"
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdevemu-")))
            file = folder / "accelerator.toml"
            file.write_text(wish.text)
            self._spec = load(file)
            self._model = Model(self._spec, folder / "run")
            stack.callback(self._model.close)
            self._stack = stack.pop_all()
        self.control = Control(self._model)
        self.moments = Moments(self.now)

    def create(self, name: str, wish: Wish) -> Mdev:
        """See ``Rig``."""
        type_id = TYPE_PREFIX + kind(self._spec, wish)
        return self.control.create(type_id, name=name, uuid=None, weight=None)

    def connect(self, mdev: Mdev, base: int) -> Access:
        """See ``Rig``."""
        return ModelAccess(self._model, mdev.name, base)

    def guest(self, name: str, wish: Wish) -> VmUnderTest:
        """There is none.

        Raises:
            Unavailable: always.
        """
        raise Unavailable("there are no VMs at level model", "run with --accel-level vm")

    def keep_details(self) -> None:
        """See ``Rig``."""
        self.control.ask("trace-follow")

    def idle(self) -> None:
        """See ``Rig``: a hundredth of a second, in no time."""
        self._model.settle(_PAUSE)

    def now(self) -> int:
        """See ``Rig``."""
        return self._model.clock.now

    def logs(self) -> Mapping[str, Path]:
        """There are no processes."""
        return {}

    def close(self) -> None:
        """See ``Rig``."""
        self._stack.close()


class LabRig:
    """The accelerator is a process, and a lab of its own; see ``Rig``."""

    def __init__(self, wish: Wish, level: str) -> None:
        """Start it.

        Raises:
            ConfigError: the wish cannot be fulfilled; nothing is left.
            HostError, VmError, TimedOut: it did not start; nothing is left.
        """
        self.level = level
        self.moments = Moments(self.now)
        self._guests: dict[tuple[object, ...], VmUnderTest] = {}
        self._lost: dict[tuple[object, ...], str] = {}
        self._output = Output()
        profile = wish.text
        spec = accelerator.lab_of(profile, (), ())
        with contextlib.ExitStack() as stack:
            self._lab: Lab = stack.enter_context(owned(spec))
            self._folder: Folder = self._lab.folder
            spec.profile.write_text(profile)
            self._lab.start_emulator()
            self._stack = stack.pop_all()
        self.control = self._lab.emulator.control

    def create(self, name: str, wish: Wish) -> Mdev:
        """See ``Rig``."""
        lab = self._lab
        wanted = kind(lab.spec.accelerator, wish)
        made = MdevSpec(name, wanted, None, mdev_uuid(lab.spec.name, name))
        others = tuple(each for each in lab.spec.mdevs if each.name != name)
        lab.spec = dataclasses.replace(lab.spec, mdevs=(*others, made))
        return lab.create_mdev(name, wanted, made.uuid, None)

    def connect(self, mdev: Mdev, base: int) -> Access:
        """See ``Rig``.

        Raises:
            Unavailable: it takes a QEMU, and there is none.
        """
        if self.level != "qtest":
            return SocketAccess(mdev.socket, base=base, timeout=_CLIENT_SECONDS)
        try:
            program = find_qemu()
        except ImageError as error:
            raise Unavailable(error.wrong, error.fix) from None
        return QtestAccess(program, mdev.socket, self._folder.path)

    def guest(self, name: str, wish: Wish) -> VmUnderTest:
        """See ``Rig``.

        Raises:
            ConfigError: the wish cannot be fulfilled.
            Unavailable: this machine cannot have guests, or the level has none.
            Wedged: it was lost in an earlier test.
            VmError, TimedOut: it did not come up.
        """
        if self.level != "vm":
            wrong = f"there are no VMs at level {self.level}"
            raise Unavailable(wrong, "run with --accel-level vm")
        key = (name, *wish.guest)
        if reason := self._lost.get(key):
            raise Wedged(f"{name} did not come up: {reason}")
        if key not in self._guests:
            made = self._prepare(wish)
            try:
                self._guests[key] = self._boot(self._free(name), wish, made)
            except MdevError as error:
                self._lost[key] = str(error).partition("\n")[0]
                raise
        found = self._guests[key]
        if found.wedged:
            raise Wedged(f"{name} is wedged since an earlier test: {found.wedged}")
        return found

    def _free(self, name: str) -> str:
        """The name, or one like it if another guest has that."""
        taken = sum(other == name for other, *_ in [*self._guests, *self._lost])
        return f"{name}-{taken + 1}" if taken else name

    def _prepare(self, wish: Wish) -> tuple[Request, Prepared]:
        """Have everything there that a guest needs."""
        if wish.kernel is not None and not wish.kernel.is_file():
            raise Unavailable(
                f"there is no kernel {wish.kernel}", "build it, or leave kernel out for Debian's"
            )
        request = Request(
            kernel=wish.kernel,
            tree=wish.tree,
            modules=wish.modules,
            iommu=wish.viommu,
            memory=wish.memory,
            cpus=wish.cpus,
            append=wish.append,
            share=wish.share,
            seconds=wish.boot_seconds,
        )
        try:
            return request, prepare(request, self._output)
        except (HostError, ImageError) as error:
            raise Unavailable(error.wrong, error.fix) from None

    def _boot(self, name: str, wish: Wish, made: tuple[Request, Prepared]) -> VmUnderTest:
        request, prepared = made
        mdev = self.create(name, wish)
        self.moments.add(TEST, f"{name}: starts")
        spec = VmSpec(name, (name,), wish.memory, wish.cpus, wish.viommu, ())
        end = time.monotonic() + wish.boot_seconds
        vm = boot(self._lab, spec, request, prepared, self._output, end)
        ready = VmUnderTest(vm, mdev, wish, request, self.moments)
        self._stack.callback(ready.close)
        ready.prepare()
        return ready

    def keep_details(self) -> None:
        """See ``Rig``."""
        self._stack.callback(Details(self._lab.emulator.control_path).close)

    def idle(self) -> None:
        """See ``Rig``."""
        time.sleep(_PAUSE)

    def now(self) -> int:
        """See ``Rig``: the emulator and we have one clock."""
        return time.monotonic_ns()

    def logs(self) -> Mapping[str, Path]:
        """See ``Rig``."""
        found = {"emulator.log": self._folder.path / "emulator.log"}
        for name, vm in self._lab.vms.items():
            found |= {f"{name}.console.log": vm.plan.console, f"{name}.qemu.log": vm.plan.log}
        return found

    def close(self) -> None:
        """See ``Rig``."""
        self._stack.close()


def start(wish: Wish, level: str) -> Rig:
    """An accelerator for a wish, at a level.

    Raises:
        ConfigError: the wish cannot be fulfilled.
        HostError, VmError, TimedOut: it did not start.
    """
    return ModelRig(wish) if level == "model" else LabRig(wish, level)
