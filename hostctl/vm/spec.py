"""What one QEMU process is made of, with every path known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHARE = "share"
"""The name by which a guest mounts the folder that it shares with the host."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The programs and images that every VM of this machine is started with.

    Attributes:
        qemu: the words that start QEMU, before its own options.
        environment: variables that it needs.
        kernel: the guest's kernel.
        initrd: the guest's file system, with the agent.
        append: words that this kernel and file system want on the kernel's command line.
    """

    qemu: tuple[str, ...]
    environment: Mapping[str, str]
    kernel: Path
    initrd: Path
    append: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A slice that the VM gets.

    Attributes:
        name: the mdev's; it becomes the device's id in QEMU.
        socket: the mdev's vfio-user socket.
    """

    name: str
    socket: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """One VM, with every path that its command line names.

    Attributes:
        memory: bytes.
        iommu: "intel", "amd", "virtio" or "none".
        kernel: words that its lab adds to the kernel's command line.
        slots: its slices, in order.
        accelerator: "kvm" or "tcg".
        agent: socket of the agent's port.
        qmp: socket of QEMU's monitor.
        console: log of the guest's serial port.
        log: log of QEMU's stderr.
        share: folder of the host that the guest can mount, by the tag `SHARE`.
        debugger: socket on which QEMU waits for a debugger before the guest's first instruction.
    """

    name: str
    memory: int
    cpus: int
    iommu: str
    kernel: tuple[str, ...]
    slots: tuple[Slot, ...]
    accelerator: str
    agent: Path
    qmp: Path
    console: Path
    log: Path
    share: Path | None = None
    debugger: Path | None = None
