"""The command line of a VM: nothing but its plan goes in."""

import json
from collections.abc import Mapping, Sequence

from guest.protocol import PORT
from hostctl.vm.spec import SHARE, Machine, Plan

# What QEMU's own manual asks for with an IOMMU for passed-through devices: caching-mode tells
# the VMM about every new mapping, as dma-remap does; intremap needs a split irqchip.
_IOMMUS: Mapping[str, Mapping[str, object]] = {
    "intel": {"driver": "intel-iommu", "caching-mode": True, "intremap": "on"},
    "amd": {"driver": "amd-iommu", "dma-remap": True},
    "virtio": {"driver": "virtio-iommu-pci", "bus": "pcie.0"},
}
_IOMMU_WORDS = {"intel": ["intel_iommu=on"]}


def _value(value: object) -> str:
    """A value among QEMU's options, with its commas doubled."""
    return str(value).replace(",", ",,")


def _options(**values: object) -> str:
    """QEMU's ``key=value,...``; ``_`` in keys becomes ``-``."""
    return ",".join(f"{key.replace('_', '-')}={_value(value)}" for key, value in values.items())


def device(**values: object) -> list[str]:
    """A device in JSON, where sockets and booleans have types."""
    return ["-device", json.dumps({key.replace("_", "-"): value for key, value in values.items()})]


def _slots(plan: Plan) -> list[str]:
    """One root port per slice: behind one, a device shows all of its 4 KiB of config space."""
    words = []
    for at, slot in enumerate(plan.slots):
        port = f"slot{at}"
        words += device(driver="pcie-root-port", id=port, bus="pcie.0", chassis=at + 1, slot=at + 1)
        words += device(
            driver="vfio-user-pci",
            id=slot.name,
            bus=port,
            socket={"type": "unix", "path": str(slot.socket)},
        )
    return words


def _share(plan: Plan) -> list[str]:
    """The shared folder, whose files are made and owned by whoever runs QEMU."""
    if plan.share is None:
        return []
    # Both have an option with an underscore, unlike the rest of QEMU.
    folder = f"local,id={SHARE},path={_value(plan.share)},security_model=none"
    device = {"driver": "virtio-9p-pci", "bus": "pcie.0", "fsdev": SHARE, "mount_tag": SHARE}
    return ["-fsdev", folder, "-device", json.dumps(device)]


def _debugger(plan: Plan) -> list[str]:
    """A socket for a debugger, and a guest that does nothing until one lets it go on."""
    if plan.debugger is None:
        return []
    return ["-S", "-gdb", f"unix:{_value(plan.debugger)},server=on,wait=off"]


def _cpu(accelerator: str) -> Mapping[str, str]:
    if accelerator == "kvm":
        return {"machine": "q35,kernel-irqchip=split", "accel": "kvm", "cpu": "host"}
    return {"machine": "q35", "accel": "tcg", "cpu": "max"}


def argv(plan: Plan, machine: Machine) -> list[str]:
    """The whole command line of a VM.

    Guest memory is a shared memfd: only then can the emulator reach it.  The IOMMU
    comes before the devices that it guards.
    """
    choice = _cpu(plan.accelerator)
    iommu = _IOMMUS.get(plan.iommu)
    append = [*machine.append, *_IOMMU_WORDS.get(plan.iommu, []), *plan.kernel]
    return [
        *machine.qemu,
        *("-name", _options(guest=plan.name)),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", f"{choice['machine']},memory-backend=ram"),
        *("-accel", choice["accel"]),
        *("-cpu", choice["cpu"]),
        *("-smp", str(plan.cpus)),
        *("-m", _options(size=f"{plan.memory}B")),
        *(
            "-object",
            _options(qom_type="memory-backend-memfd", id="ram", size=plan.memory, share="on"),
        ),
        *("-qmp", f"unix:{_value(plan.qmp)},server=on,wait=off"),
        *("-chardev", _options(backend="file", id="console", path=plan.console)),
        *("-serial", "chardev:console"),
        *(["-device", json.dumps(iommu)] if iommu else []),
        *device(driver="virtio-serial-pci", id="serial", bus="pcie.0"),
        *(
            "-chardev",
            _options(backend="socket", id="agent", path=plan.agent, server="on", wait="off"),
        ),
        *device(driver="virtserialport", bus="serial.0", chardev="agent", name=PORT),
        *_slots(plan),
        *_share(plan),
        *_debugger(plan),
        *("-kernel", str(machine.kernel)),
        *("-initrd", str(machine.initrd)),
        *("-append", " ".join(append)),
    ]


def pasteable(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The words of a command line that works wherever it is pasted: variables come first."""
    variables = [f"{name}={value}" for name, value in sorted(environment.items())]
    return ["env", *variables, *words] if variables else list(words)
