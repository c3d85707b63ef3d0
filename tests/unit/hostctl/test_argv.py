"""Command lines of VMs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.vm.argv import argv
from hostctl.vm.spec import Machine, Plan, Slot

MACHINE = Machine(
    qemu=("/root/qemu-system-x86_64", "-L", "/root/share"),
    environment={"QEMU_MODULE_DIR": "/root/modules"},
    kernel=Path("/images/vmlinuz"),
    initrd=Path("/images/initrd"),
    append=("console=ttyS0", "quiet"),
)
PLAN = Plan(
    name="red",
    memory=512 << 20,
    cpus=2,
    iommu="intel",
    kernel=("loglevel=7",),
    slots=(Slot("red", Path("/run/a.sock")), Slot("extra", Path("/run/b.sock"))),
    accelerator="tcg",
    agent=Path("/run/red.agent.sock"),
    qmp=Path("/run/red.qmp.sock"),
    console=Path("/run/red.console.log"),
    log=Path("/run/red.qemu.log"),
)


def devices(line: list[str]) -> list[dict[str, object]]:
    return [json.loads(word) for at, word in enumerate(line) if line[at - 1] == "-device"]


def after(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def test_line_starts_with_the_machines_own_words() -> None:
    assert argv(PLAN, MACHINE)[:3] == list(MACHINE.qemu)


def test_memory_is_a_shared_memfd_of_the_vms_size() -> None:
    line = argv(PLAN, MACHINE)
    memory = after(line, "-object")
    assert "memory-backend-memfd" in memory
    assert f"size={512 << 20}" in memory
    assert "share=on" in memory
    assert "memory-backend=ram" in after(line, "-machine")


def test_iommu_comes_before_every_device_it_guards() -> None:
    found = devices(argv(PLAN, MACHINE))
    assert found[0] == {"driver": "intel-iommu", "caching-mode": True, "intremap": "on"}
    assert "intel_iommu=on" in after(argv(PLAN, MACHINE), "-append").split()


@pytest.mark.parametrize(
    ("iommu", "driver"), [("amd", "amd-iommu"), ("virtio", "virtio-iommu-pci")]
)
def test_other_iommus_come_first_and_need_no_kernel_word(iommu: str, driver: str) -> None:
    line = argv(replace(PLAN, iommu=iommu), MACHINE)
    assert devices(line)[0]["driver"] == driver
    assert "iommu" not in after(line, "-append")


def test_without_iommu_neither_device_nor_kernel_word() -> None:
    line = argv(replace(PLAN, iommu="none"), MACHINE)
    assert not any("iommu" in str(device["driver"]) for device in devices(line))
    assert "intel_iommu=on" not in after(line, "-append")


def test_each_slice_has_a_root_port_of_its_own() -> None:
    found = devices(argv(PLAN, MACHINE))
    ports = {d["id"]: d for d in found if d["driver"] == "pcie-root-port"}
    slices = [d for d in found if d["driver"] == "vfio-user-pci"]
    assert [d["bus"] for d in slices] == list(ports)
    assert len({(d["chassis"], d["slot"]) for d in ports.values()}) == 2
    assert slices[0]["socket"] == {"type": "unix", "path": "/run/a.sock"}
    assert [d["id"] for d in slices] == ["red", "extra"]


def test_kernel_line_ends_with_the_labs_own_words() -> None:
    assert after(argv(PLAN, MACHINE), "-append") == "console=ttyS0 quiet intel_iommu=on loglevel=7"


def test_kvm_with_interrupt_remapping_has_a_split_irqchip() -> None:
    line = argv(replace(PLAN, accelerator="kvm"), MACHINE)
    assert "kernel-irqchip=split" in after(line, "-machine")
    assert (after(line, "-accel"), after(line, "-cpu")) == ("kvm", "host")
    assert after(argv(PLAN, MACHINE), "-accel") == "tcg"


def test_comma_in_a_path_is_doubled_in_options() -> None:
    line = argv(replace(PLAN, qmp=Path("/run/a,b.sock")), MACHINE)
    assert after(line, "-qmp").startswith("unix:/run/a,,b.sock,")


def test_shared_folder_and_debugger_are_there_only_if_they_are_wanted() -> None:
    plain = argv(PLAN, MACHINE)
    assert not {"-S", "-gdb", "-fsdev"} & set(plain)
    wanted = replace(PLAN, share=Path("/home/me,you"), debugger=Path("/run/gdb.sock"))
    line = argv(wanted, MACHINE)
    assert after(line, "-fsdev") == "local,id=share,path=/home/me,,you,security_model=none"
    assert {"driver": "virtio-9p-pci", "bus": "pcie.0", "fsdev": "share", "mount_tag": "share"} in (
        devices(line)
    )
    assert after(line, "-gdb") == "unix:/run/gdb.sock,server=on,wait=off"
    assert "-S" in line
