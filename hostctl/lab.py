"""A lab that is up, and owned by this process: emulator, mdevs, VMs."""

import contextlib
import dataclasses
import os
import selectors
import time
from collections.abc import Iterator

from hostctl import sweep
from hostctl.control import Mdev
from hostctl.emulator import Emulator
from hostctl.errors import VmError
from hostctl.guest import answers
from hostctl.processes import identify, shortage, undisturbed
from hostctl.runtime import Folder, Record, VmRecord, folder_of
from hostctl.spec import TYPE_PREFIX, LabSpec, VmSpec
from hostctl.steps import Steps
from hostctl.vm.qemu import Vm
from hostctl.vm.spec import Machine, Plan, Slot
from mdevemu.errors import ConfigError

BOOT_SECONDS = 180.0
_LEAVE_SECONDS = 2.0
_PAUSE = 0.01
_LOOK_SECONDS = 5.0  # between two looks for space that logs need


def plan(spec: LabSpec, vm: VmSpec, folder: Folder, accelerator: str) -> Plan:
    """The VM of a lab with all its paths, which follow from the lab's folder."""
    return Plan(
        name=vm.name,
        memory=vm.memory,
        cpus=vm.cpus,
        iommu=vm.iommu,
        kernel=vm.kernel,
        slots=tuple(Slot(name, folder.mdev_socket(spec.mdev(name).uuid)) for name in vm.mdevs),
        accelerator=accelerator,
        agent=folder.file(vm.name, "agent.sock"),
        qmp=folder.file(vm.name, "qmp.sock"),
        console=folder.file(vm.name, "console.log"),
        log=folder.file(vm.name, "qemu.log"),
    )


class Lab:
    """A lab in the making, or up.  Whoever has it takes it down again with ``close``.

    Attributes:
        spec: what it shall consist of.
        folder: where its sockets and logs are.
        mdevs: what exists, by name.
        vms: VMs that were started, by name.
    """

    def __init__(self, spec: LabSpec, folder: Folder) -> None:
        """Take possession of the folder, which is there and empty."""
        self.spec = spec
        self.folder = folder
        self.mdevs: dict[str, Mdev] = {}
        self.vms: dict[str, Vm] = {}
        self._emulator: Emulator | None = None
        self._record = Record(
            name=spec.name,
            file=str(spec.file.resolve()),
            owner=identify(os.getpid()),
            since=time.time(),
            control=str(folder.control),
        )
        self._write()

    @property
    def emulator(self) -> Emulator:
        """Its emulator; ``start_emulator`` was called."""
        assert self._emulator is not None
        return self._emulator

    def _write(self) -> None:
        self.folder.write(self._record)

    def start_emulator(self) -> None:
        """Start the emulator with the lab's accelerator.

        Raises:
            ConfigError: it refused the accelerator's file.
            VmError, HostError, TimedOut: it did not start.
        """
        self._emulator = Emulator(
            self.spec.profile,
            self.folder.emulator,
            self.folder.path / "emulator.log",
            os.getpid(),
            self.spec.definitions,
        )
        self._record.emulator = self._emulator.identity
        self._write()

    def create_mdevs(self) -> None:
        """Create the lab's mdevs.

        Raises:
            ConfigError: the emulator refused one.
        """
        for mdev in self.spec.mdevs:
            self.create_mdev(mdev.name, mdev.type, mdev.uuid, mdev.weight)

    def create_mdev(self, name: str, kind: str, uuid: str, weight: int | None) -> Mdev:
        """Create an mdev, be it in the lab's file or not.

        Raises:
            ConfigError: the emulator refused.
        """
        made = self.emulator.control.create(TYPE_PREFIX + kind, name=name, uuid=uuid, weight=weight)
        self.mdevs[name] = made
        return made

    def remove_mdev(self, name: str) -> None:
        """Remove an mdev that no VM has, or that of one that was just turned off.

        Raises:
            ConfigError: a VM has it.
        """
        # Where QEMU has an io_uring, the kernel closes its sockets a moment after its end.
        end = time.monotonic() + _LEAVE_SECONDS
        while self._attached(name) and time.monotonic() < end:
            time.sleep(_PAUSE)
        self.emulator.control.remove(name)
        del self.mdevs[name]

    def _attached(self, name: str) -> bool:
        return any(each.attached for each in self.emulator.control.mdevs() if each.name == name)

    def start_vms(self, machine: Machine, accelerator: str) -> None:
        """Start every VM; none need be ready when this returns.

        Raises:
            HostError, VmError: QEMU cannot be started.
        """
        for spec in self.spec.vms:
            self.start_vm(plan(self.spec, spec, self.folder, accelerator), machine)

    def start_vm(self, made: Plan, machine: Machine) -> Vm:
        """Start one VM; it need not be ready when this returns.

        Raises:
            HostError, VmError: QEMU cannot be started.
        """
        self.vms[made.name] = vm = Vm(made, machine)
        self._record.vms.append(
            VmRecord(
                name=made.name,
                argv=vm.argv,
                environment=dict(machine.environment),
                agent=str(made.agent),
                qmp=str(made.qmp),
                mdevs=[slot.name for slot in made.slots],
                accelerator=made.accelerator,
                process=vm.identity,
            )
        )
        self._write()
        return vm

    def wait_vms(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the agent of every VM answers.

        Raises:
            VmError: a VM failed.
            TimedOut: an agent did not answer in time.
        """
        end = time.monotonic() + seconds
        for name in self.vms:
            self.wait_vm(name, max(1.0, end - time.monotonic()))

    def wait_vm(self, name: str, seconds: float) -> None:
        """Wait until the agent of one VM answers, to which nobody is connected.

        Raises:
            VmError: the VM failed.
            TimedOut: the agent did not answer in time.
        """
        self.vms[name].wait_ready(answers, seconds)
        self._recorded(name).ready = True
        self._write()

    def _recorded(self, name: str) -> VmRecord:
        return next(vm for vm in self._record.vms if vm.name == name)

    def stop_vm(self, name: str) -> None:
        """Turn a VM off."""
        self.vms.pop(name).close()
        self._record.vms.remove(self._recorded(name))
        self._write()

    def mark_up(self) -> None:
        """Tell everybody that the lab is up."""
        # Nobody reads the emulator's events from here on, so they must not pile up.
        self.emulator.hang_up()
        self._record.state = "up"
        self._write()

    def watch(self) -> Iterator[str]:
        """Wait, and tell of each VM that was turned off from within, and of logs that are cut.

        Raises:
            VmError: the emulator or a VM failed.
        """
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as handles:
            watched: list[Emulator | Vm] = [self.emulator, *self.vms.values()]
            for who in watched:
                handle = os.pidfd_open(who.identity.pid)
                handles.callback(os.close, handle)
                selector.register(handle, selectors.EVENT_READ, who)
            told = None
            while True:
                for key, _ in selector.select(_LOOK_SECONDS):
                    selector.unregister(key.fd)
                    yield f"{self._ended(key.data)} was turned off from within"
                short = shortage(self.folder.file("any", "console.log"))
                if short and short != told:
                    yield short
                told = short

    def _ended(self, who: Emulator | Vm) -> str:
        """Say who ended by its own will; anything else is a failure."""
        status = who.status
        if isinstance(who, Emulator):
            raise VmError("emulator", f"ended with status {status}", who.argv, who.evidence())
        if status != 0:
            raise who.failure(f"QEMU ended with status {status}")
        self.stop_vm(who.plan.name)
        return who.plan.name

    def close(self) -> None:
        """Take everything down, VMs first, and remove the folder."""
        self._record.state = "stopping"
        with contextlib.suppress(OSError):  # where it cannot be told, it is done all the same
            self._write()
        for vm in self.vms.values():
            vm.close()
        if self._emulator is not None:
            self._emulator.close()
        self.folder.remove()


@contextlib.contextmanager
def owned(spec: LabSpec) -> Iterator[Lab]:
    """A lab with a folder of its own; what was started is gone after the block.

    What a lab of the same name left behind when its owner was killed goes first.

    Raises:
        ConfigError: a lab of that name is up.
        HostError: its folder cannot be used.
    """
    folder = folder_of(spec.name)
    record = folder.read()
    if record is not None and record.owner.alive:
        raise ConfigError(
            str(spec.file),
            f"lab {spec.name!r} is up already (process {record.owner.pid}); "
            f"take it down with 'hostctl down {spec.name}'",
        )
    sweep.sweep(folder)
    folder.path.mkdir(mode=0o700)
    with folder.locked("owner"):
        lab = Lab(spec, folder)
        try:
            yield lab
        finally:
            with undisturbed():
                lab.close()


def raise_lab(lab: Lab, steps: Steps, machine: Machine | None, accelerator: str) -> None:
    """Bring the whole lab up, step by step.

    Raises:
        ConfigError, HostError, VmError, TimedOut: a step failed.
    """
    with steps("emulator") as note:
        lab.start_emulator()
        note.say(lab.spec.accelerator.name)
    with steps("mdevs") as note:
        lab.create_mdevs()
        note.say(", ".join(f"{mdev.name} ({mdev.place})" for mdev in lab.mdevs.values()))
    if machine is not None and lab.spec.vms:
        with steps("VMs") as note:
            lab.start_vms(machine, accelerator)
            lab.wait_vms()
            note.say(f"{', '.join(lab.vms)} ({accelerator})")
    lab.mark_up()


def renamed(spec: LabSpec, name: str) -> LabSpec:
    """The same lab under another name, so that both can be up."""
    return dataclasses.replace(spec, name=name)
