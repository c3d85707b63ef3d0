"""The image boots for real, and what the recipe promises is there."""

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from images.build import Image, build
from images.recipe import Recipe
from images.sysroot import Sysroot, find_qemu

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

PATIENCE = 90.0
"""Seconds that a guest may take to its agent's first answer; 5 is usual."""


class Vm:
    """A QEMU process without acceleration, and the agent in its guest."""

    def __init__(self, image: Image, folder: Path) -> None:
        qemu = find_qemu()
        self.log = folder / "serial"
        self._socket = folder / "agent.sock"
        self._output = (folder / "qemu").open("wb")
        self.process = subprocess.Popen(
            [
                *qemu.argv_prefix,
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-machine", "q35,accel=tcg,kernel-irqchip=split,memory-backend=ram"),
                *("-cpu", "max", "-m", "384M"),
                *("-object", "memory-backend-memfd,id=ram,size=384M,share=on"),
                *("-device", "intel-iommu,caching-mode=on,intremap=on"),
                *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
                *("-append", f"{image.line} intel_iommu=on"),
                *("-serial", f"file:{self.log}"),
                *("-device", "virtio-serial-pci"),
                *("-chardev", f"socket,id=agent,path={self._socket},server=on,wait=off"),
                *("-device", f"virtserialport,chardev=agent,name={image.port}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **qemu.env},
        )
        self._agent: socket.socket | None = None
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_why: object) -> None:
        if self._agent is not None:
            self._lines.close()
            self._agent.close()
        self.process.kill()
        self.process.wait()
        self._output.close()

    def connect(self) -> None:
        """Reach the agent's port; QEMU buffers until the guest listens."""
        deadline = time.monotonic() + PATIENCE
        self._agent = socket.socket(socket.AF_UNIX)
        self._agent.settimeout(PATIENCE)
        while self._agent.connect_ex(str(self._socket)):
            assert self.process.poll() is None, "QEMU ended"
            assert time.monotonic() < deadline, "QEMU did not listen"
            time.sleep(0.02)
        self._lines = self._agent.makefile("rb")

    def read(self) -> dict:
        """The agent's next message."""
        return json.loads(self._lines.readline())

    def call(self, name: str, **arguments: object) -> dict:
        """Execute ``name`` and return what it returns; events before the answer are dropped."""
        self._number += 1
        message = {"execute": name, "arguments": arguments, "id": self._number}
        self._agent.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self.read()
            if answer.get("id") == self._number:
                assert "return" in answer, answer
                return answer["return"]

    def run(self, *argv: str) -> tuple[int, str]:
        """Run a command in the guest: its exit status, and all that it wrote."""
        pid = self.call("exec", argv=list(argv))["pid"]
        output = b""
        while True:
            event = self.read()
            if event.get("event") == "output" and event["data"]["pid"] == pid:
                output += base64.b64decode(event["data"]["data"])
            if event.get("event") == "exit" and event["data"]["pid"] == pid:
                return event["data"]["status"], output.decode()


@pytest.fixture(scope="module")
def image() -> Image:
    return build()


@pytest.fixture(scope="module")
def vm(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """One guest for every test that leaves it as it was."""
    with Vm(image, tmp_path_factory.mktemp("vm")) as running:
        running.connect()
        assert running.call("ping") == {}
        yield running


def test_guest_runs_the_kernel_of_the_private_root(vm: Vm, image: Image):
    assert vm.call("info")["kernel"] == image.release == Sysroot.ensure().kernel_release


def test_guest_has_loaded_the_modules_of_the_recipe(vm: Vm):
    assert set(Recipe().loaded) <= set(vm.call("info")["modules"])


def test_guest_kernel_is_not_tainted(vm: Vm):
    assert vm.run("cat", "/proc/sys/kernel/tainted") == (0, "0\n")


@pytest.mark.parametrize("module", sorted({*Recipe().modules} - {"idxd"}))
def test_guest_can_load_every_other_module(vm: Vm, module: str):
    assert vm.run("modprobe", module) == (0, "")


def test_idxd_refuses_a_processor_without_movdir64b_and_nothing_else(vm: Vm):
    status, output = vm.run("modprobe", "idxd")
    assert (status, "No such device" in output) == (1, True)


def test_lspci_knows_the_names_of_devices(vm: Vm):
    status, output = vm.run("lspci", "-vv")
    assert status == 0
    assert "Red Hat, Inc. Virtio console" in output


def test_guest_has_iommu_groups_behind_the_virtual_iommu(vm: Vm):
    status, output = vm.run("ls", "/sys/kernel/iommu_groups")
    assert status == 0
    assert "0" in output.split()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("aead", "gcm(aes)"), ("hash", "sha256"), ("hash", "crc32c"), ("skcipher", "cbc(aes)")],
)
def test_guest_kernel_offers_the_algorithm(vm: Vm, kind: str, name: str):
    program = f"import socket as s; s.socket(s.AF_ALG, s.SOCK_SEQPACKET).bind(({kind!r}, {name!r}))"
    assert vm.run("python3", "-c", program) == (0, "")


def test_guest_python_has_what_an_agent_needs(vm: Vm):
    modules = (
        "argparse, asyncio, base64, collections, contextlib, ctypes, dataclasses, enum, fcntl, "
        "hashlib, json, logging, mmap, os, pathlib, queue, random, selectors, shutil, signal, "
        "socket, struct, subprocess, tempfile, threading, time, traceback, typing, zlib"
    )
    program = f"import {modules}; print(hashlib.sha256(b'').hexdigest()[:8], zlib.crc32(b'a'))"
    assert vm.run("python3", "-c", program) == (0, "e3b0c442 3904355907\n")


def test_shell_has_its_tools_on_the_path(vm: Vm):
    assert vm.run("sh", "-c", "id -un; hostname; seq 3 | tac | tr '\\n' ' '; false") == (
        1,
        "root\nguest\n3 2 1 ",
    )


def test_poweroff_ends_the_vm_with_status_0(image: Image, tmp_path: Path):
    with Vm(image, tmp_path) as running:
        running.connect()
        running.call("poweroff")
        assert running.process.wait(PATIENCE) == 0


def test_agent_that_fails_says_so_on_the_console_and_ends_the_vm(tmp_path: Path):
    agent = tmp_path / "guest"
    agent.mkdir()
    (agent / "__init__.py").write_text("")
    (agent / "__main__.py").write_text("raise SystemExit('no reason at all')\n")
    with Vm(build(agent=agent), tmp_path) as running:
        assert running.process.wait(PATIENCE) == 0
        said = running.log.read_text()
    assert "no reason at all" in said
    assert "mdevemu: the agent ended with exit status 1" in said


def test_image_made_twice_is_the_same_bytes(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sysroot = Sysroot.ensure()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = build(sysroot=sysroot)
    assert again.initrd != image.initrd
    assert again.initrd.read_bytes() == image.initrd.read_bytes()
    assert build(sysroot=sysroot) == again


def test_private_qemu_answers_and_has_the_device():
    qemu = Sysroot.ensure().qemu()
    assert b"QEMU emulator version" in qemu.run("--version")
    assert b"socket=" in qemu.run("-device", "vfio-user-pci,help")


def test_private_qemu_finds_its_modules():
    qemu = Sysroot.ensure().qemu()
    machine = ("-machine", "none", "-accel", "qtest", "-display", "none", "-monitor", "stdio")
    done = subprocess.run(
        [*qemu.argv_prefix, *machine],
        input=b"quit\n",
        capture_output=True,
        env={**os.environ, **qemu.env},
    )
    assert (done.returncode, done.stderr) == (0, b"")
