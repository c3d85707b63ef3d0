"""A throw-away VM with one mdev, for a kernel, a module or a command under test.

    request = Request(modules=("ioatdma", "./my.ko debug=1"), personality="ioat")
    with guest(request, output) as vm:
        done = vm.run(["sh", "-c", "ls /sys/class/dma"])

Everything that it waits for shares one limit; when that is over, TimedOut says for what,
and what the guest's console said last.
"""

import contextlib
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hostctl.errors import ModuleRefused, TimedOut
from hostctl.guest import Agent, AgentGone, Completed
from hostctl.guest import Output as Receiver
from hostctl.lab import Lab, owned, plan
from hostctl.machine import guest_machine, pick_accelerator
from hostctl.output import Output
from hostctl.spec import LabSpec, VmSpec
from hostctl.steps import Steps
from hostctl.vm import accelerator, payload
from hostctl.vm.kernel import Modules, kernel_release
from hostctl.vm.modules import Module
from hostctl.vm.qemu import Vm
from hostctl.vm.spec import SHARE, Machine, Plan
from images.errors import NoModule
from images.progress import Console
from mdevemu.errors import ConfigError
from mdevemu.units import GIB, MIB

SECONDS = 300.0
DEBUGGED_SECONDS = 3600.0
_BREATH = 1.0  # seconds that the last thing to do gets at least
_LEAST = 256 * MIB  # what a guest needs besides a copy of its modules and the modules
# By their paths: the guest's shell would prefer its own, which try twice and say less.
_INSMOD, _MODPROBE = "/usr/sbin/insmod", "/usr/sbin/modprobe"
MOUNT = f"""\
modprobe -qa 9p 9pnet_virtio
mkdir -p /{SHARE} && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 {SHARE} /{SHARE}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What shall run, and what in.

    Attributes:
        personality: of the one mdev that the guest has.
        kernel: a bzImage of the operator's; None for Debian's.
        tree: the folder with that kernel's modules.
        modules: loaded in order, each with its parameters as on insmod's command line: the path
            of a file (``./my.ko debug=1``), or the name of a module of the kernel's.  ``dmatest``,
            which Debian's kernel lacks, is built for it.
        iommu: the guest's: "intel", "amd", "virtio" or "none".
        memory: bytes.
        append: words for the kernel's command line.
        share: folder of the host's that the guest has at /share, where commands run then.
        debugger: QEMU waits for one before the guest's first instruction.
        accel: how QEMU runs guests: "auto", "kvm" or "tcg".
        seconds: limit for all of it, from the start of the accelerator to the command's end.
    """

    personality: str = "native"
    kernel: Path | None = None
    tree: Path | None = None
    modules: Sequence[str] = ()
    iommu: str = "none"
    memory: int = GIB
    cpus: int = 1
    append: Sequence[str] = ()
    share: Path | None = None
    debugger: bool = False
    accel: str = "auto"
    seconds: float = SECONDS


class Guest:
    """A guest that is up, with its modules loaded.

    Attributes:
        vm: the VM that it is in.
        agent: speaks for it; what it raises does not tell the guest's last words.
    """

    def __init__(self, vm: Vm, request: Request, end: float) -> None:
        """Connect to the agent, which answers; ``end`` is when ``request.seconds`` are over."""
        self.vm = vm
        self._request = request
        self._end = end
        self._brought: set[str] = set()  # names of modules that are no modules of the kernel's
        with self._explained("the agent"):
            self.agent = Agent(vm.plan.agent, timeout=self._left())

    def _left(self, seconds: float | None = None) -> float:
        """Seconds that are left of all that there are, at most ``seconds``."""
        left = max(_BREATH, self._end - time.monotonic())
        return left if seconds is None else min(seconds, left)

    @property
    def _folder(self) -> str | None:
        return None if self._request.share is None else f"/{SHARE}"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Have an error tell the guest's last words."""
        try:
            yield
        except AgentGone:
            raise self.vm.ended() from None
        except TimedOut as late:
            raise self.vm.late(what, round(late.waited, 1)) from None

    def run(
        self, argv: Sequence[str], *, data: bytes = b"", seconds: float | None = None
    ) -> Completed:
        """Run a command to its end, with ``data`` as its input.

        Args:
            argv: the command.
            data: all that it can read.
            seconds: its own limit, within that of the request.

        Raises:
            AgentRefused: the guest has no such program.
            GuestPanicked, VmError: the guest did not live to its end.
            TimedOut: it did not end in time, and was killed if the guest still could.
        """
        with self._explained(f"command {shlex.join(argv)!r}"):
            return self.agent.run(argv, data=data, cwd=self._folder, timeout=self._left(seconds))

    def stream(
        self,
        argv: Sequence[str],
        output: Receiver,
        *,
        stdin: int | None = None,
        seconds: float | None = None,
    ) -> int:
        """Run a command to its end and pass everything on as it comes; gives its exit status.

        Args:
            argv: the command.
            output: gets (``stdout`` or ``stderr``, bytes).
            stdin: descriptor whose bytes it reads; None gives it an empty input.
            seconds: its own limit, within that of the request.

        Raises:
            AgentRefused, GuestPanicked, VmError, TimedOut: as of ``run``.
        """
        with self._explained(f"command {shlex.join(argv)!r}"):
            return self.agent.stream(
                argv, output, stdin=stdin, cwd=self._folder, timeout=self._left(seconds)
            )

    def mount(self) -> None:
        """Mount the shared folder.

        Raises:
            VmError: the guest's kernel cannot.
            TimedOut: it took too long.
        """
        with self._explained("mount of the shared folder"):
            done = self.agent.run(["sh", "-c", MOUNT], timeout=self._left())
        if done.status:
            said = done.stderr.decode(errors="replace").strip()
            raise self.vm.failure(f"the shared folder cannot be mounted (needs 9p): {said}")

    def load(self, module: Module, seconds: float | None = None) -> None:
        """Load a module, after what it needs, within ``seconds`` and those of the request.

        Raises:
            ModuleRefused: the guest's kernel did not take it.
            GuestPanicked, VmError: the guest did not live to see it.
            TimedOut: its start took too long.
        """
        place = f"/run/{module.name}.ko"
        content, steps = b"", [[_MODPROBE, module.name, *module.parameters]]
        if module.file is not None:
            content = module.file.file.read_bytes()
            steps = [[_INSMOD, place, *module.parameters]]
            if needs := [name for name in module.file.needs if name not in self._brought]:
                steps.insert(0, [_MODPROBE, "-a", *needs])
        command = ["sh", "-c", f"cat > {place}; {' && '.join(map(shlex.join, steps))}"]
        with self._explained(f"load of module {module.name}"):
            done = self.agent.run(command, data=content, timeout=self._left(seconds))
        if done.status:
            said = done.stderr.decode(errors="replace").strip() or f"status {done.status}"
            wrong = f"module {module.name} does not load: {said}"
            raise self.vm.failure(wrong, ModuleRefused)
        if module.file is not None:
            self._brought.add(module.name)


@contextlib.contextmanager
def guest(request: Request, output: Output) -> Iterator[Guest]:
    """A guest for the block, and nothing of it afterwards.

    Raises:
        ConfigError: something in the request cannot be used; nothing was started.
        HostError, images.errors.HostError: this machine cannot do it.
        ModuleRefused, GuestPanicked, VmError: the guest did not come up.
        TimedOut: it did not come up in time.
    """
    made = prepare(request, output)
    steps = Steps(output.narration)
    end = time.monotonic() + request.seconds
    vm = VmSpec("guest", (accelerator.MDEV,), request.memory, request.cpus, request.iommu, ())
    with owned(_lab(vm, request.personality)) as lab, lab.folder.locked(vm.name):
        with steps("accelerator") as note:
            _start_accelerator(lab, request.personality)
            note.say(f"one mdev, {request.personality}")
        with steps("guest") as note:
            ready = Guest(boot(lab, vm, request, made, output, end), request, end)
            lab.mark_up()
            note.say(f"{vm.name} ({made.accel})")
        with contextlib.closing(ready.agent):
            if request.share is not None:
                ready.mount()
            for module in made.modules:
                with steps(f"module {module.name}"):
                    ready.load(module)
            yield ready


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request needs of this machine; nothing of it runs.

    Attributes:
        own: the folder of the operator's modules.
        modules: to load, in order.
        machine: what VMs are started with.
        accel: how QEMU runs guests, "kvm" or "tcg".
    """

    own: Modules | None
    modules: Sequence[Module]
    machine: Machine
    accel: str


def boot(lab: Lab, vm: VmSpec, request: Request, made: Prepared, output: Output, end: float) -> Vm:
    """Start a VM of a lab whose mdevs are there, and wait until its agent answers.

    Nothing is mounted or loaded yet.  ``end`` is when the time for that is over.

    Raises:
        GuestPanicked, VmError: the guest did not come up.
        TimedOut: it did not come up in time.
    """
    planned, machine = _plan(lab, vm, request, made.accel), made.machine
    if made.own is not None:
        initrd = lab.folder.file(vm.name, "initrd")
        payload.write(initrd, machine.initrd, made.own)
        machine = replace(machine, initrd=initrd)
    started = lab.start_vm(planned, machine)
    if planned.debugger is not None:
        started.wait_debugger(planned.debugger, max(_BREATH, end - time.monotonic()))
        output.say(attach(planned.debugger, machine.kernel))
    lab.wait_vm(vm.name, max(_BREATH, end - time.monotonic()))
    return started


def attach(debugger: Path, kernel: Path) -> str:
    """How to attach a debugger, in words.

    Args:
        debugger: QEMU's socket.
        kernel: bzImage, or the ELF file of Debian's.
    """
    built = kernel.absolute().parents
    symbols = next((folder / "vmlinux" for folder in built if (folder / "vmlinux").exists()), None)
    line = ["gdb", *([str(symbols)] if symbols else []), "-ex", f"target remote {debugger}"]
    return f"the guest waits for a debugger; attach, and continue:\n  {shlex.join(line)}"


def prepare(request: Request, output: Output) -> Prepared:
    """Look at everything that was asked for, and at what the machine has for it.

    Raises:
        ConfigError: something in the request cannot be used.
        HostError, images.errors.HostError: this machine cannot do it.
    """
    if request.share is not None and not request.share.is_dir():
        raise ConfigError("share", f"{request.share} is no folder")
    if request.tree is not None and request.kernel is None:
        raise ConfigError("modules", "they are of no use without the kernel that they belong to")
    own = None
    if request.kernel is not None:
        release = kernel_release(request.kernel)
        own = Modules.find(request.tree, release) if request.tree is not None else None
    if own is not None and 2 * own.size + _LEAST > request.memory:
        raise ConfigError(
            str(own.folder),
            f"{own.size} bytes of modules are too many for a guest of {request.memory} bytes; "
            "install them with INSTALL_MOD_STRIP=1, or give the guest more memory",
        )
    debian, progress = request.kernel is None, Console(output.err)
    modules = [Module.parse(text, debian=debian, progress=progress) for text in request.modules]
    wanted = {name for module in modules for name in module.wanted}
    known = {module.name for module in modules if module.file is not None}
    try:
        machine = guest_machine(output, wanted - known if debian else ())
    except NoModule as error:
        raise ConfigError("module", error.wrong) from None
    words = [word for word in machine.append if word != "quiet"]
    machine = replace(machine, append=(*words, "earlyprintk=ttyS0,115200"))
    machine = replace(machine, kernel=request.kernel or machine.kernel)
    return Prepared(own, modules, machine, pick_accelerator(machine, request.accel, output))


def _profile(personality: str) -> str:
    return accelerator.text([accelerator.whole(personality)], "64MiB")


def _lab(vm: VmSpec, personality: str) -> LabSpec:
    """A lab with that VM; its profile's file is not there."""
    try:
        return accelerator.lab_of(_profile(personality), vm.mdevs, [vm])
    except ConfigError as error:
        # The rest of the file is ours.
        raise ConfigError("personality", error.wrong) from None


def _start_accelerator(lab: Lab, personality: str) -> None:
    """Start the emulator, and make the mdev."""
    lab.spec.file.write_text(_profile(personality))
    lab.start_emulator()
    lab.create_mdevs()


def _plan(lab: Lab, vm: VmSpec, request: Request, accel: str) -> Plan:
    words = (*(("nokaslr",) if request.debugger else ()), *request.append)
    return replace(
        plan(lab.spec, vm, lab.folder, accel),
        kernel=words,
        share=None if request.share is None else request.share.absolute(),
        debugger=lab.folder.file(vm.name, "gdb.sock") if request.debugger else None,
    )
